"""Ids of many samples in little memory: one Arrow column instead of a Python string each."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seal.artifacts.records import batched

_AT_ONCE = 2**16  # ids that are Python strings at a time
_PER_CHUNK = 2**20  # of a column whose offsets have 32 bits


class Identified(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str:
        """Whose it is."""
        ...


Row = TypeVar("Row", bound=Identified, covariant=True)


@final
class Ids(Sequence[str]):
    """Ids in an order; about 24 bytes each, or none where they lie in a memory-mapped file.

    Equal to any tuple or list of the same ids in the same order.

    Attributes:
        column: The ids as Arrow has them; none is missing.
    """

    def __init__(self, column: pa.Array | pa.ChunkedArray) -> None:
        """The ids of a column of strings, which must have no nulls."""
        assert column.null_count == 0
        wide = column.cast(pa.large_string())  # the same array where it is that already
        if isinstance(wide, pa.ChunkedArray):
            wide = wide.combine_chunks()
        self.column: pa.LargeStringArray = wide

    @staticmethod
    def of(ids: Iterable[str]) -> Ids:
        """The same ids, as they come."""
        if isinstance(ids, Ids):
            return ids
        parts = [pa.array(some, pa.large_string()) for some in batched(ids, _AT_ONCE)]
        parts.append(pa.array([], pa.large_string()))
        return Ids(pa.concat_arrays(parts))

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Ids: ...
    def __getitem__(self, place: int | slice) -> str | Ids:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        return self.column[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.column.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ids):
            return self.column.equals(other.column)
        if isinstance(other, tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __repr__(self) -> str:
        more = ", ..." if len(self) > 3 else ""
        return f"<{len(self)} ids: {', '.join(self[:3])}{more}>"

    def order(self) -> np.ndarray:
        """int64 [N]: the places of the ids in ascending order of id."""
        return pc.call_function("sort_indices", [self.column]).to_numpy().astype(np.int64)

    def is_sorted(self) -> bool:
        """Whether the ids ascend, so that none occurs twice."""
        falls = pc.call_function("greater_equal", [self.column[:-1], self.column[1:]])
        return not falls.true_count

    def num_different(self) -> int:
        """How many different ids there are."""
        ascending = self.column if self.is_sorted() else self.column.take(pa.array(self.order()))
        steps = pc.call_function("not_equal", [ascending[:-1], ascending[1:]])
        return min(1, len(self)) + steps.true_count

    def text(self) -> pa.ChunkedArray:
        """The ids as a column of a file."""
        starts = range(0, len(self), _PER_CHUNK)
        parts = [self.column.slice(start, _PER_CHUNK).cast(pa.string()) for start in starts]
        return pa.chunked_array(parts, pa.string())

    def take(self, places: np.ndarray) -> Ids:
        """The ids at some places, in the order of these."""
        return Ids(self.column.take(pa.array(places)))

    def ascending(self) -> Ids:
        """The same ids, sorted."""
        return self if self.is_sorted() else self.take(self.order())

    def is_in(self, others: Sequence[str]) -> np.ndarray:
        """Which ids are among others, bool [N]."""
        options = pc.SetLookupOptions(value_set=Ids.of(others).column)
        found = pc.call_function("is_in", [self.column], options)
        return found.to_numpy(zero_copy_only=False)

    def places_of(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [len(ids)]: where each of some ids is among these.

        Raises:
            KeyError: If one is not.
        """
        options = pc.SetLookupOptions(value_set=self.column)
        places = pc.call_function("index_in", [Ids.of(ids).column], options)
        if places.null_count:
            found = zip(ids, places.to_pylist(), strict=True)
            raise KeyError(next(key for key, place in found if place is None))
        return places.to_numpy().astype(np.int64)

    def digest(self) -> str:
        """SHA-256 over the ids in their order, in hex."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _AT_ONCE):
            some = self.column.slice(start, _AT_ONCE).to_pylist()
            digest.update(("\n".join(some) + "\n").encode())
        return digest.hexdigest()


class Listed(Sequence[Row]):
    """Rows that can name all their ids without making the rows; abstract."""

    @property
    @abstractmethod
    def ids(self) -> Ids:
        """The rows' ids, in their order."""


@final
class Joined(Listed[Row]):
    """Two runs of rows, one behind the other, without a copy of either."""

    def __init__(self, first: Sequence[Row], second: Sequence[Row]) -> None:
        self._first, self._second = first, second

    @property
    def ids(self) -> Ids:
        """Of the first rows, then of the second."""
        return Ids(pa.concat_arrays([ids_of(part).column for part in (self._first, self._second)]))

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        behind = place - len(self._first)
        return self._first[place] if behind < 0 else self._second[behind]

    def __iter__(self) -> Iterator[Row]:
        yield from self._first
        yield from self._second


def ids_of(rows: Sequence[Identified]) -> Ids:
    """The ids of rows, in their order."""
    return rows.ids if isinstance(rows, Listed) else Ids.of(row.id for row in rows)
