import csv
import json
import re
from datetime import datetime

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.data import readers
from seal.data.readers import read_rows


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return str(path)


def read(folder, name, content):
    """[(where within the file, row or reason)]"""
    path = write(folder, name, content)
    found = [(raw.where.removeprefix(path + ":"), raw.row, raw.reason) for raw in read_rows(path)]
    return [(where, reason if row is None else row) for where, row, reason in found]


# --- JSONL ---


def test_jsonl_line_numbers_survive_blank_lines_and_a_bom(tmp_path):
    content = b'\xef\xbb\xbf{"a": 1}\n\n  \t\r\n{"a": 2}\r\n\n\n{"a": 3}'
    assert read(tmp_path, "x.jsonl", content) == [("1", {"a": 1}), ("4", {"a": 2}), ("7", {"a": 3})]


def test_jsonl_of_blank_lines_has_no_rows(tmp_path):
    assert read(tmp_path, "x.ndjson", b"\n \n\n") == []
    assert read(tmp_path, "y.jsonl", b"") == []


BAD_LINES = [
    (b"null", "a row must be a JSON object; this one is null"),
    (b"[1, 2]", "a row must be a JSON object; this one is an array"),
    (b'"x"', "a row must be a JSON object; this one is a string"),
    (b"3", "a row must be a JSON object; this one is a number"),
    (b"true", "a row must be a JSON object; this one is a boolean"),
    (b'{"a": "caf\xe9"}', "not valid UTF-8: byte 0xe9 at column 11"),
    (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8: byte 0xed at column 8"),
    (b'{"a": "cut off', "not valid JSON: Unterminated string starting at (column 7)"),
    (b'{"a": "tab\there"}', "not valid JSON: Invalid control character at (column 11)"),
    (b'{"a": 1} {"a": 2}', "not valid JSON: Extra data (column 10)"),
    (b"{'a': 1}", "not valid JSON: Expecting property name enclosed in double quotes (column 2)"),
    (b'\xef\xbb\xbf{"a": 1}', "not valid JSON: Expecting value (column 1)"),
    (b'{"a": 1, "a": 1}', 'the key "a" is given twice'),
    (b'{"b": [{"a": 1, "a": 2}]}', 'the key "a" is given twice'),
    (b'{"a": NaN}', 'NaN is not a JSON value (key "a"); write null'),
    (b'{"b": {"c": 1}, "a": -Infinity}', '-Infinity is not a JSON value (key "a"); write null'),
    (b'{"a": {"b": [1, [NaN]]}, "c": NaN}', 'NaN is not a JSON value (key "b"); write null'),
    (b'{"a": 1e999, "b": NaN}', "the number 1e999 is too large"),
    (
        b'{"a": 1, }',
        "not valid JSON: Expecting property name enclosed in double quotes (column 10); remove the "
        "comma before it",
    ),
    (
        b'{"a": None}',
        "not valid JSON: Expecting value (column 7); JSON writes null, true and false",
    ),
    (b"NaN", "NaN is not a JSON value"),
    (b'{"a": 1e999}', "the number 1e999 is too large"),
    (b'{"a": ' + b"9" * 5000 + b"}", "the number " + "9" * 40 + "... is too large"),
    (b'{"a": "\\ud83e"}', "half a surrogate pair, which is no character"),
    (b'{"\\udc00": 1}', "half a surrogate pair, which is no character"),
    (b"[" * 100_000, "not valid JSON: Nested too deeply (column 1)"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_jsonl_lines(tmp_path, line, reason):
    content = b'{"ok": 1}\n' + line + b'\n{"ok": 2}\n'
    expected = [("1", {"ok": 1}), ("2", reason), ("3", {"ok": 2})]
    assert read(tmp_path, "x.jsonl", content) == expected


def test_whole_surrogate_pairs_are_characters(tmp_path):
    assert read(tmp_path, "x.jsonl", b'{"a": "\\ud83e\\uddad"}') == [("1", {"a": "\N{SEAL}"})]


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    content = '{"a": "x\u2028y\x85z"}\n{"a": 2}\n'.encode()
    assert read(tmp_path, "x.jsonl", content) == [("1", {"a": "x\u2028y\x85z"}), ("2", {"a": 2})]


def test_long_lines_are_bad_and_skipped_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 20)
    fits = b'{"a": "%s"}' % (b"x" * 11)
    assert len(fits) == 20
    content = fits + b"\n" + b"y" * 75 + b"\n" + fits + b"\n" + b'{"a": "%s"}' % (b"x" * 12)
    reason = "the line is longer than 20 bytes"
    good = {"a": "x" * 11}
    expected = [("1", good), ("2", reason), ("3", good), ("4", reason)]
    assert read(tmp_path, "x.jsonl", content) == expected


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=8))
def test_any_bytes_give_one_row_per_filled_line(tmp_path_factory, lines):
    found = read(tmp_path_factory.mktemp("any"), "x.jsonl", b"\n".join([b"x", *lines]))
    filled = [number for number, line in enumerate([b"x", *lines], start=1) if line.strip()]
    assert [int(where) for where, _ in found] == filled


