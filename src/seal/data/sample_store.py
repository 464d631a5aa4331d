"""Many samples as the rows of Arrow files: made when they are read, never all at once.

| file        | columns                                                                          |
|-------------|----------------------------------------------------------------------------------|
| rows.arrow  | `row` (the user's row as JSON), `where`, `source`, `label`; in the files' order  |
| index.arrow | `id` in the same order; `content`, ascending, and `order`, the place of each     |

A sample is parsed from its row again whenever it is asked for, so its text is stored once.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seal.artifacts.ids import Ids, Listed
from seal.artifacts.records import Records
from seal.data.formats import Turns
from seal.data.sample import ID_LENGTH, Sample

ROW_SCHEMA = pa.schema(
    [
        pa.field("row", pa.string()),
        pa.field("where", pa.string()),
        pa.field("source", pa.string()),
        pa.field("label", pa.string()),
    ]
)
_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)

# A row as it was read -> prompt and completion.
Parse = Callable[[Mapping[str, Any]], tuple[Turns, Turns]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Which id stands where.

    Attributes:
        ids: In the files' order.
        contents: uint64 [N], ascending: the hash of each sample's content, copies included.
        order: int64 [N]: the place of each; copies in the files' order.
    """

    ids: Ids
    contents: np.ndarray
    order: np.ndarray

    def place(self, key: str) -> int:
        """Where an id stands.

        Raises:
            KeyError: If it is none of these.
        """
        content, _, copy = key.partition("-")
        try:
            wanted = np.uint64(int(content, 16))
            first = int(np.searchsorted(self.contents, wanted)) + int(copy or 0)
        except (ValueError, OverflowError):
            raise KeyError(key) from None
        place = int(self.order[first]) if 0 <= first < len(self.order) else -1
        if place < 0 or self.ids[place] != key:
            raise KeyError(key)
        return place


