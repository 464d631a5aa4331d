"""Parquet, folders of parts and saved data sets: which columns are read, named or refused."""

import json
import logging
from datetime import date, datetime
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seal.data.arrow_rows import describe_left_out
from seal.data.folders import files_behind, source_hash
from seal.data.load import DataSpec, load
from seal.data.readers import read_rows
from seal.data.sample import Message

PAIR = {"prompt": ["a", "b"], "completion": ["c", "d"]}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def save(path, **columns):
    pq.write_table(pa.table({**PAIR, **columns}), path)
    return str(path)


def samples(path, **spec):
    return load([DataSpec(path=str(path), **spec)], name="pool")


BYTES = {
    "binary": pa.array([b"\0\xff", None]),
    "large": pa.array([b"\0", b""], pa.large_binary()),
    "fixed": pa.array([b"ab", b"cd"], pa.binary(2)),
    "image": pa.array([{"bytes": b"x", "path": "p"}, None]),
    "list": pa.array([[b"x"], []]),
    "map": pa.array([[("k", b"x")], []], pa.map_(pa.string(), pa.binary())),
    "dictionary": pa.array([b"x", b"y"]).dictionary_encode(),
}


@pytest.mark.parametrize("name", BYTES)
def test_a_column_of_bytes_is_named_and_the_rest_is_read(tmp_path, caplog, name):
    path = save(tmp_path / "x.parquet", other=BYTES[name], n=[1, 2])
    with caplog.at_level(logging.WARNING):
        found = samples(path)
    assert [row for _, row in found.rows.items()] == [
        {"prompt": "a", "completion": "c", "n": 1},
        {"prompt": "b", "completion": "d", "n": 2},
    ]
    (said,) = (record.getMessage() for record in caplog.records if record.levelno > logging.INFO)
    assert said.startswith(f"pool: {path}: not read: 'other' (")
    assert said.endswith(
        "will be missing where the rows are written again (selected.jsonl, exports)"
    )


def test_all_other_types_are_kept(tmp_path, caplog):
    columns = {
        "decimal": [Decimal("1.50"), None],
        "moment": [datetime(2026, 1, 2, 3), None],
        "day": [date(2026, 1, 2), None],
        "nanoseconds": pa.array([1, None], pa.timestamp("ns")),
        "duration": pa.array([5, None], pa.duration("s")),
        "struct": [{"a": [1]}, None],
        "large": pa.array([["x"], None], pa.large_list(pa.large_string())),
        "dictionary": pa.array(["x", None]).dictionary_encode(),
        "null": pa.nulls(2),
        "half": pa.array([0.5, None], pa.float32()).cast(pa.float16()),
        "truth": [True, None],
        "nan": [float("nan"), float("inf")],
        "with.dot": ["x", None],
        "view": pa.array(["x", None], pa.string_view()),
    }
    found = samples(save(tmp_path / "x.parquet", **columns))
    first, second = (row for _, row in found.rows.items())
    assert first == {
        "prompt": "a", "completion": "c", "decimal": "1.50", "moment": "2026-01-02 03:00:00",
        "day": "2026-01-02", "nanoseconds": "1970-01-01 00:00:00.000000001", "duration": "0:00:05",
        "struct": {"a": [1]}, "large": ["x"], "dictionary": "x", "null": None, "half": 0.5,
        "truth": True, "nan": None, "with.dot": "x", "view": "x",
    }  # fmt: skip
    assert [name for name, value in second.items() if value is not None] == ["prompt", "completion"]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


FAR = pa.array([10**17, 0], pa.timestamp("ms"))  # the first is in a year beyond 3,000,000


def no_utf8():
    parts = [
        None,
        pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])),
        pa.py_buffer(b"\xffx"),
    ]
    return pa.Array.from_buffers(pa.string(), 2, parts)


