"""Arrays per row on disk: what is computed once, what is gone on with, what is refused."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seal.artifacts.row_table import Row, RowTable, build_table

IDS = ["d", "a", "e", "b", "c"]
VALUES = [[1.0, 2.0], [3.0], [], [4.0, 5.0, 6.0], [7.0]]
IDENTITY = {"reading": {"kind": "test", "betas": (0.9, 0.95)}, "rows": "abc"}


class Filling:
    """Computes rows backwards, and remembers which were asked for."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: list[list[int]] = []
        self.fails_at = fails_at

    def __call__(self, places: Sequence[int]) -> Iterator[tuple[int, Row]]:
        self.calls.append(list(places))
        for place in reversed(places):
            if place == self.fails_at:
                raise KeyboardInterrupt
            values = np.array(VALUES[place], dtype=np.float32)
            yield place, {"value": values, "place": np.array([place])}


def never(_places: Sequence[int]) -> Iterator[tuple[int, Row]]:
    pytest.fail("rows were computed again")


def build(folder: Path | None, fill=never, identity=IDENTITY, ids=IDS, rows: int = 2) -> RowTable:
    return build_table(folder, identity, ids, fill, rows_per_shard=rows)


def check(table: RowTable) -> None:
    assert table.ids == tuple(IDS)
    assert table.lengths("value").tolist() == [2, 1, 0, 3, 1]
    assert table.flat("value").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert table.flat("value").dtype == np.float32
    assert table.flat("place").tolist() == [0, 1, 2, 3, 4]
    assert table.order(["a", "c", "d"]).tolist() == [1, 4, 0]
    assert [scalar.as_py() for scalar in table.columns["value"]] == VALUES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tables" / "x"


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("shard-*"))


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
@pytest.mark.parametrize("on_disk", [True, False])
def test_what_was_computed_is_what_is_read(folder, rows, on_disk):
    filling = Filling()
    check(build(folder if on_disk else None, filling, rows=rows))
    assert [place for call in filling.calls for place in call] == [0, 1, 2, 3, 4]
    assert folder.exists() == on_disk


def test_a_finished_table_is_read_and_not_computed(folder):
    build(folder, Filling())
    assert shards(folder) == [f"shard-0000{number}.arrow" for number in range(3)]
    check(build(folder))
    check(build(folder, rows=4))  # how it was cut into shards is the writer's affair
    assert list(folder.parent.iterdir()) == [folder]


def test_an_interrupted_table_goes_on_at_the_first_missing_shard(folder):
    with pytest.raises(KeyboardInterrupt):
        build(folder, Filling(fails_at=2))
    assert not folder.exists()
    filling = Filling()
    check(build(folder, filling))
    assert filling.calls == [[2, 3], [4]]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("changed", [{"identity": {**IDENTITY, "rows": "abd"}}, {"rows": 3}])
def test_what_is_unfinished_and_of_another_kind_is_cleared_away(folder, changed):
    with pytest.raises(KeyboardInterrupt):
        build(folder, Filling(fails_at=2))
    filling = Filling()
    check(build(folder, filling, **changed))
    assert [place for call in filling.calls for place in call] == [0, 1, 2, 3, 4]


def test_what_is_unfinished_and_of_an_unreadable_kind_is_cleared_away(folder):
    """As a power cut may leave it."""
    with pytest.raises(KeyboardInterrupt):
        build(folder, Filling(fails_at=2))
    (partial,) = folder.parent.iterdir()
    (partial / "identity.json").write_text("")
    filling = Filling()
    check(build(folder, filling))
    assert [place for call in filling.calls for place in call] == [0, 1, 2, 3, 4]


def test_a_half_written_shard_is_written_again(folder):
    with pytest.raises(KeyboardInterrupt):
        build(folder, Filling(fails_at=2))
    (partial,) = folder.parent.iterdir()
    (partial / "shard-00000.arrow").rename(partial / "shard-00000.partial")
    check(build(folder, Filling()))
    assert shards(folder)[0] == "shard-00000.arrow"


def test_a_finished_table_of_another_identity_is_refused(folder):
    build(folder, Filling())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=f"{folder} holds another table than asked for. Delete it"):
        build(folder, identity={**IDENTITY, "rows": "abd"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_identity_is_compared_as_json(folder):
    build(folder, Filling())
    record = json.loads((folder / "provenance.json").read_text())
    assert record["identity"]["reading"]["betas"] == [0.9, 0.95]
    check(build(folder))  # the tuple there is the list here


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble_the_offsets(path: Path) -> None:
    """The list offsets 0, 1, 4 of the shard's second column become 0, 2^40, 4."""
    content = path.read_bytes()
    right, wrong = (np.array(ends, "<i8").tobytes() for ends in ([0, 0, 3], [0, 2**40, 3]))
    assert content.count(right) == 1
    path.write_bytes(content.replace(right, wrong))


@pytest.mark.parametrize("damage", [cut_off, empty, garble_the_offsets])
def test_a_damaged_shard_is_named(folder, damage):
    build(folder, Filling())
    path = folder / "shard-00001.arrow"
    damage(path)
    with pytest.raises(ValueError, match=r"not a readable part of a table .* Delete") as caught:
        build(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("gone", [[1], [2], [0, 1, 2]])
def test_a_missing_shard_is_told(folder, gone):
    build(folder, Filling())
    for number in gone:
        (folder / f"shard-{number:05d}.arrow").unlink()
    with pytest.raises(ValueError, match=r"does not hold the 5 rows .* Delete it to compute"):
        build(folder)


def test_a_table_is_read_through_memory_mapping(folder):
    def large(places: Sequence[int]) -> Iterator[tuple[int, Row]]:
        yield from ((place, {"value": np.full(1_000_000, place, np.float32)}) for place in places)

    build(folder, large)
    before = pa.total_allocated_bytes()
    table = build(folder)
    assert pa.total_allocated_bytes() - before < 100_000  # it holds 20 million
    last = table.columns["value"][4].values.to_numpy(zero_copy_only=True)
    assert last[-1] == 4
    assert not last.flags.writeable


def test_a_number_that_was_changed_is_told(folder):
    """Arrow reads it without a word: only the hash tells."""
    build(folder, Filling())
    shard = folder / "shard-00000.arrow"
    whole = bytearray(shard.read_bytes())
    whole[whole.index(np.array([1, 2, 3], dtype=np.float32).tobytes())] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(ValueError, match=r"shard-00000\.arrow was changed; provenance\.json in"):
        build(folder)
