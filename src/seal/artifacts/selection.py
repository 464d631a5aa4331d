"""The selection: what of a ranked pool is kept, and which text in it is not learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from seal.artifacts.ids import Ids
from seal.artifacts.paths import StrPath

_MASK_COLUMNS = ("mask_turn", "mask_start", "mask_end")


class TextSpan(NamedTuple):
    """Characters of a sample's completion, whatever tokenizer will cut it.

    Attributes:
        turn: Place of the assistant turn in `Sample.completion`.
        start: First character in that turn's content, as the user wrote it.
        end: One after the last.
    """

    turn: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The ids that are kept, in ascending order.

    Attributes:
        ids: The kept samples.
        num_pool: How many samples there were to choose from.
        masks: Id -> characters that carry no loss in training, in their order; of the kept samples
            that have some.
        num_wholly_masked: Samples that would have been kept, but of which masking left no text.
    """

    ids: Sequence[str]
    num_pool: int
    masks: Mapping[str, tuple[TextSpan, ...]] = field(default_factory=dict)
    num_wholly_masked: int = 0


def save_selection(selection: Selection, path: StrPath) -> None:
    """Write the kept ids as Parquet, and their masks as lists where there are any.

    The pool's size goes into the file's metadata.
    """
    path = Path(path)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"id": Ids.of(selection.ids).text()}
    notes = {"num_pool": str(selection.num_pool)}
    if selection.masks:
        masks = [selection.masks.get(key, ()) for key in selection.ids]
        for place, name in enumerate(_MASK_COLUMNS):
            numbers = [[span[place] for span in spans] for spans in masks]
            columns[name] = pa.array(numbers, pa.list_(pa.int32()))
    if selection.num_wholly_masked:
        notes["num_wholly_masked"] = str(selection.num_wholly_masked)
    pq.write_table(pa.table(columns).replace_schema_metadata(notes), path)


def load_selection(path: StrPath) -> Selection:
    """Read a selection that `save_selection` wrote.

    Raises:
        ValueError: If the file is not a selection.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
        notes = table.schema.metadata
        return Selection(
            Ids(table["id"]),
            int(notes[b"num_pool"]),
            _masks(table),
            int(notes.get(b"num_wholly_masked", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a readable selection ({error}). Select from the ranking again."
        ) from error


def _masks(table: pa.Table) -> dict[str, tuple[TextSpan, ...]]:
    if _MASK_COLUMNS[0] not in table.column_names:
        return {}
    columns = (table[name].to_pylist() for name in _MASK_COLUMNS)
    rows = zip(table["id"].to_pylist(), *columns, strict=True)
    return {
        key: tuple(TextSpan(*span) for span in zip(*numbers, strict=True))
        for key, *numbers in rows
        if numbers[0]
    }
