import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seal.artifacts.selection import Selection, load_selection, save_selection


def test_round_trip(tmp_path):
    selection = Selection(("a", "b"), 7)
    save_selection(selection, tmp_path / "s.parquet")
    assert load_selection(tmp_path / "s.parquet") == selection


def test_files_that_are_no_selection(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "foreign.parquet")
    for name in ("nowhere.parquet", "foreign.parquet"):
        with pytest.raises(ValueError, match=rf"{name}: not a readable selection"):
            load_selection(tmp_path / name)