# --- JSON ---


def test_json_rows_are_numbered(tmp_path):
    content = b'\xef\xbb\xbf [{"a": 1},\n\n null, {"a": 1, "a": 2}, [NaN],\n{"a": 4} ]\n'
    assert read(tmp_path, "x.JSON", content) == [
        ("row 1", {"a": 1}),
        ("row 2", "a row must be a JSON object; this one is null"),
        ("row 3", 'the key "a" is given twice'),
        ("row 4", "NaN is not a JSON value"),
        ("row 5", {"a": 4}),
    ]
    assert read(tmp_path, "y.json", b" [ ] ") == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'[{"a": 1},\n{"a": ]', ":2:7: not valid JSON: Expecting value. The file must hold one"),
        (b'[{"a": 1}\n {"a": 2}]', ":2:2: not valid JSON: Expecting ',' or ']'"),
        (b'[{"a": 1},\n]', ":2:1: not valid JSON: Illegal trailing comma before end of array"),
        (b'[{"a": 1}', ":1:10: not valid JSON: Expecting ',' or ']'"),
        (b"[]\n[]", ":2:1: not valid JSON: Extra data"),
        (b"", ":1:1: not valid JSON: Expecting '['"),
        (b"[" * 100_000, ":1:2: not valid JSON: Nested too deeply"),
        (b'{"a": 1}\n{"a": 2}', "starts with an object; it must hold one array of objects. A file"),
        (
            b'["a",\n"caf\xe9"]',
            ":2: not valid UTF-8: byte 0xe9 at byte 11. Save the file as UTF-8.",
        ),
    ],
    ids=range(9),
)
def test_broken_json_files_are_refused_as_a_whole(tmp_path, content, text):
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        read(tmp_path, "x.json", content)
    assert str(caught.value).startswith(str(tmp_path / "x.json") + ":")


# --- CSV ---


def test_csv_rows_carry_the_line_they_start_on(tmp_path):
    content = '\ufeffq,a\r\n1,"two\nlines"\n\n3,4,5\n6\n"",é\n'.encode()
    assert read(tmp_path, "x.csv", content) == [
        ("2", {"q": "1", "a": "two\nlines"}),
        ("5", "3 fields; the header names 2 columns"),
        ("6", "1 fields; the header names 2 columns"),
        ("7", {"q": "", "a": "é"}),
    ]


def test_broken_csv_records_are_bad_rows(tmp_path):
    content = b'q,a\n1,caf\xe9\n"x"y,2\n3,4\n5,"never closed\n6,7\n'
    assert read(tmp_path, "x.csv", content) == [
        ("2", "column 'a' is not valid UTF-8"),
        ("3", "not valid CSV: ',' expected after '\"'"),
        ("4", {"q": "3", "a": "4"}),
        ("5", "not valid CSV (lines 5 to 6): unexpected end of data"),
    ]


