"""Types of Arrow columns: which of them can be a text, turns, or JSON at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.types as kinds

Kind = Literal["text", "turns", "text or turns", "a text, number or truth value", "text or nothing"]
"""What a column must hold for whoever reads it."""

SCALAR: Kind = "a text, number or truth value"

Needs = Mapping[str, Kind]
"""Column -> what it must hold."""

Opened = Callable[[Any], Any]
"""Makes the value that JSON text inside a column stands for."""

_SHOWN = 60


def fits(kind: pa.DataType, wanted: Kind) -> bool:
    """Whether a column of such a type can be what is wanted."""
    return _FITS[wanted](kind)


def fits_json(kind: pa.DataType) -> bool:
    """Whether rows with such a value can be written as JSON."""
    stored = _stored(kind)
    if kinds.is_nested(stored):
        parts = (stored.field(place).type for place in range(stored.num_fields))
        return all(map(fits_json, parts))
    is_bytes = (
        kinds.is_binary(stored)
        or kinds.is_large_binary(stored)
        or kinds.is_fixed_size_binary(stored)
        or kinds.is_binary_view(stored)
    )
    return not is_bytes or _is_uuid(kind)


def _stored(kind: pa.DataType) -> pa.DataType:
    """What the values are, without how they are packed."""
    while True:
        if kinds.is_dictionary(kind) or kinds.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid"


def _is_json(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def _is_text(kind: pa.DataType) -> bool:
    kind = _stored(kind)
    is_string = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
    return is_string or kinds.is_null(kind) or _is_turns(kind)  # parts of a text are a list


def _is_turns(kind: pa.DataType) -> bool:
    if _is_json(kind):
        return True
    kind = _stored(kind)
    is_list = (
        kinds.is_list(kind)
        or kinds.is_large_list(kind)
        or kinds.is_fixed_size_list(kind)
        or kinds.is_list_view(kind)
        or kinds.is_large_list_view(kind)
    )
    if not is_list:
        return kinds.is_null(kind)
    item = _stored(kind.value_type)
    if _is_json(kind.value_type):
        return True
    return (kinds.is_struct(item) or kinds.is_null(item)) and fits_json(item)


def _is_scalar(kind: pa.DataType) -> bool:
    return fits_json(kind) and not kinds.is_nested(_stored(kind))


_FITS: dict[Kind, Callable[[pa.DataType], bool]] = {
    "text": _is_text,
    "turns": _is_turns,
    "text or turns": _is_text,
    "a text, number or truth value": _is_scalar,
    "text or nothing": fits_json,
}


def type_name(kind: pa.DataType) -> str:
    """A type in Arrow's words, on one line and not too long."""
    text = " ".join(str(kind).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def opened_json(kind: pa.DataType) -> Opened | None:
    """What makes values of the JSON texts in a column; None where there are none.

    `datasets` writes what differs from row to row, such as a `content` that is a text in one turn
    and a list of parts in the next, as JSON text of the type `arrow.json`.
    """
    if _is_json(kind):
        return lambda text: None if text is None else json.loads(text)
    stored = _stored(kind)
    if not kinds.is_nested(stored) or kinds.is_map(stored) or kinds.is_union(stored):
        return None
    parts = {
        stored.field(place).name: opened_json(stored.field(place).type)
        for place in range(stored.num_fields)
    }
    if not any(parts.values()):
        return None
    if kinds.is_struct(stored):
        return lambda row: (
            row
            and {name: one(value) if (one := parts[name]) else value for name, value in row.items()}
        )
    (item,) = parts.values()
    assert item is not None
    return lambda items: None if items is None else [item(value) for value in items]
