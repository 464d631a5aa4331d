"""A table of arrays per row, written in shards, read through memory mapping.

A row's arrays may have any length: one number per response token, one vector per window. Shards are
Arrow files in a folder that is renamed when the last one is there, so that existence means
completeness; a run that was interrupted goes on at the first missing shard.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seal.artifacts.atomic import make_parent, write_json
from seal.artifacts.ids import Ids
from seal.artifacts.provenance import (
    Provenance,
    check_files,
    environment,
    load_provenance,
    made_files,
    save_provenance,
)
from seal.processes import processes

# One row -> its arrays by column name, each one-dimensional.
Row = Mapping[str, np.ndarray]
# Places of rows -> the same places (in any order) with their arrays.
Fill = Callable[[Sequence[int]], Iterator[tuple[int, Row]]]


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """Arrays per row; column names and types are the writer's.

    Attributes:
        ids: The rows, in the table's own order.
        columns: Name -> the rows' arrays, list<number> [N]; memory-mapped where there is a file.
    """

    ids: Ids
    columns: dict[str, pa.ChunkedArray]

    def lengths(self, name: str) -> np.ndarray:
        """int64 [N]: how many numbers each row has in a column."""
        counts = [_numpy(chunk.value_lengths()) for chunk in self.columns[name].chunks]
        return np.concatenate(counts).astype(np.int64)

    def flat(self, name: str) -> np.ndarray:
        """All numbers of a column, row after row."""
        return np.concatenate([_numpy(chunk.flatten()) for chunk in self.columns[name].chunks])

    def row(self, place: int) -> dict[str, np.ndarray]:
        """The arrays of one row, by column name."""
        return {name: _numpy(column[place].values) for name, column in self.columns.items()}

    def order(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [len(ids)]: the place of each id in the table."""
        return self.ids.places_of(ids)


def build_table(
    folder: Path | None,
    identity: Mapping[str, Any],
    ids: Sequence[str],
    fill: Fill,
    *,
    rows_per_shard: int = 4096,
) -> RowTable:
    """Read a finished table, or make it, going on where an interrupted run stopped.

    Args:
        folder: Where the table lies; None keeps it in memory.
        identity: All that decides the content, as JSON; recorded beside it. What is unfinished and
            of another identity is cleared away, what is finished is refused.
        ids: The rows in the table's order, at least one; shards are runs of it.
        fill: Computes rows. It is called once per missing shard.
        rows_per_shard: How much an interruption can cost.

    Raises:
        ValueError: If the folder holds a table of another identity, or one that cannot be read.
    """
    assert ids, "a table without rows"
    starts = range(0, len(ids), rows_per_shard)
    shards = [range(start, min(start + rows_per_shard, len(ids))) for start in starts]
    if folder is None:
        return _joined([_record(ids, shard, fill) for shard in shards])
    plain = json.loads(json.dumps(identity, allow_nan=False))
    if processes().first_says(not folder.exists()):
        _build(folder, plain, ids, shards, fill, rows_per_shard)
    if load_provenance(folder).identity != plain:
        raise ValueError(f"{folder} holds another table than asked for. Delete it.")
    table = _opened(folder)
    if table.ids != Ids.of(ids):
        raise ValueError(
            f"{folder} does not hold the {len(ids)} rows asked for: a part of it is missing. "
            "Delete it to compute it again."
        )
    check_files(folder)  # last: what is cut off or gone has a better message
    return table


def open_table(folder: Path) -> RowTable:
    """A finished table, whatever its rows are.

    Raises:
        ValueError: If it cannot be read, or is not as it was made.
    """
    table = _opened(folder)
    check_files(folder)
    return table


def _opened(folder: Path) -> RowTable:
    return _joined([_read(path) for path in sorted(folder.glob("shard-*.arrow"))])


def _build(
    folder: Path,
    identity: dict[str, Any],
    ids: Sequence[str],
    shards: Sequence[range],
    fill: Fill,
    rows_per_shard: int,
) -> None:
    """Make the table's folder; all processes compute, and the first writes."""
    everyone = processes()
    partial = folder.with_name(f".{folder.name}.partial")
    if everyone.is_first:
        _begin(partial, {**identity, "rows_per_shard": rows_per_shard})
    for number, shard in enumerate(shards):
        path = partial / f"shard-{number:05d}.arrow"
        if everyone.first_says(path.exists()):
            continue
        record = _record(ids, shard, fill)
        if everyone.is_first:
            _write(record, path)
    if everyone.is_first:
        save_provenance(Provenance(identity, environment(), made_files(partial)), partial)
        partial.replace(folder)
    everyone.wait()


def _begin(partial: Path, identity: dict[str, Any]) -> None:
    """Make the folder of an unfinished table; one of another identity is cleared away."""
    note = partial / "identity.json"
    try:
        is_other = json.loads(note.read_text("utf-8")) != identity
    except (OSError, ValueError):  # it cannot be told
        is_other = True
    if is_other and partial.exists():
        shutil.rmtree(partial)
    if not partial.exists():
        make_parent(partial)
        partial.mkdir()
        write_json(note, identity)


def _record(ids: Sequence[str], shard: range, fill: Fill) -> pa.RecordBatch:
    rows: dict[int, Row] = dict(fill(shard))
    assert rows.keys() == set(shard)
    names = list(rows[shard[0]])
    arrays = [_lists([rows[place][name] for place in shard]) for name in names]
    keys = pa.array([ids[place] for place in shard], pa.string())
    return pa.RecordBatch.from_arrays([keys, *arrays], ["id", *names])


def _lists(arrays: Sequence[np.ndarray]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.array(np.concatenate(arrays))
    )


def _write(record: pa.RecordBatch, path: Path) -> None:
    unfinished = path.with_suffix(".partial")
    with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, record.schema) as writer:
        writer.write_batch(record)
    unfinished.replace(path)


def _read(path: Path) -> pa.RecordBatch:
    try:
        record = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        record.validate(full=True)  # broken offsets would read beside the file
        return record
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: not a readable part of a table ({error}). Delete {path.parent} to compute it "
            "again."
        ) from error


def _joined(records: Sequence[pa.RecordBatch]) -> RowTable:
    if not records:
        return RowTable(Ids.of(()), {})
    table = pa.Table.from_batches(records)
    return RowTable(
        Ids(table["id"]), {name: table[name] for name in table.column_names if name != "id"}
    )


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)
