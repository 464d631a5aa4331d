"""Rows that come in typed columns: Parquet files and folders, and data sets of `datasets`.

Only the columns that JSON can hold are read, since rows are written back as JSON (a selection, an
export): bytes (images, sound) cannot be, and are named instead. A column that is needed and of the
wrong type is told once for the file, and not once for each of its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
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
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            names = _columns_to_read(schema, path, needs)
            openers = {name: opened_json(schema.field(name).type) for name in names}
            number = 0
            for batch in table.iter_batches(columns=names, batch_size=_ROWS_AT_ONCE):
                chosen = _chosen(batch, names)
                for place in range(chosen.num_rows):
                    number += 1
                    yield _arrow_row(chosen, place, f"{path}:row {number}", openers)
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
    for file in files:
        below = file.relative_to(folder)
        where = f"{path.rstrip('/')}/{below.as_posix()}"
        given = _hive_columns(below.parts[:-1])
        for raw in read_parquet(file, where, needs):
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
    chosen = rows.select_columns(names)
    try:
        for number, row in enumerate(chosen, start=1):
            yield plain_row(row, f"{path}:row {number}")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable data set: {_shown(error)}.") from error


def parquet_schema(file: Path) -> pa.Schema | None:
    """The columns of a Parquet file; None if it is none."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return None


def describe_left_out(schema: pa.Schema) -> str:
    """A sentence on the columns that are not read; "" if all are."""
    found = [field for field in schema if not fits_json(field.type)]
    if not found:
        return ""
    listed = ", ".join(f"{field.name[:_SHOWN]!a} ({type_name(field.type)})" for field in found)
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
    for field in schema:
        wanted = needs.get(field.name)
        if wanted is not None and not fits(field.type, wanted):
            raise ValueError(
                f"{path}: the column {field.name[:_SHOWN]!a} holds {type_name(field.type)}, and "
                f"must hold {wanted}. Convert it, or have the settings name another column"
                f"{', or none (null)' * (wanted == SCALAR)}."
            )
    names = [field.name for field in schema if fits_json(field.type)]
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


def _arrow_row(
    batch: pa.RecordBatch, place: int, where: str, openers: Mapping[str, Opened | None]
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
