"""Every way in which a selection's file can be wrong."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seal.artifacts.selection import Selection, load_selection, save_selection


@pytest.mark.parametrize("ids", [("a", "b", "b-1"), ("a",), ()])
def test_the_file(tmp_path, ids):
    path = tmp_path / "selection.parquet"
    save_selection(Selection(ids, 7), path)
    assert load_selection(path) == Selection(ids, 7)
    assert pq.read_table(path).column_names == ["id"]
    save_selection(Selection(ids, 7), tmp_path / "other")
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


FOREIGN = [
    (pa.table({"id": ["a"]}), "NoneType"),
    (pa.table({"id": ["a"]}).replace_schema_metadata({"pandas": "{}"}), "num_pool"),
    (pa.table({"id": ["a"]}).replace_schema_metadata({"num_pool": "many"}), "many"),
    (pa.table({"key": ["a"]}).replace_schema_metadata({"num_pool": "3"}), '"id"'),
]


@pytest.mark.parametrize(("table", "reason"), FOREIGN)
def test_a_table_of_something_else(tmp_path, table, reason):
    path = tmp_path / "selection.parquet"
    pq.write_table(table, path)
    place = re.escape(str(path))
    with pytest.raises(
        ValueError, match=rf"^{place}: not a readable selection \(.*{reason}.*Select from the rank"
    ):
        load_selection(path)


@pytest.mark.parametrize("content", [b"", b"id\na\n", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_file_that_is_no_parquet(tmp_path, content):
    path = tmp_path / "selection.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)not a readable selection .*Select from the rank"):
        load_selection(path)
