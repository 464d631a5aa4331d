"""Rows in Arrow record batches, in memory or streamed into a file that is then memory-mapped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, final

import pyarrow as pa

T = TypeVar("T")

# A batch is what must be in memory at once while rows are written.
_ROWS_PER_BATCH = 4096
_BYTES_PER_BATCH = 16 * 2**20


@final
class Records:
    """Rows that can be read at any place.

    Attributes:
        batches: The rows' batches, in order; none is empty.
        starts: The place of each batch's first row, and at the end the number of rows.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.batches = tuple(batches)
        self.starts = [0]
        for batch in self.batches:
            self.starts.append(self.starts[-1] + batch.num_rows)

    def __len__(self) -> int:
        return self.starts[-1]

    def find(self, place: int) -> tuple[int, int]:
        """Which batch a row is in, and its place there."""
        batch = bisect_right(self.starts, place) - 1
        return batch, place - self.starts[batch]

    def parts(self, name: str) -> list[pa.Array]:
        """A column, batch by batch."""
        return [batch.column(name) for batch in self.batches]

    def stream(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of some columns, row after row, a batch of them in memory at a time."""
        for batch in self.batches:
            columns = [batch.column(name).to_pylist() for name in names]
            yield from zip(*columns, strict=True)


@final
class RecordWriter:
    """Takes rows one by one; holds a batch of them if there is a file, else all."""

    def __init__(self, schema: pa.Schema, path: Path | None) -> None:
        """A writer of new rows.

        Args:
            schema: The columns.
            path: The file; None keeps the rows in memory.
        """
        self._schema = schema
        self._path = path
        self._rows: list[tuple[Any, ...]] = []
        self._num_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._sink: pa.NativeFile | None = None
        if path is not None:
            self._sink = pa.OSFile(str(path), "wb")
            self._writer = pa.ipc.new_file(self._sink, schema)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sink is not None and not self._sink.closed:
            self._sink.close()

    def add(self, row: tuple[Any, ...], num_bytes: int) -> None:
        """One more row.

        Args:
            row: Its values, in the schema's order.
            num_bytes: About what it takes.
        """
        self._rows.append(row)
        self._num_bytes += num_bytes
        if len(self._rows) >= _ROWS_PER_BATCH or self._num_bytes >= _BYTES_PER_BATCH:
            self._flush()

    def finish(self) -> Records:
        """All rows; from now on there can be no more."""
        self._flush()
        if self._path is None:
            return Records(self._batches)
        assert self._writer is not None
        assert self._sink is not None
        self._writer.close()
        self._sink.close()
        return open_records(self._path)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        if self._writer is None:
            self._batches.append(batch)
        else:
            self._writer.write_batch(batch)
        self._rows, self._num_bytes = [], 0


def open_records(path: Path) -> Records:
    """The rows of a file that a `RecordWriter` wrote, memory-mapped."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    return Records(file.get_batch(number) for number in range(file.num_record_batches))


def batched(rows: Iterable[T], num: int) -> Iterator[list[T]]:
    """The rows, so many at a time."""
    source = iter(rows)
    while some := list(islice(source, num)):
        yield some
