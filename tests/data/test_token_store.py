"""Tokenized samples as rows of an Arrow file: the same arrays as were written."""

import numpy as np
import pyarrow as pa
import pytest

from seal.artifacts import records
from seal.artifacts.records import RecordWriter, open_records
from seal.data.token_store import TOKEN_SCHEMA, EncodedRows, lengths_of

LENGTHS = (3, 9, 1, 17, 4)
RNG = np.random.default_rng(0)
ROWS = [
    (f"id-{i}", RNG.integers(0, 2**31, n).astype(np.int32), RNG.random(n) < 0.5, i % 2 == 0)
    for i, n in enumerate(LENGTHS)
]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_ROWS_PER_BATCH", 2)
    with RecordWriter(TOKEN_SCHEMA, tmp_path / "tokens.arrow") as writer:
        for row in ROWS:
            writer.add(row, 1)
        writer.finish()
    return EncodedRows(open_records(tmp_path / "tokens.arrow"))


def same(found, expected):
    key, input_ids, mask, is_truncated = expected
    assert (found.id, found.is_truncated) == (key, is_truncated)
    assert (found.input_ids.dtype, found.response_mask.dtype) == (np.int32, bool)
    np.testing.assert_array_equal(found.input_ids, input_ids)
    np.testing.assert_array_equal(found.response_mask, mask)
    return True


def test_rows_come_back_as_they_were(rows):
    assert len(rows) == 5
    assert all(map(same, rows, ROWS))
    assert all(same(rows[i], ROWS[i]) for i in range(-5, 5))
    assert all(map(same, rows[3:0:-1], ROWS[3:0:-1]))
    with pytest.raises(IndexError):
        rows[5]


def test_ids_and_lengths_need_no_rows(rows, monkeypatch):
    monkeypatch.setattr(EncodedRows, "_at", lambda *_: pytest.fail("a row was made"))
    assert rows.ids == tuple(row[0] for row in ROWS)
    assert lengths_of(rows).tolist() == list(LENGTHS)
    some = rows.take(np.array([4, 0]))
    assert (some.ids, lengths_of(some).tolist()) == (("id-4", "id-0"), [4, 3])


def test_lengths_of_any_rows(rows):
    assert lengths_of(list(rows)).tolist() == list(LENGTHS)
    assert lengths_of([]).dtype == np.int64


def test_some_of_some(rows):
    some = rows.take(np.array([4, 2, 0])).take(np.array([2, 0]))
    assert all(map(same, some, [ROWS[0], ROWS[4]]))
    assert same(some[1], ROWS[4])


def test_equality_is_of_every_array(rows):
    def written(place, change):
        with RecordWriter(TOKEN_SCHEMA, None) as writer:
            for i, row in enumerate(ROWS):
                writer.add(change(*row) if i == place else row, 1)
            return EncodedRows(writer.finish())

    assert rows == written(None, None)
    assert rows.take(np.array([0, 2])) == rows[:4:2] != rows[:3]
    assert rows != list(rows), "rows are equal to rows only"
    for change in (
        lambda key, ids, mask, cut: (key + "x", ids, mask, cut),
        lambda key, ids, mask, cut: (key, ids + 1, mask, cut),
        lambda key, ids, mask, cut: (key, ids, ~mask, cut),
        lambda key, ids, mask, cut: (key, ids, mask, not cut),
    ):
        assert rows != written(3, change)


def test_arrays_are_views_that_nobody_can_write_to(rows):
    before = pa.total_allocated_bytes()
    kept = [row.input_ids for row in rows]
    assert pa.total_allocated_bytes() == before, "the file is mapped, not copied"
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0] = 1
