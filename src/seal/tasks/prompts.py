"""Files of prompts: what a model is asked, item by item."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seal.artifacts.paths import StrPath
from seal.data.arrow_types import Kind
from seal.data.formats import Format, column_kinds, describe_columns, parse
from seal.data.raw_row import RawRow
from seal.data.readers import read_rows
from seal.data.sample import Message, content_id

# Every model must be measured on the same items, which a row left out here and there would change.
_NO_BAD_ROWS = "A task's file may have no bad row: correct it, or delete it."

_SUFFIXES = (".csv", ".txt", ".jsonl", ".json", ".parquet")  # in a folder of files

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")

Where = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a task's file.

    Attributes:
        id: Hash of its texts, or of prompt and response as a sample's id; the k-th repetition of
            the same content carries the suffix `-k`.
        place: Where it stands, "file:line" or "file:row number".
        prompt: What the model is asked.
        texts: The columns that were asked for, in that order; none of a conversation.
        completion: The response that the file holds; empty where it holds none or none was read.
        group: The set's word for the kind of item; empty if it has none.
    """

    id: str
    place: str
    prompt: tuple[Message, ...]
    texts: tuple[str, ...] = ()
    completion: tuple[Message, ...] = ()
    group: str = ""

    @property
    def asked(self) -> str:
        """The prompt's last user turn."""
        return [turn.content for turn in self.prompt if turn.role == "user"][-1]


def read_items(
    path: StrPath,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    group: str | None = None,
    where: Where | None = None,
    limit: int | None = None,
) -> tuple[Item, ...]:
    """The rows of a .jsonl, .json, .csv or .parquet file, in the file's order.

    Args:
        path: The file, or the name of a Hub dataset, of which the split "train" is read.
        columns: The columns to take, each a text; the first is the prompt.
        optional: Columns that follow them in `texts`, "" where a row has none.
        group: A column, of text, that becomes `group`; "" where a row has none.
        where: Only rows in which each of these columns has this value, or one of these values,
            written as text.
        limit: As in `limited`.

    Raises:
        ValueError: If a row cannot be read, lacks a column, or has a column that is not a text, or
            if no row is left.
    """
    path = os.fspath(path)
    shape = _Texts(columns, optional, group)
    needs: dict[str, Kind] = dict.fromkeys(
        [*columns, *optional, *([group] if group else [])], "text"
    )
    rows = read_rows(path, needs=needs)
    return _numbered(_items(shape, rows, where), path, limit, where)


def read_conversations(
    path: StrPath, format: Format, *, where: Where | None = None, limit: int | None = None
) -> tuple[Item, ...]:
    """The conversations of a file of training data, each up to its response.

    Args:
        path: As in `read_items`.
        format: How a row becomes a prompt and a response; see `seal.data.formats`.
        where: As in `read_items`; of the file's own columns.
        limit: As in `limited`.

    Raises:
        ValueError: If a row cannot be read or does not fit the format, or if no row is left.
    """
    path = os.fspath(path)
    found = _items(_Conversations(format), read_rows(path, needs=column_kinds(format)), where)
    return _numbered(found, path, limit, where)


def read_transcripts(path: StrPath, column: str, *, limit: int | None = None) -> tuple[Item, ...]:
    r"""Conversations written as one text, each up to its last assistant turn, which may be blank.

    Args:
        path: As in `read_items`.
        column: The texts, of turns that start with "\n\nHuman:" and "\n\nAssistant:".
        limit: As in `limited`.

    Raises:
        ValueError: If a row cannot be read or holds no such text, or if no row is left.
    """
    path = os.fspath(path)
    rows = read_rows(path, needs={column: "text"})
    return _numbered(_items(_Transcripts(column), rows), path, limit)


def read_folder(
    folder: StrPath, pattern: str, column: str, *, limit: int | None = None
) -> tuple[Item, ...]:
    """The prompts of the files of a folder, each file one group, named by the file.

    Args:
        folder: A folder.
        pattern: Of the files' names without suffix, e.g. "category_*".
        column: The prompt's column. A .csv file whose first line does not name it has no header:
            every record is one prompt. In a .txt file every line is one.
        limit: As in `limited`.

    Raises:
        ValueError: If the folder has no such file, or two of one name; if a row is bad, or no row
            is left.
    """
    folder = os.fspath(folder)
    files = folder_files(folder, pattern)
    count = Counter(file.stem for file in files)
    twice = [file.name for file in files if count[file.stem] > 1]
    if not files or twice:
        kinds = f"{pattern}.{{{','.join(suffix[1:] for suffix in _SUFFIXES)}}}"
        what = f"{' and '.join(twice)} are two of one name" if twice else f"there is no {kinds}"
        raise ValueError(f"{folder}: {what}. Give a folder with one file per category, {kinds}.")
    found = (
        item and replace(item, group=file.stem)
        for file in files
        for item in _items(_Texts([column]), _file_rows(file, column))
    )
    return _numbered(found, folder, limit)


def folder_files(folder: str, pattern: str) -> tuple[Path, ...]:
    """The files that `read_folder` reads, in order of their names."""
    found = sorted(Path(folder).glob(f"{pattern}.*"))
    return tuple(file for file in found if file.suffix.lower() in _SUFFIXES)


