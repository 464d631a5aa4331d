"""Many tokenized samples as the rows of an Arrow file: arrays are views of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, final, overload

import numpy as np
import pyarrow as pa

from seal.artifacts.ids import Ids, Listed
from seal.artifacts.records import Records
from seal.data.tokenize import Encoded

TOKEN_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("response_mask", pa.list_(pa.bool_())),
        pa.field("is_truncated", pa.bool_()),
    ]
)


class _Part(NamedTuple):
    """The columns of a batch: row r has the tokens offsets[r] to offsets[r + 1]."""

    ids: pa.StringArray
    offsets: np.ndarray
    tokens: np.ndarray
    mask: pa.BooleanArray
    is_truncated: pa.BooleanArray


@final
class EncodedRows(Listed[Encoded]):
    """Tokenized samples in an order; each is made anew when it is asked for.

    Equal to other rows of the same ids and tokens in the same order. The arrays cannot be written
    to.
    """

    def __init__(self, records: Records, places: np.ndarray | None = None) -> None:
        """Rows of a file.

        Args:
            records: What holds them; see `TOKEN_SCHEMA`.
            places: int64 [N]: which, and in which order; None for all of them as they are.
        """
        self._records = records
        self._places = places
        self._ids: Ids | None = None

    @property
    def ids(self) -> Ids:
        """The samples' ids, in their order."""
        if self._ids is None:
            ids = Ids(pa.chunked_array(self._records.parts("id"), pa.string()))
            self._ids = ids if self._places is None else ids.take(self._places)
        return self._ids

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: how many tokens each has, prompt and response together."""
        parts = [np.diff(part.offsets) for part in self._parts]
        lengths = np.concatenate([np.zeros(0, dtype=np.int64), *parts], dtype=np.int64)
        return lengths if self._places is None else lengths[self._places]

    def take(self, places: np.ndarray) -> EncodedRows:
        """Those at some places, in the order of these."""
        own = places if self._places is None else self._places[places]
        return EncodedRows(self._records, np.asarray(own, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._records) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> EncodedRows: ...
    def __getitem__(self, place: int | slice) -> Encoded | EncodedRows:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        place = range(len(self))[place]
        return self._at(place if self._places is None else int(self._places[place]))

    def __iter__(self) -> Iterator[Encoded]:
        places = range(len(self)) if self._places is None else map(int, self._places)
        return map(self._at, places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodedRows):
            return NotImplemented
        return len(self) == len(other) and all(map(_same, self, other))

    @cached_property
    def _parts(self) -> list[_Part]:
        return [_part(batch) for batch in self._records.batches]

    def _at(self, place: int) -> Encoded:
        batch, row = self._records.find(place)
        part = self._parts[batch]
        start, end = int(part.offsets[row]), int(part.offsets[row + 1])
        mask = part.mask.slice(start, end - start).to_numpy(zero_copy_only=False)
        return Encoded(
            part.ids[row].as_py(), part.tokens[start:end], mask, part.is_truncated[row].as_py()
        )


def lengths_of(rows: Sequence[Encoded]) -> np.ndarray:
    """int64 [N]: how many tokens each row has."""
    if isinstance(rows, EncodedRows):
        return rows.lengths
    return np.array([len(row.input_ids) for row in rows], dtype=np.int64)


def _same(one: Encoded, other: Encoded) -> bool:
    return (
        (one.id, one.is_truncated) == (other.id, other.is_truncated)
        and np.array_equal(one.input_ids, other.input_ids)
        and np.array_equal(one.response_mask, other.response_mask)
    )


def _part(batch: pa.RecordBatch) -> _Part:
    tokens, mask = batch.column("input_ids"), batch.column("response_mask")
    return _Part(
        ids=batch.column("id"),
        offsets=tokens.offsets.to_numpy(),
        tokens=tokens.values.to_numpy(),
        mask=mask.values,
        is_truncated=batch.column("is_truncated"),
    )
