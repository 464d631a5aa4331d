"""Rows that come in typed columns: Parquet files and folders, and data sets of `datasets`.

Only the columns that JSON can hold are read, since rows are written back as JSON (a selection, an
export): bytes (images, sound) cannot be, and are named instead. A column that is needed and of the
wrong type is told once for the file, and not once for each of its rows. A value that cannot be read
(a date beyond the year 9999, text that is no UTF-8) makes its row a bad one only where somebody
needs its column.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from seal.data.arrow_types import SCALAR, Needs, Opened, fits, fits_json, opened_json, type_name
from seal.data.raw_row import MAX_ROW_BYTES, RawRow, plain_row

logger = logging.getLogger(__name__)

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_SHOWN = 60
_ROWS_AT_ONCE = 1024


@dataclass(slots=True)
class _Unread:
    """What was left out of rows because it could not be read, of columns that nobody needs.

    Attributes:
        needs: The columns that somebody reads; empty where that may be any.
        num_rows: Column -> rows without it.
        first: Column -> the first of them, and why.
    """

    needs: Needs
    num_rows: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def takes(self, name: str, where: str, error: Exception) -> bool:
        """Whether a value may be left out; if so it is counted."""
        if not self.needs or name in self.needs:
            return False
        self.num_rows[name] = self.num_rows.get(name, 0) + 1
        self.first.setdefault(name, f"{where}: {_shown(error)}")
        return True

    def tell(self, path: str) -> None:
        """Warn of each column, with the number of rows and the first."""
        for name, number in self.num_rows.items():
            logger.warning(
                "%s: the column %a cannot be read in %d rows and is missing there (first: %s)",
                path, name[:_SHOWN], number, self.first[name],
            )  # fmt: skip


def read_parquet(file: Path, path: str, needs: Needs) -> Iterator[RawRow]:
    """The rows of one file; see `read_rows`.

    Args:
        file: It.
        path: What it is called in messages.
        needs: The columns that somebody reads.

    Raises:
        ValueError: If it is no Parquet file, is damaged, has two columns of one name, or one that
            is needed is of the wrong type.
    """
    unread = _Unread(needs)
    yield from _parquet_rows(file, path, unread)
    unread.tell(path)


def _parquet_rows(file: Path, path: str, unread: _Unread) -> Iterator[RawRow]:
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            names = _columns_to_read(schema, path, unread.needs)
            batches = table.iter_batches(columns=names, batch_size=_ROWS_AT_ONCE)
            number = 0
            for row in _rows_of(batches, schema, names, path, unread):
                number += 1
                yield row
            if number != table.metadata.num_rows:
                raise pa.ArrowInvalid(f"{number} rows, but its end says {table.metadata.num_rows}")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {_shown(error)}.") from error


def read_parquet_folder(
    files: Sequence[Path], folder: Path, path: str, needs: Needs
) -> Iterator[RawRow]:
    """The rows of a folder of part files, file by file.

    A folder on the way that is called COLUMN=VALUE gives its rows that column, as text.

    Args:
        files: The parts, in their order.
        folder: Around them.
        path: What it is called in messages.
        needs: The columns that somebody reads.

    Raises:
        ValueError: As `read_parquet`, or if a part has a column that its folder names too.
    """
    unread = _Unread(needs)
    for file in files:
        below = file.relative_to(folder)
        where = f"{path.rstrip('/')}/{below.as_posix()}"
        given = _hive_columns(below.parts[:-1])
        for raw in _parquet_rows(file, where, unread):
            if raw.row is None or not given:
                yield raw
                continue
            twice = sorted(given.keys() & raw.row.keys())
            if twice:
                raise ValueError(
                    f"{where}: the column {twice[0]!a} is in the file and in the name of its "
                    "folder. Rename one of them."
                )
            yield RawRow(raw.where, {**raw.row, **given})
    unread.tell(path)


def read_dataset(rows: Any, path: str, needs: Needs) -> Iterator[RawRow]:  # noqa: ANN401 (slow import)
    """The rows of a `datasets.Dataset`.

    Args:
        rows: It.
        path: What it is called in messages.
        needs: The columns that somebody reads.

    Raises:
        ValueError: If a column that is needed is of the wrong type, or the data is damaged.
    """
    schema = rows.features.arrow_schema
    names = _columns_to_read(schema, path, needs)
    left_out = describe_left_out(schema)
    if left_out:
        logger.warning("%s: %s", path, left_out)
    # A data set may have been saved to give tensors or frames.
    tables = rows.select_columns(names).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
    batches = (batch for table in tables for batch in table.combine_chunks().to_batches())
    unread = _Unread(needs)
    try:
        yield from _rows_of(batches, schema, names, path, unread)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable data set: {_shown(error)}.") from error
    unread.tell(path)


def parquet_schema(file: Path) -> pa.Schema | None:
    """The columns of a Parquet file; None if it is none."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return None