def limited(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """As many of the items as `limit` says, in their order; None = all.

    Those with the lowest ids, which is a random choice: the first rows of a file that is sorted by
    topic would be of one topic. It depends on the content alone.
    """
    if limit is None or limit >= len(items):
        return tuple(items)
    chosen = set(sorted(item.id for item in items)[:limit])
    return tuple(item for item in items if item.id in chosen)


# --- how a row becomes an item ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Texts:
    columns: Sequence[str]
    optional: Sequence[str] = ()
    group: str | None = None

    def item(self, row: Mapping[str, Any], place: str) -> Item:
        texts = (
            *(_text(row, column, place) for column in self.columns),
            *(_optional_text(row, column, place) for column in self.optional),
        )
        key = content_id(tuple(Message("", text) for text in texts), ())
        group = "" if self.group is None else _optional_text(row, self.group, place)
        return Item(key, place, (Message("user", texts[0]),), texts, group=group)


@dataclass(frozen=True, slots=True)
class _Conversations:
    format: Format

    def item(self, row: Mapping[str, Any], place: str) -> Item:
        try:
            prompt, completion = parse(row, self.format)
        except ValueError as error:
            raise ValueError(f"{place}: {error}. {_NO_BAD_ROWS}") from error
        return Item(content_id(prompt, completion), place, prompt, completion=completion)


@dataclass(frozen=True, slots=True)
class _Transcripts:
    column: str

    def item(self, row: Mapping[str, Any], place: str) -> Item:
        before, *parts = _TURN.split(_text(row, self.column, place))
        roles = {"Human": "user", "Assistant": "assistant"}
        turns = [
            Message(roles[name], text.removeprefix(" "))
            for name, text in zip(parts[::2], parts[1::2], strict=True)
        ]
        asked = turns[-2:-1]
        if before or not asked or (asked[0].role, turns[-1].role) != ("user", "assistant"):
            reason = 'be turns after "Human:" and "Assistant:", the last two one of each'
        elif not asked[0].content.strip():
            reason = "have text in its last turn of Human"
        else:
            prompt = tuple(turns[:-1])
            return Item(content_id(prompt, ()), place, prompt)
        raise ValueError(f"{place}: the column {self.column!a} must {reason}. {_NO_BAD_ROWS}")


def _items(
    shape: _Texts | _Conversations | _Transcripts,
    rows: Iterable[RawRow],
    where: Where | None = None,
) -> Iterator[Item | None]:
    """What each row holds; None for one that is not wanted."""
    for raw in rows:
        if raw.row is None:
            raise ValueError(f"{raw.where}: {raw.reason}. {_NO_BAD_ROWS}")
        is_wanted = _is_wanted(raw.row, where or {}, raw.where)
        yield shape.item(raw.row, raw.where) if is_wanted else None


def _numbered(
    found: Iterable[Item | None], path: str, limit: int | None, where: Where | None = None
) -> tuple[Item, ...]:
    """The items that are wanted; repeated ones are told apart by a suffix."""
    items, num_rows, seen = [], 0, Counter[str]()
    for item in found:
        num_rows += 1
        if item is not None:
            num_before = seen[item.id]
            seen[item.id] += 1
            items.append(replace(item, id=f"{item.id}-{num_before}") if num_before else item)
    if not items:
        raise ValueError(
            f"{path}: none of the {num_rows} rows is a prompt to measure"
            + (f" (where {dict(where)})" if where else "")
            + ". Give a file with at least one"
            + (", or another `where`." if where else ".")
        )
    return limited(items, limit)


def _file_rows(file: Path, column: str) -> Iterator[RawRow]:
    """The rows of one file of a folder, which may have no header."""
    suffix = file.suffix.lower()
    if suffix == ".txt" or (suffix == ".csv" and column not in _first_record(file)):
        return _bare_rows(file, column)
    return read_rows(str(file), needs={column: "text"})


def _first_record(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return next(csv.reader(lines), [])


def _bare_rows(file: Path, column: str) -> Iterator[RawRow]:
    """One prompt per line, or per record of a .csv file; no header."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".txt":
                texts = (line.rstrip("\r\n") for line in lines)
                records = ([text if text.strip() else ""] for text in texts)
                numbered = enumerate(records, start=1)
            else:
                numbered = _csv_records(csv.reader(lines, strict=True))
            for number, record in numbered:
                if any(record):
                    yield _bare_row(record, column, f"{file}:{number}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read ({error}). Save it as UTF-8, correct.") from error


def _csv_records(reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 (no public type)
    number = 1
    for record in reader:
        yield number, record
        number = reader.line_num + 1


def _bare_row(record: Sequence[str], column: str, place: str) -> RawRow:
    if len(record) > 1:
        reason = (
            f"{len(record)} fields in a file whose first line does not name the column {column!a}. "
            "Name the columns in the first line, or give one prompt per line, in quotes"
        )
        return RawRow(place, None, reason)
    return RawRow(place, {column: record[0]})


# --- columns ------------------------------------------------------------------------------------


def _is_wanted(row: Mapping[str, Any], where: Where, place: str) -> bool:
    for column, wanted in where.items():
        value = _cell(row, column, place)
        # A number or a truth value is compared as JSON writes it: 3, true.
        text = value if isinstance(value, str) else json.dumps(value)
        if text not in ([wanted] if isinstance(wanted, str) else wanted):
            return False
    return True


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    value = _cell(row, column, place)
    if not isinstance(value, str) or not value.strip():
        kind = "blank" if isinstance(value, str) else f"of type {type(value).__name__}"
        raise ValueError(
            f"{place}: the column {column!a} must be a text that is not blank; here it is "
            f"{kind}. {_NO_BAD_ROWS}"
        )
    return value


def _optional_text(row: Mapping[str, Any], column: str, place: str) -> str:
    value = row.get(column)
    return "" if value is None or value == "" else _text(row, column, place)


def _cell(row: Mapping[str, Any], column: str, place: str) -> Any:  # noqa: ANN401
    if column not in row:
        raise ValueError(
            f"{place}: there is no column {column!a}; this row has {describe_columns(row)}. "
            "Name the right column in the task's settings."
        )
    return row[column]
