"""Files and Hub datasets as rows: strict, and true about where each row stands.

| suffix, any case | rows                                        | a row is named                  |
|------------------|---------------------------------------------|---------------------------------|
| .jsonl, .ndjson  | one JSON object per line; blank lines skipped | file:LINE                     |
| .json            | one array of objects                        | file:row NUMBER, counted from 1 |
| .csv             | a header line, then records; blank lines skipped | file:LINE it starts on     |
| .parquet         | Arrow rows                                  | file:row NUMBER                 |

The first three may be packed: .jsonl.gz, .zst, .bz2 or .xz; lines are those of the unpacked text.
A folder is one data set where it is called NAME.parquet, or holds nothing but Parquet files called
part-*, or such files in folders COLUMN=VALUE; or where `datasets` saved it (`save_to_disk`), of
several splits the one that is asked for.

A path without a suffix that does not exist and reads owner/name is a dataset on the Hub, its rows
named owner/name[split]:row NUMBER. The readers of `datasets` are not used for local files: they
give no line numbers, skip blank lines from the count, and turn a line `null` into a row.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from seal.artifacts.paths import StrPath
from seal.data.arrow_rows import (
    describe_left_out,
    parquet_schema,
    read_dataset,
    read_parquet,
    read_parquet_folder,
)
from seal.data.arrow_types import Needs
from seal.data.compressed import PACKED, inner_suffix, opened
from seal.data.folders import describe_folder, is_saved_dataset, load_saved, part_files
from seal.data.json_array import JsonArray, NotUtf8Error
from seal.data.raw_row import MAX_ROW_BYTES, RawRow
from seal.data.strict_json import StrictDecoder, first_repeated

_BOM = b"\xef\xbb\xbf"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w*$")  # ".5" of owner/model-2.5 is none
_ARRAY_HINT = "a file that is one array is named .json"
_KINDS = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def read_rows(
    path: StrPath, *, split: str = "train", revision: str | None = None, needs: Needs | None = None
) -> Iterator[RawRow]:
    """Every row of a file, a folder or a Hub dataset, in order; a bad row comes with a reason.

    Columns of bytes are left out of Parquet rows, since JSON cannot hold them.

    Args:
        path: A file or folder, or a dataset's name on the Hub.
        split: Of a Hub dataset, or of a folder that `datasets` saved with several.
        revision: Of a Hub dataset: commit, tag or branch.
        needs: The columns that somebody reads, and what they must hold: where columns have types,
            a wrong one is refused at once.

    Raises:
        ValueError: If there is no such file, its kind is unknown, it as a whole cannot be read, a
            needed column is of the wrong type, or `split` or `revision` is given for a file.
    """
    path = os.fspath(path)
    file, needs = Path(path), needs or {}
    if not file.exists():
        if _HUB_NAME.fullmatch(path) and not _FILE_SUFFIX.search(path):
            return _read_hub(path, split, revision, needs)
        raise ValueError(
            f"{path}: there is no such file (looked for {file.absolute()}), and it is not the "
            "name of a Hub dataset, which reads owner/name."
        )
    if file.is_dir() and is_saved_dataset(file):
        if revision is not None:
            raise ValueError(
                f"{path}: revision={revision!r} is for Hub datasets, and this is a folder. Remove "
                "it."
            )
        return read_dataset(*load_saved(file, path, split), needs)
    parts = part_files(file) if file.is_dir() else []
    read = _READERS.get(inner_suffix(file))
    is_parquet = file.suffix.lower() == _PARQUET and file.is_file()
    if not parts and not is_parquet and not (read and file.is_file()):
        kind = describe_folder(file) if file.is_dir() else _unknown(file)
        raise ValueError(f"{path}: {kind}.")
    if split != "train" or revision is not None:
        raise ValueError(
            f"{path}: split={split!r} and revision={revision!r} are for Hub datasets, and this is "
            f"a {'folder' if parts else 'file'}. Remove them."
        )
    if parts:
        return read_parquet_folder(parts, file, path, needs)
    if is_parquet or read is None:
        return read_parquet(file, path, needs)
    return read(file, path)


def describe_unread(path: str) -> str:
    """A sentence on the columns of a Parquet file or folder that `read_rows` leaves out; or ""."""
    file = Path(path)
    parts = part_files(file) if file.is_dir() else [file] if file.suffix.lower() == _PARQUET else []
    schemas = [parquet_schema(part) for part in parts if part.is_file()]
    return describe_left_out(*(schema for schema in schemas if schema is not None))


def _unknown(file: Path) -> str:
    is_packed = file.suffix.lower() in PACKED
    shown = "".join(file.suffixes[-2:]) if is_packed else file.suffix
    return (
        f"unknown kind of file {shown.lower() or '(no suffix)'!r}. Known: {', '.join(_READERS)}, "
        f"{_PARQUET}; all but the last also packed, with {', '.join(PACKED)} after it; or the name "
        "of a Hub dataset, owner/name"
    )


def _read_jsonl(file: Path, path: str) -> Iterator[RawRow]:
    decoder = StrictDecoder()
    with opened(file) as lines:
        number = 0
        while line := lines.readline(MAX_ROW_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(_BOM)
            where = f"{path}:{number}"
            if len(line.rstrip(b"\n")) > MAX_ROW_BYTES:
                _skip_rest_of_line(lines, line)
                yield RawRow(where, None, f"the line is longer than {MAX_ROW_BYTES} bytes")
            elif line.strip():
                raw = _jsonl_row(line, where, decoder)
                if number == 1 and raw.row is None and line.lstrip().startswith(b"["):
                    raw = RawRow(where, None, f"{raw.reason}; {_ARRAY_HINT}")
                yield raw


def _skip_rest_of_line(lines: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = lines.readline(MAX_ROW_BYTES)


def _jsonl_row(line: bytes, where: str, decoder: StrictDecoder) -> RawRow:
    try:
        # Without the line's end, which would be taken for a control character in an open string.
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return RawRow(where, None, _not_utf8(line[error.start], error.start + 1, "column"))
    try:
        value, problem = decoder.decode_all(text)
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg} (column {error.colno}){_json_hint(error)}"
        return RawRow(where, None, reason)
    return _object_row(value, problem, where)


def _json_hint(error: json.JSONDecodeError) -> str:
    """What Python and JavaScript let through and JSON does not; "" if it is something else."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :]
    if before.endswith(",") and after[:1] in ("}", "]"):
        return "; remove the comma before it"
    if after.startswith(("None", "True", "False", "nan", "undefined")):
        return "; JSON writes null, true and false"
    return ""