def make_index(contents: np.ndarray) -> Index:
    """The index of contents in the files' order, uint64 [N]; a repeated one is a copy."""
    order = np.argsort(contents, kind="stable")
    ascending = contents[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = ascending[1:] != ascending[:-1]
    counted = np.arange(len(order))
    copies = np.empty(len(order), dtype=np.int64)
    copies[order] = counted - np.maximum.accumulate(np.where(is_first, counted, 0))
    return Index(_names(contents, copies), ascending, order)


def save_index(index: Index, path: Path) -> None:
    """Write an index as one Arrow record batch."""
    columns = [index.ids.column, pa.array(index.contents), pa.array(index.order)]
    batch = pa.RecordBatch.from_arrays(columns, ["id", "content", "order"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def load_index(path: Path) -> Index:
    """The index that `save_index` wrote, memory-mapped."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return Index(
        Ids(batch.column("id")),
        batch.column("content").to_numpy(),
        batch.column("order").to_numpy(),
    )


def hex_of(contents: np.ndarray) -> pa.LargeStringArray:
    """The text of contents, uint64 [N]: 16 hex digits each."""
    digits = np.empty((len(contents), ID_LENGTH), dtype=np.uint8)
    raw = contents.astype(">u8").view(np.uint8).reshape(-1, ID_LENGTH // 2)
    digits[:, 0::2], digits[:, 1::2] = _DIGITS[raw >> 4], _DIGITS[raw & 15]
    offsets = np.arange(len(contents) + 1, dtype=np.int64) * ID_LENGTH
    return pa.LargeStringArray.from_buffers(
        len(contents), pa.py_buffer(offsets), pa.py_buffer(digits)
    )


@dataclass(frozen=True)
class SampleStore:
    """The rows of a set, their index, and how a row becomes a sample.

    Attributes:
        records: The rows; see `ROW_SCHEMA`.
        index: Of as many ids.
        starts: The place of the first sample of each file.
        parsers: How the rows of each file are read.
    """

    records: Records
    index: Index
    starts: tuple[int, ...]
    parsers: tuple[Parse, ...]

    def value(self, name: str, place: int) -> str | None:
        """One value of a column."""
        batch, row = self.records.find(place)
        return self._columns[name][batch][row].as_py()

    def sample(self, place: int, key: str, row: str, source: str) -> Sample:
        """A sample from its row."""
        parse = self.parsers[bisect_right(self.starts, place) - 1]
        prompt, completion = parse(json.loads(row))
        return Sample(key, prompt, completion, source)

    @cached_property
    def _columns(self) -> dict[str, list[pa.Array]]:
        return {name: self.records.parts(name) for name in ROW_SCHEMA.names}


@final
class Samples(Listed[Sample]):
    """Samples in an order; each is made anew when it is asked for.

    Attributes:
        store: What holds them, and perhaps more.
    """

    def __init__(self, store: SampleStore, places: np.ndarray | None = None) -> None:
        """Samples of a store.

        Args:
            store: What holds them.
            places: int64 [N]: which, and in which order; None for all of them as they are.
        """
        self.store = store
        self._places = places
        self._ids: Ids | None = None

    @property
    def ids(self) -> Ids:
        """The samples' ids, in their order."""
        if self._ids is None:
            ids = self.store.index.ids
            self._ids = ids if self._places is None else ids.take(self._places)
        return self._ids

    @property
    def sources(self) -> pa.LargeStringArray:
        """The samples' sources, in their order."""
        parts = [part.cast(pa.large_string()) for part in self.store.records.parts("source")]
        sources = pa.concat_arrays(parts)
        return sources if self._places is None else sources.take(pa.array(self._places))

    def take(self, places: np.ndarray) -> Samples:
        """Those at some places, in the order of these."""
        own = places if self._places is None else self._places[places]
        return Samples(self.store, np.asarray(own, dtype=np.int64))

    def without(self, ids: Sequence[str]) -> Samples:
        """Those whose id is none of some."""
        return self.take(np.flatnonzero(~self.ids.is_in(ids))) if ids else self

    def find(self, key: str) -> Sample:
        """The sample of an id, whether it is one of these or another of the same store.

        Raises:
            KeyError: If there is none.
        """
        return self._at(self.store.index.place(key))

    def __len__(self) -> int:
        return len(self.store.index.ids) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Samples: ...
    def __getitem__(self, place: int | slice) -> Sample | Samples:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        place = range(len(self))[place]
        return self._at(place if self._places is None else int(self._places[place]))

    def __iter__(self) -> Iterator[Sample]:
        if self._places is not None:
            yield from map(self._at, map(int, self._places))
            return
        store = self.store
        rows = store.records.stream(["row", "source"])
        for place, (key, (row, source)) in enumerate(zip(store.index.ids, rows, strict=True)):
            yield store.sample(place, key, row, source)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Samples | tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def _at(self, place: int) -> Sample:
        store = self.store
        row, source = store.value("row", place), store.value("source", place)
        assert row is not None
        assert source is not None
        return store.sample(place, store.index.ids[place], row, source)


def sources_of(samples: Sequence[Sample]) -> pa.LargeStringArray:
    """The sources of samples, in their order."""
    if isinstance(samples, Samples):
        return samples.sources
    return pa.array([sample.source for sample in samples], pa.large_string())


@final
class Conversations(Mapping[str, Sample]):
    """Id -> sample of several sets, its source left out; ids of equal content are equal."""

    def __init__(self, sets: Sequence[Samples]) -> None:
        self._sets = tuple(sets)

    def __getitem__(self, key: str) -> Sample:
        for samples in self._sets:
            with suppress(KeyError):
                return replace(samples.find(key), source="")
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for place, samples in enumerate(self._sets):
            before = [part.ids for part in self._sets[:place]]
            is_new = ~np.any([samples.ids.is_in(ids) for ids in before], axis=0)
            yield from samples.ids.take(np.flatnonzero(is_new)) if before else samples.ids

    def __len__(self) -> int:
        return sum(1 for _ in self)


@final
class Column(Mapping[str, T], Generic[T]):
    """Id -> what a column holds for it; ids without a value are absent."""

    def __init__(self, store: SampleStore, name: str, read: Callable[[str], T]) -> None:
        """A view of a column.

        Args:
            store: What holds it.
            name: The column's.
            read: Makes the value of the text that is stored.
        """
        self._store = store
        self._name = name
        self._read = read
        self._length = sum(len(part) - part.null_count for part in store.records.parts(name))

    def __getitem__(self, key: str) -> T:
        text = self._store.value(self._name, self._store.index.place(key))
        if text is None:
            raise KeyError(key)
        return self._read(text)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._texts())

    def __contains__(self, key: object) -> bool:
        try:
            place = self._store.index.place(str(key))
        except KeyError:
            return False
        return self._store.value(self._name, place) is not None

    def items(self) -> ItemsView[str, T]:
        """Ids and values, in the files' order."""
        return _Items(self)

    def values(self) -> ValuesView[T]:
        """The values, in the files' order."""
        return _Values(self)

    def stream(self) -> Iterator[tuple[str, T]]:
        """Ids and values in the files' order, few of them in memory at a time."""
        return ((key, self._read(text)) for key, text in self._texts())

    def _texts(self) -> Iterator[tuple[str, str]]:
        texts = self._store.records.stream([self._name])
        for key, (text,) in zip(self._store.index.ids, texts, strict=True):
            if text is not None:
                yield key, text


class _Items(ItemsView[str, T]):
    _mapping: Column[T]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return self._mapping.stream()


class _Values(ValuesView[T]):
    _mapping: Column[T]

    def __iter__(self) -> Iterator[T]:
        return (value for _, value in self._mapping.stream())


def _names(contents: np.ndarray, copies: np.ndarray) -> Ids:
    names = hex_of(contents)
    if copies.any():
        numbers = pa.array(copies).cast(pa.large_string())
        dash = pa.scalar("-", pa.large_string())
        named = pc.call_function("binary_join_element_wise", [names, numbers, dash])
        names = pc.call_function("if_else", [pa.array(copies > 0), named, names])
    return Ids(names)
