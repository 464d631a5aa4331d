"""Rows in record batches: the same rows back, from memory and from a file."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.artifacts import records as module
from seal.artifacts.records import RecordWriter, batched, open_records

SCHEMA = pa.schema([pa.field("name", pa.string()), pa.field("numbers", pa.list_(pa.int32()))])
ROWS = [("a", [1, 2]), (None, []), ("c", [3]), ("d", [4]), ("e", [5])]


@pytest.fixture(autouse=True)
def two_rows_a_batch(monkeypatch):
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", 2)


def written(path, rows=ROWS, num_bytes=1):
    with RecordWriter(SCHEMA, path) as writer:
        for row in rows:
            writer.add(row, num_bytes)
        return writer.finish()


@pytest.mark.parametrize("name", [None, "rows.arrow"])
def test_rows_come_back_in_order(tmp_path, name):
    found = written(name and tmp_path / name)
    assert (len(found), found.starts) == (5, [0, 2, 4, 5])
    assert list(found.stream(["name", "numbers"])) == ROWS
    assert list(found.stream(["numbers"])) == [(numbers,) for _, numbers in ROWS]
    places = [found.find(place) for place in range(5)]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [part.to_pylist() for part in found.parts("name")] == [["a", None], ["c", "d"], ["e"]]


def test_a_file_is_read_again_as_it_was_written(tmp_path):
    written(tmp_path / "rows.arrow")
    before = pa.total_allocated_bytes()
    again = open_records(tmp_path / "rows.arrow")
    assert pa.total_allocated_bytes() == before, "it is mapped, not copied"
    assert list(again.stream(["name", "numbers"])) == ROWS


def test_large_rows_fill_a_batch_early(monkeypatch):
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", 100)
    monkeypatch.setattr(module, "_BYTES_PER_BATCH", 30)
    assert written(None, num_bytes=10).starts == [0, 3, 5]


def test_no_rows(tmp_path):
    for path in (None, tmp_path / "rows.arrow"):
        found = written(path, rows=[])
        assert (len(found), list(found.stream(["name"]))) == (0, [])


def test_a_writer_that_fails_closes_its_file(tmp_path):
    with RecordWriter(SCHEMA, tmp_path / "rows.arrow") as writer:
        writer.add(("a", [2**40]), 1)
        with pytest.raises(pa.ArrowInvalid):
            writer.finish()
    assert writer._sink.closed


@given(st.lists(st.integers(), max_size=10), st.integers(1, 4))
def test_batches_are_the_rows_cut(rows, num):
    parts = list(batched(rows, num))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) == num for part in parts[:-1])
    assert all(parts)