@pytest.mark.parametrize("kind", ["file", "folder", "saved"])
@pytest.mark.parametrize("column", ["date", "text"])
def test_a_value_that_cannot_be_read_costs_its_row_only_where_it_is_needed(
    tmp_path, caplog, kind, column
):
    table = pa.table({**PAIR, "x": FAR if column == "date" else no_utf8()})
    path = tmp_path / "x.parquet"
    if kind == "saved":
        datasets.Dataset(table).save_to_disk(path)
    elif kind == "folder":
        path.mkdir()
        pq.write_table(table, path / "a.parquet")
    else:
        pq.write_table(table, path)
    with caplog.at_level(logging.WARNING):
        first, second = samples(path).rows.values()
    kept = "1970-01-01 00:00:00" if column == "date" else "x"
    assert (first, second) == (
        {"prompt": "a", "completion": "c"}, {"prompt": "b", "completion": "d", "x": kept},
    )  # fmt: skip
    (said,) = (record.getMessage() for record in caplog.records if record.levelno > logging.INFO)
    assert "the column 'x' cannot be read in 1 rows and is missing there (first: " in said
    assert "row 1: " in said
    with pytest.raises(ValueError, match="row 1: column 'x' cannot be read: "):
        samples(path, source="x")


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow"])
def test_a_data_set_that_gives_tensors_is_read_as_it_is_stored(tmp_path, kind):
    rows = [{"prompt": "a", "completion": "b", "n": [1, 2]}, {"prompt": "c", "completion": "d"}]
    datasets.Dataset.from_list(rows).with_format(kind).save_to_disk(tmp_path / "x")
    expected = [rows[0], {**rows[1], "n": None}]
    assert [row for _, row in samples(tmp_path / "x").rows.items()] == expected


def test_bytes_in_a_later_part_are_named(tmp_path, caplog):
    (tmp_path / "x.parquet").mkdir()
    save(tmp_path / "x.parquet" / "a.parquet", n=[1, 2])
    pq.write_table(
        pa.table({"prompt": ["e"], "completion": ["f"], "n": [b"x"]}),
        tmp_path / "x.parquet" / "b.parquet",
    )
    with caplog.at_level(logging.WARNING):
        assert len(samples(tmp_path / "x.parquet").samples) == 3
    assert "not read: 'n' (binary)" in caplog.text


def test_a_large_dictionary_is_no_large_row(tmp_path, monkeypatch):
    monkeypatch.setattr("seal.data.arrow_rows.MAX_ROW_BYTES", 200)
    words = pa.array([f"word {number}" for number in range(100)]).dictionary_encode()
    pq.write_table(pa.table({"a": words}), tmp_path / "x.parquet")
    assert [raw.row["a"] for raw in read_rows(str(tmp_path / "x.parquet"))][99] == "word 99"