def describe_left_out(*schemas: pa.Schema) -> str:
    """A sentence on the columns that are not read, of one or several parts; "" if all are."""
    found = {one.name: one.type for part in schemas for one in part if not fits_json(one.type)}
    if not found:
        return ""
    listed = ", ".join(f"{name[:_SHOWN]!a} ({type_name(kind)})" for name, kind in found.items())
    those = "this column" if len(found) == 1 else "these columns"
    return (
        f"not read: {listed}. JSON cannot hold bytes, so {those} will be missing where the rows "
        "are written again (selected.jsonl, exports)"
    )


def _columns_to_read(schema: pa.Schema, path: str, needs: Needs) -> list[str]:
    names = schema.names
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(
            f"{path}: two columns have the same name, {twice[0][:_SHOWN]!a}. Rename one of them."
        )
    for one in schema:
        wanted = needs.get(one.name)
        if wanted is not None and not fits(one.type, wanted):
            raise ValueError(
                f"{path}: the column {one.name[:_SHOWN]!a} holds {type_name(one.type)}, and "
                f"must hold {wanted}. Convert it, or have the settings name another column"
                f"{', or none (null)' * (wanted == SCALAR)}."
            )
    names = [one.name for one in schema if fits_json(one.type)]
    if not names:
        raise ValueError(
            f"{path}: there is no column that can be read; {describe_left_out(schema)}."
        )
    return names


def _chosen(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Some columns: Arrow takes "a" for a column "a.b", too. A dictionary would count as a row."""
    columns = [batch.column(name) for name in names]
    plain = [one.dictionary_decode() if isinstance(one, pa.DictionaryArray) else one
             for one in columns]  # fmt: skip
    return pa.RecordBatch.from_arrays(plain, list(names))


def _rows_of(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    names: Sequence[str],
    path: str,
    unread: _Unread,
) -> Iterator[RawRow]:
    openers = {name: opened_json(schema.field(name).type) for name in names}
    number = 0
    for batch in batches:
        chosen = _chosen(batch, names)
        for place in range(chosen.num_rows):
            number += 1
            yield _arrow_row(chosen, place, f"{path}:row {number}", openers, unread)


def _arrow_row(
    batch: pa.RecordBatch,
    place: int,
    where: str,
    openers: Mapping[str, Opened | None],
    unread: _Unread,
) -> RawRow:
    part = batch.slice(place, 1)
    if part.nbytes > MAX_ROW_BYTES:
        return RawRow(where, None, f"the row is larger than {MAX_ROW_BYTES} bytes")
    row: dict[str, Any] = {}
    for name, column in zip(part.schema.names, part.columns, strict=True):
        try:
            (value,) = column.to_pylist()
            opened = openers[name]
            row[name] = opened(value) if opened else value
        except (ValueError, OverflowError, RecursionError) as error:  # no UTF-8; a year of 10000
            if unread.takes(name, where, error):
                continue
            reason = f"column {name[:_SHOWN]!a} cannot be read: {_shown(error)}"
            return RawRow(where, None, reason)
    return plain_row(row, where)


def _hive_columns(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = (folder.partition("=") for folder in folders)
    found = {unquote(name): unquote(value) for name, equals, value in pairs if equals}
    return {name: None if value == _NO_VALUE else value for name, value in found.items()}


def _shown(error: Exception) -> str:
    """Arrow's words without the bytes of the file that it puts into them, on one line."""
    text = " ".join(str(error).split()).rstrip(". ")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