def test_csv_fields_may_be_long(tmp_path):
    before = csv.field_size_limit()
    try:
        ((_, row),) = read(tmp_path, "x.csv", b"q\n" + b"x" * 200_000)
    finally:
        csv.field_size_limit(before)
    assert len(row["q"]) == 200_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\n\n", ": the file is empty; the first line must name the columns."),
        (b"\na,b,a\n", ":2: the header names 'a' twice. Rename the column."),
        (b"a,\n", ":1: the header has a column without a name. Rename the column."),
        (b'"a"b\n', ":1: the header is not valid CSV: ',' expected after '\"'. Correct it."),
    ],
    ids=range(4),
)
def test_csv_needs_a_header(tmp_path, content, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        read(tmp_path, "x.csv", content)


# --- Parquet and the Hub ---


def test_parquet_rows_are_numbered_and_fit_into_json(tmp_path):
    path = tmp_path / "x.parquet"
    table = {
        "prompt": ["a", "b"],
        "at": [datetime(2026, 1, 2), None],
        "score": [float("nan"), 0.5],
        "turns": [[{"role": "user"}], []],
    }
    pq.write_table(pa.table(table), path)
    rows = [(raw.where, raw.row) for raw in read_rows(str(path))]
    turns = [{"role": "user"}]
    first = {"prompt": "a", "at": "2026-01-02 00:00:00", "score": None, "turns": turns}
    second = {"prompt": "b", "at": None, "score": 0.5, "turns": []}
    assert rows == [(f"{path}:row 1", first), (f"{path}:row 2", second)]
    json.dumps(rows)


def test_parquet_rows_that_cannot_be_text_are_bad(tmp_path):
    path = tmp_path / "x.parquet"
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xe9")]
    )
    pq.write_table(pa.table({"text": broken, "n": [1, 2]}), path)
    first, second = read_rows(str(path))
    assert first.row == {"text": "a", "n": 1}
    assert second.reason.startswith("column 'text' cannot be read: 'utf-8' codec can't decode byte")


def test_broken_parquet_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("x.parquet: not a readable Parquet file: ")):
        read(tmp_path, "x.parquet", b"PAR1 but not really")
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="two columns have the same name"):
        list(read_rows(str(tmp_path / "y.parquet")))


@pytest.mark.parametrize("name", ["owner/name", "teknium/OpenHermes-2.5"])
def test_hub_datasets_are_loaded_by_name(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return datasets.Dataset.from_list([{"a": 1.0}, {"a": float("inf")}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = [(raw.where, raw.row) for raw in read_rows(name, split="test", revision="abc")]
    assert rows == [(f"{name}[test]:row 1", {"a": 1.0}), (f"{name}[test]:row 2", {"a": None})]
    assert calls == [((name,), {"split": "test", "revision": "abc"})]


def test_hub_errors_name_the_dataset(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def load_dataset(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("it is not there")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = (
        f"data/pool: neither a file ({tmp_path}/data/pool) nor a dataset that can be loaded from "
        "the Hub with split='train', revision=None: DatasetNotFoundError: it is not there"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        list(read_rows("data/pool"))


# --- which reader ---


@pytest.mark.parametrize("path", ["data/pool.jsonl", "data/pool.txt", "pool", "a/b/c"])
def test_absent_files_are_named_with_their_absolute_path(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    text = f"{path}: there is no such file (looked for {tmp_path / path}), and it is not the name"
    with pytest.raises(ValueError, match=re.escape(text)):
        read_rows(path)


@pytest.mark.parametrize(("name", "kind"), [("x.txt", "'.txt'"), ("x", "'(no suffix)'")])
def test_unknown_kinds_of_files_are_refused(tmp_path, name, kind):
    path = write(tmp_path, name, b"{}")
    text = f"{path}: unknown kind of file {kind}. Known: .jsonl, .ndjson, .json, .csv, .parquet;"
    with pytest.raises(ValueError, match=re.escape(text)):
        read_rows(path)


def test_folders_of_something_else_are_refused(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(
        ValueError, match=r"x\.jsonl: a folder that holds nothing\. A folder is read"
    ):
        read_rows(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("option", [{"split": "test"}, {"revision": "main"}])
def test_hub_options_on_a_file_are_a_conflict(tmp_path, option):
    path = write(tmp_path, "x.jsonl", b"{}")
    with pytest.raises(ValueError, match=r"are for Hub datasets, and this is a file\. Remove"):
        read_rows(path, **option)
