"""The selection: which samples of a ranked pool are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class Selection:
    """The ids that are kept, in ascending order.

    Attributes:
        ids: The kept samples.
        num_pool: How many samples there were to choose from.
    """

    ids: tuple[str, ...]
    num_pool: int


def save_selection(selection: Selection, path: Path) -> None:
    """Write the kept ids as Parquet; the pool's size goes into the file's metadata."""
    table = pa.table({"id": list(selection.ids)}).replace_schema_metadata(
        {"num_pool": str(selection.num_pool)}
    )
    pq.write_table(table, path)


def load_selection(path: Path) -> Selection:
    """Read a selection that `save_selection` wrote.

    Raises:
        ValueError: If the file is not a selection.
    """
    try:
        table = pq.read_table(path)
        return Selection(tuple(table["id"].to_pylist()), int(table.schema.metadata[b"num_pool"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a readable selection ({error}). Select from the ranking again."
        ) from error