def _not_utf8(byte: int, place: int, unit: str) -> str:
    return f"not valid UTF-8: byte 0x{byte:02x} at {unit} {place}"


def _object_row(value: object, problem: str, where: str) -> RawRow:
    if problem:
        return RawRow(where, None, problem)
    if not isinstance(value, dict):
        kind = "null" if value is None else _KINDS[type(value)]
        return RawRow(where, None, f"a row must be a JSON object; this one is {kind}")
    return RawRow(where, value)


def _read_json(file: Path, path: str) -> Iterator[RawRow]:
    with opened(file) as stream:
        array = JsonArray(stream)
        try:
            if array.first() == "{":
                raise ValueError(
                    f"{path}: the file starts with an object; it must hold one array of objects. A "
                    "file with one object per line is named .jsonl."
                )
            for number, (value, length, problem) in enumerate(array.items(), start=1):
                if length > MAX_ROW_BYTES:
                    problem = f"the row is longer than {MAX_ROW_BYTES} characters"
                yield _object_row(value, problem, f"{path}:row {number}")
        except NotUtf8Error as error:
            reason = _not_utf8(error.byte, error.place, "byte")
            raise ValueError(f"{path}:{error.line}: {reason}. Save the file as UTF-8.") from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}. The file must "
                "hold one array of objects."
            ) from error


def _read_csv(file: Path, path: str) -> Iterator[RawRow]:
    # The csv module's bound of 128 KiB per field, a setting of the process, is too low for
    # documents.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    # Bytes that are not UTF-8 come through as surrogates, so that only their own row is bad.
    with (
        opened(file) as stream,
        io.TextIOWrapper(
            stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as lines,
    ):
        reader = csv.reader(lines, strict=True)
        try:
            header = next((fields for fields in reader if fields), None)
        except csv.Error as error:
            raise ValueError(
                f"{path}:{reader.line_num}: the header is not valid CSV: {error}. Correct it."
            ) from error
        if header is None:
            raise ValueError(f"{path}: the file is empty; the first line must name the columns.")
        _check_header(header, f"{path}:{reader.line_num}")
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield RawRow(f"{path}:{first}", None, _csv_reason(error, first, reader.line_num))
                continue
            if fields is None:
                return
            if fields:
                yield _csv_row(header, fields, f"{path}:{first}")


def _csv_reason(error: csv.Error, first: int, last: int) -> str:
    # An unclosed quote swallows the lines up to the next quote: say how many went with it.
    extent = f" (lines {first} to {last})" if last > first else ""
    return f"not valid CSV{extent}: {error}"


def _check_header(header: list[str], where: str) -> None:
    other = [mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]]
    if other:
        raise ValueError(
            f"{where}: the header has one column, {header[0][:60]!a}. Columns are separated by "
            f"commas, and here it seems by {other[0]!r}: save the file with commas."
        )
    is_repeated = len(set(header)) < len(header)
    if is_repeated or "" in header:
        what = "has a column without a name"
        if is_repeated:
            what = f"names {first_repeated(header)!a} twice"
        raise ValueError(f"{where}: the header {what}. Rename the column.")
    for name in header:
        if _has_stray_bytes(name):
            raise ValueError(f"{where}: the column {name!a} is not valid UTF-8. Save it as UTF-8.")


def _has_stray_bytes(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= char <= "\udcff" for char in text)


def _csv_row(header: list[str], fields: list[str], where: str) -> RawRow:
    if len(fields) != len(header):
        reason = f"{len(fields)} fields; the header names {len(header)} columns"
        return RawRow(where, None, reason)
    for name, field in zip(header, fields, strict=True):
        if _has_stray_bytes(field):
            return RawRow(where, None, f"column {name!a} is not valid UTF-8")
    return RawRow(where, dict(zip(header, fields, strict=True)))


def _read_hub(name: str, split: str, revision: str | None, needs: Needs) -> Iterator[RawRow]:
    # Here, because it takes a second to import and only Hub names need it.
    import datasets  # noqa: PLC0415
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        rows = datasets.load_dataset(name, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(
            f"{name}: neither a file ({Path(name).absolute()}) nor a dataset that can be loaded "
            f"from the Hub with split={split!r}, revision={revision!r}: {type(error).__name__}: "
            f"{error}"
        ) from error
    yield from read_dataset(rows, f"{name}[{split}]", needs)


_PARQUET = ".parquet"
_READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
}
