"""A row as it stands in its file, whatever the kind of file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

MAX_ROW_BYTES = 16 * 2**20  # a longer line is a binary file or a missing line break


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file.

    Attributes:
        where: "file:line", or "file:row number" where rows have no lines of their own.
        row: Column -> value, all of it expressible in JSON; None for a bad row.
        reason: Why the row is bad; "" for a good one.
    """

    where: str
    row: dict[str, Any] | None
    reason: str = ""


def plain_row(row: Mapping[str, Any], where: str) -> RawRow:
    """A row with its values as JSON holds them; bad if one of them cannot be."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        try:
            found[name] = plain(value)
        except TypeError as error:
            return RawRow(where, None, f"column {ascii(name)[:60]}: {error}")
    return RawRow(where, found)


def plain(value: object) -> object:
    """The value as JSON holds it: dates, decimals and UUIDs as text, NaN as null.

    Raises:
        TypeError: If JSON cannot hold it.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, datetime | date | time | timedelta | Decimal | UUID):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