@pytest.mark.parametrize(
    ("columns", "spec", "text"),
    [
        ({"prompt": [1, 2]}, {}, "'prompt' holds int64, and must hold text or turns. Convert it"),
        (
            {"completion": [b"x", b"y"]},
            {},
            "'completion' holds binary, and must hold text or turns",
        ),
        ({"prompt": [[1], [2]]}, {}, "'prompt' holds list<element: int64>, and must"),
        (
            {"messages": [{"a": 1}, None]},
            {},
            "'messages' holds struct<a: int64>, and must hold tur",
        ),
        ({"tools": [b"x", None]}, {}, "'tools' holds binary, and must hold text or nothing"),
        (
            {"mine": [0.5, 1.0]},
            {"columns": {"prompt": "mine"}},
            "'mine' holds double, and must hold",
        ),
        ({"source": [["a"], []]}, {}, "must hold a text, number or truth value. Convert it, or"),
        ({"y": [{"a": 1}, None]}, {"label": "y"}, "another column, or none (null)"),
        (
            {"question": ["a", "b"], "response": [1, 2]},
            {"format": "orca"},
            "'response' holds int64",
        ),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_needed_column_of_the_wrong_type_is_told_once(tmp_path, columns, spec, text, on_bad_row):
    path = save(tmp_path / "x.parquet", **columns)
    with pytest.raises(ValueError, match="the column") as caught:
        samples(path, on_bad_row=on_bad_row, **spec)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{path}: the column ")


def test_columns_of_one_name_and_no_readable_column(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(ValueError, match="two columns have the same name, 'a'"):
        list(read_rows(str(path)))
    pq.write_table(pa.table({"a": [b"x"]}), path)
    with pytest.raises(ValueError, match=r"no column that can be read; not read: 'a' \(binary\)"):
        list(read_rows(str(path)))
    assert describe_left_out(pa.schema({"a": pa.string()})) == ""


def test_json_inside_a_column_is_opened(tmp_path):
    parts = [{"type": "text", "text": "a"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]
    rows = {"messages": [turns], "extra": [[{"a": 1}, {"b": "x"}]]}
    mixed = datasets.Dataset.from_dict(rows, on_mixed_types="use_json")
    mixed.to_parquet(str(tmp_path / "x.parquet"))
    mixed.save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "x.parquet", tmp_path / "saved"):
        found = samples(path)
        assert found.samples[0].prompt == (Message("user", "a"),)
        assert found.samples[0].completion == (Message("assistant", "b"),)
        assert found.rows[found.samples[0].id]["extra"] == rows["extra"][0]


# --- folders ------------------------------------------------------------------------------------


def parts_in(folder):
    folder.mkdir()
    for number in (1, 0):
        pq.write_table(
            pa.table({"prompt": [f"p{number}"], "completion": ["c"]}),
            folder / f"part-{number}.parquet",
        )
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("name", ["x.parquet", "x.parquet/", "spark_output"])
def test_a_folder_of_parts_is_one_file(tmp_path, name):
    folder = parts_in(tmp_path / name)
    found = samples(f"{tmp_path}/{name}")
    assert [sample.prompt[0].content for sample in found.samples] == ["p0", "p1"]
    assert found.where[found.samples[1].id] == f"{folder}/part-1.parquet:row 1"


def test_the_names_of_folders_are_columns(tmp_path):
    for name in ("lang=de", "lang=en%2FGB", "lang=__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / "x" / name).mkdir(parents=True)
        save(tmp_path / "x" / name / "0.parquet")
    found = samples(tmp_path / "x", source="lang", limit=5)
    assert [row["lang"] for _, row in found.rows.items()] == [None, None, "de", "de", "en/GB"]
    assert [sample.source for sample in found.samples] == ["", "", "de", "de", "en/GB"]
    save(tmp_path / "x" / "lang=de" / "0.parquet", lang=["a", "b"])
    with pytest.raises(
        ValueError, match=r"lang=de/0\.parquet: the column 'lang' is in the file and"
    ):
        samples(tmp_path / "x")


def test_a_folder_that_may_be_several_sets_is_refused(tmp_path):
    for name in ("train-00000.parquet", "test-00000.parquet"):
        save(tmp_path / name)
    text = r"a folder that holds 'test-00000\.parquet', 'train-00000\.parquet'\. A folder is read"
    with pytest.raises(ValueError, match=text):
        samples(tmp_path)
    with pytest.raises(ValueError, match="are for Hub datasets, and this is a folder"):
        samples(parts_in(tmp_path / "x.parquet"), split="test")


def test_a_folder_is_known_by_its_content(tmp_path):
    folder = parts_in(tmp_path / "x.parquet")
    before = source_hash(str(folder))
    assert len(files_behind(str(folder))) == 4
    kept = load([DataSpec(path=str(folder))], name="pool", cache=tmp_path / "kept")
    again = load([DataSpec(path=str(folder))], name="pool", cache=tmp_path / "kept")
    assert again.fingerprint == kept.fingerprint
    (folder / "part-1.parquet").rename(folder / "part-2.parquet")
    assert source_hash(str(folder)) != before
    save(folder / "part-3.parquet")
    changed = load([DataSpec(path=str(folder))], name="pool", cache=tmp_path / "kept")
    assert len(changed.samples) == len(kept.samples) + 2
    assert source_hash("owner/name") is None


def test_what_datasets_saved_is_read(tmp_path, caplog):
    rows = {"messages": [CHAT, CHAT], "image": [b"x", b"y"]}
    train = datasets.Dataset.from_dict(rows)
    path = tmp_path / "saved"
    train.save_to_disk(str(path))
    found = samples(path)
    assert found.where[found.samples[1].id] == f"{path}:row 2"
    assert json.loads(json.dumps(found.rows[found.samples[0].id])) == {"messages": CHAT}
    assert "not read: 'image' (binary)" in caplog.text
    with pytest.raises(
        ValueError, match=r"split='test', and this folder has no splits\. Remove it"
    ):
        samples(path, split="test")
    with pytest.raises(ValueError, match="revision='v1' is for Hub datasets, and this is a folder"):
        samples(path, revision="v1")


def test_one_of_several_splits_is_read(tmp_path):
    path = tmp_path / "saved"
    both = {"train": [CHAT], "test_sft": [CHAT, CHAT, CHAT]}
    made = {name: datasets.Dataset.from_dict({"messages": rows}) for name, rows in both.items()}
    datasets.DatasetDict(made).save_to_disk(str(path))
    assert len(samples(path).samples) == 1
    found = samples(path, split="test_sft")
    assert found.where[found.samples[2].id] == f"{path}[test_sft]:row 3"
    with pytest.raises(ValueError, match=r"no split 'test' in this folder\. Set split to one of"):
        samples(path, split="test")
    (path / "train" / "data-00000-of-00001.arrow").write_bytes(b"no")
    with pytest.raises(
        ValueError, match="cannot be read as a data set that was saved with save_to"
    ):
        samples(path)
    datasets.Dataset.from_dict({"messages": ["x"]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(ValueError, match="'messages' holds string, and must hold turns"):
        samples(tmp_path / "text")
