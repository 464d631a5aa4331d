"""Any bytes at all in a data file: a row or a reason for each, never a crash, a hang or a loss."""

import csv
import io
import json
import re
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.outcome import only_when_asked, outcome
from seal.data import arrow_rows, readers
from seal.data.load import DataSpec, load
from seal.data.readers import read_rows

MANY = 1_500  # examples of the deep variants
quick = settings(max_examples=150, deadline=timedelta(seconds=2))
deep = settings(max_examples=MANY, deadline=timedelta(seconds=2),
                suppress_health_check=list(HealthCheck))  # fmt: skip

GOOD = {
    "messages": [
        {"role": "user", "content": "What colour is the sea?"},
        {"role": "assistant", "content": "The sea is blue."},
    ],
    "source": "web",
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
SYNTAX = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\n", b"\r", b"\r\n", b"null",
          b"\xef\xbb\xbf", b"\x00", b"\x1b[2J", b"\xff", b"\xed\xa0\x80", b"\\ud83e", b"NaN",
          b"1e999", b"9" * 5000, b"[" * 2000, b'{"a":' * 600, b"messages"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One for all examples of a test: each overwrites the last."""
    return tmp_path_factory.mktemp("any")


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with some bytes changed, cut out, repeated, or something else put between."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = draw(st.integers(place, min(len(content), place + 40)))
        what = draw(st.sampled_from([*SYNTAX, bytes(content[place:end]) * 2, b""]))
        content[place : draw(st.sampled_from([place, end]))] = what
    return bytes(content)


def as_csv(rows: int) -> bytes:
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(["prompt", "completion", "source"])
    for number in range(rows):
        table.writerow([f'Say "{number}",\nplease', f"It is {number}", "web"])
    return file.getvalue().encode()


def as_parquet() -> bytes:
    file = io.BytesIO()
    days = pa.array([number * 10**15 for number in range(5)], pa.timestamp("us"))
    rows = {"messages": [GOOD["messages"]] * 5, "day": days, "x": [0.5] * 5}
    pq.write_table(pa.table(rows), file, compression="none")
    return file.getvalue()


LINE = json.dumps(GOOD).encode()
FILES = {
    ".jsonl": LINE + b"\n" + LINE + b"\n\n" + LINE,
    ".json": b"[" + LINE + b",\n" + LINE + b"]",
    ".csv": as_csv(3),
    ".parquet": as_parquet(),
}


def check(folder: Path, suffix: str, content: bytes) -> None:
    """The promises of `read_rows` and `load` about any file."""
    path = folder / f"rows{suffix}"
    path.write_bytes(content)
    rows, message = outcome(lambda: list(read_rows(str(path))))
    if message is not None:
        assert message.startswith(str(path)), "which file"
        assert not CONTROL.search(message), "raw data in a message"
    for row in rows or ():
        assert re.fullmatch(re.escape(str(path)) + r":(row )?\d+", row.where)
        assert (row.row is None) == bool(row.reason)
        assert not CONTROL.search(row.reason)
        json.dumps(row.row, allow_nan=False, ensure_ascii=False).encode("utf-8")
    if rows is not None:
        assert len({row.where for row in rows}) == len(rows)
    spec = DataSpec(path=str(path), on_bad_row="skip")
    found, message = outcome(lambda: load([spec], name="pool"))
    if found is None:
        assert message is not None
        assert str(path) in message
        assert not CONTROL.search(message)
        return
    assert rows is not None
    assert found.num_read == len(rows) == len(found.samples) + len(found.excluded)
    assert not CONTROL.search("".join(row.reason for row in found.excluded))


@pytest.mark.parametrize("suffix", FILES)
@quick
@given(st.binary(max_size=300))
def test_any_bytes(folder, suffix, content):
    check(folder, suffix, content)


@pytest.mark.parametrize("suffix", FILES)
@quick
@given(st.data())
def test_a_damaged_file(folder, suffix, data):
    check(folder, suffix, data.draw(damaged(FILES[suffix])))


@pytest.mark.slow
@only_when_asked
@pytest.mark.parametrize("suffix", FILES)
@deep
@given(st.data())
def test_a_damaged_file_many_times(folder, suffix, data):
    check(folder, suffix, data.draw(st.binary(max_size=2000) | damaged(FILES[suffix])))


def test_the_good_files_are_good(folder):
    for suffix, content in FILES.items():
        path = folder / f"good{suffix}"
        path.write_bytes(content)
        rows = list(read_rows(str(path)))
        assert rows
        assert all(row.row is not None for row in rows), suffix


def seconds(folder: Path, name: str, content: bytes) -> float:
    (folder / name).write_bytes(content)
    start = time.process_time()
    rows, message = outcome(lambda: list(read_rows(str(folder / name))))
    assert rows or message
    return time.process_time() - start


KEYS = b",".join(b'"k%d": 1' % number for number in range(50_000))
REPEATED_LAST = b"{" + KEYS + b', "k49999": 1}'
HOSTILE = {
    "repeated.jsonl": REPEATED_LAST,
    "repeated.json": b"[" + REPEATED_LAST + b"]",
    "header.csv": b",".join(b"c%d" % number for number in range(50_000)) + b",c49999\n1\n",
    "open.jsonl": b"[" * 1_000_000,
    "objects.json": b"[" + b'{"a":' * 200_000,
    "digits.jsonl": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "blanks.jsonl": b" " * 5_000_000 + b"\n{}",
    "quotes.csv": b'a,b\n"' + b'""' * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_takes_longer_than_its_length(folder, name):
    assert seconds(folder, name, HOSTILE[name]) < 5  # the repeated keys took minutes


@pytest.mark.parametrize(
    ("name", "content", "unit"),
    [
        ("x.jsonl", b'{"a": "%s"}\n{"a": "b"}', "the line is longer than 1000 bytes"),
        ("x.json", b'[{"a": "%s"}, {"a": "b"}]', "the row is longer than 1000 characters"),
        ("x.csv", b"a\n%s\nb\n", "not valid CSV: field larger than field limit"),
    ],
)
def test_a_row_that_is_too_large_is_bad_and_the_next_is_not(
    tmp_path, monkeypatch, name, content, unit
):
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 1000)
    before = csv.field_size_limit(1000)
    try:
        (tmp_path / name).write_bytes(content % (b"x" * 1100))
        large, small = read_rows(str(tmp_path / name))
    finally:
        csv.field_size_limit(before)
    assert large.reason.startswith(unit)
    assert small.row == {"a": "b"}


def test_a_parquet_row_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_rows, "MAX_ROW_BYTES", 1000)
    pq.write_table(pa.table({"a": ["x" * 1100, "b"]}), tmp_path / "x.parquet")
    large, small = read_rows(str(tmp_path / "x.parquet"))
    assert large.reason == "the row is larger than 1000 bytes"
    assert small.row == {"a": "b"}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**62, 0], pa.timestamp("us")),
        pa.array([2**50, 0], pa.timestamp("s")),
        pa.array([2**62, 0], pa.duration("s")),
        pa.array([2**30, 0], pa.date32()),
    ],
    ids=str,
)
def test_times_that_python_cannot_hold_are_bad_rows(tmp_path, values):
    pq.write_table(pa.table({"a": values}), tmp_path / "x.parquet")
    late, early = read_rows(str(tmp_path / "x.parquet"))
    assert late.reason.startswith("column 'a' cannot be read: ")
    assert early.row is not None


def test_parquet_that_says_more_rows_than_it_has(tmp_path, monkeypatch):
    """Found by flipping bits: the count at the end of the file and the rows in it may differ."""
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "x.parquet")
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda table, **_: iter([table.read().to_batches()[0][:2]])
    )
    with pytest.raises(ValueError, match=r"x\.parquet: .*: 2 rows, but its end says 3\.$"):
        list(read_rows(str(tmp_path / "x.parquet")))


def test_a_csv_column_named_with_stray_bytes_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"prompt,caf\xe9\na,b\n")
    with pytest.raises(ValueError, match=r"x\.csv:1: the column 'caf\\udce9' is not valid UTF-8"):
        list(read_rows(str(path)))
