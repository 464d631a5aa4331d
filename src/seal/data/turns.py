"""Turns of a conversation as files write them, and the words for what they cannot be.

A turn has `role` and `content`, or `from` and `value`; which of the two is told by its keys, and
the name of the column says nothing about it. Of its further keys `name` is left out; `weight` and
`train` must be 1 or true on assistant turns, since a turn cannot be left out of the loss; any other
key that is not empty (`tool_calls`, `reasoning_content`) is refused, because dropping it would
change the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from seal.data.sample import Message

Turns = tuple[Message, ...]

_TOOL_CALLS = ("tool_calls", "function_call")
_CALLS = "calls a tool"
_ANSWERS = frozenset(
    {"function", "function_response", "ipython", "observation", "tool", "tool_response"}
)
# Roles of a turn -> what it does, where the way of writing turns has no such role.
_TOOL_ROLES = {
    "function_call": _CALLS, "tool_call": _CALLS, **dict.fromkeys(_ANSWERS, "holds a tool's answer")
}  # fmt: skip
_IGNORED_KEYS = frozenset({"name", "weight", "train"})
_SHOWN_LENGTH = 40


@dataclass(frozen=True, slots=True)
class _TurnKeys:
    """What a turn's two fields are called, and its roles in `seal`'s words."""

    role: str
    content: str
    roles: Mapping[str, str]


_CHAT = _TurnKeys(
    "role", "content", {role: role for role in ("system", "user", "assistant", "tool")}
)
_SHAREGPT = _TurnKeys(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
    },
)


def turns_of(value: object, column: str) -> Turns:
    """The turns that a column holds.

    Raises:
        ValueError: If it holds something else, or what cannot be trained on; naming the turn.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        raise ValueError(
            f"{quoted([column])} must be a list of turns; it is one text that looks like such a "
            "list. Write the list itself into a .jsonl or .parquet file: json.loads(text)"
        )
    if not isinstance(value, list | tuple):
        raise ValueError(f"{quoted([column])} must be a list of turns; it is {shown(value)}")
    if not value:
        raise ValueError(f"{quoted([column])} is an empty list; it must hold the turns")
    return tuple(_turn(turn, f"{column}[{place}]") for place, turn in enumerate(value))


def user_turn(value: object, where: str) -> Message:
    """A turn of the user.

    Raises:
        ValueError: If it holds no text.
    """
    return Message("user", _filled(value, where, "the user's turn"))


def assistant_turn(value: object, where: str) -> Message:
    """A turn of the assistant.

    Raises:
        ValueError: If it holds no text.
    """
    return Message("assistant", _filled(value, where, "the assistant's response"))


def text_of(value: object, where: str) -> str:
    """A string, or the text parts of multi-part content joined without a separator.

    Raises:
        ValueError: If it is something else, or has other parts.
    """
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list | tuple) else [None]
    texts = [_part_text(part) for part in parts]
    if None in texts:
        raise ValueError(
            f"{where} must be a string or a list of text parts; it "
            f"{_odd_part(parts[texts.index(None)]) or f'is {shown(value)}'}"
        )
    return "".join(text for text in texts if text is not None)


def _turn(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{where} must be an object; it is {shown(turn)}")
    # Arrow gives every turn the keys of all turns: those without a value say nothing.
    fields = {key: value for key, value in turn.items() if value not in (None, [], {})}
    _refuse_tool_calls(fields, where)
    keys = _keys_of(fields, turn, where)
    name = fields[keys.role]
    if not isinstance(name, str) or name not in keys.roles:
        if isinstance(name, str) and name in _TOOL_ROLES:
            _refuse_tool(_TOOL_ROLES[name], keys.role, name, where)
        raise ValueError(
            f"{where}.{keys.role} is {shown(name)}; known roles: {', '.join(keys.roles)}"
        )
    role = keys.roles[name]
    _check_keys(fields, where, keys, role)
    content_where = f"{where}.{keys.content}"
    if role == "user":
        return user_turn(fields[keys.content], content_where)
    if role == "assistant":
        return assistant_turn(fields[keys.content], content_where)
    return Message(role, text_of(fields[keys.content], content_where))


def _keys_of(fields: Mapping[str, Any], turn: Mapping[str, Any], where: str) -> _TurnKeys:
    """Which of the two ways of writing a turn this is."""
    fitting = [keys for keys in (_CHAT, _SHAREGPT) if {keys.role, keys.content} <= fields.keys()]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(
            f'{where} has both "role" with "content" and "from" with "value". Remove one pair'
        )
    for keys in (_CHAT, _SHAREGPT):
        if keys.role in fields and keys.content in turn:
            what = "null" if turn[keys.content] is None else "empty"
            raise ValueError(f"{where}.{keys.content} is {what}; a turn must hold text")
    raise ValueError(
        f'{where} needs "role" and "content", or "from" and "value"; it has '
        f"{quoted(list(fields)) or 'nothing'}"
    )


def _refuse_tool_calls(fields: Mapping[str, Any], where: str) -> None:
    for key in _TOOL_CALLS:
        if key in fields:
            _refuse_tool(_CALLS, key, fields[key], where)


def _refuse_tool(does: str, key: str, value: object, where: str) -> NoReturn:
    raise ValueError(
        f"{where} {does} ({quoted([key])}: {shown(value)}), which is not supported: only "
        "text is ranked and trained on. Write the call into the turn's text, as the model is to "
        "write it, or leave the row out"
    )


def _check_keys(fields: Mapping[str, Any], where: str, keys: _TurnKeys, role: str) -> None:
    unknown = sorted(fields.keys() - _IGNORED_KEYS - {keys.role, keys.content})
    if unknown:
        raise ValueError(
            f"{where} has {quoted(unknown)}, which is not supported: only the turn's "
            f"{quoted([keys.content])} is trained on. Remove the key, or the row"
        )
    for key in ("weight", "train"):
        if role == "assistant" and key in fields and fields[key] != 1:
            raise ValueError(
                f"{where}.{key} is {shown(fields[key])}: a response cannot be left out of the "
                "loss. Remove the key, or give the earlier turns as prompt"
            )


def _filled(value: object, where: str, what: str) -> str:
    text = text_of(value, where)
    if not text.strip():
        raise ValueError(f"{where} is empty: {what} must hold text")
    return text


def _part_text(part: object) -> str | None:
    if not isinstance(part, Mapping):
        return None
    fields = {key: value for key, value in part.items() if value is not None}
    text = fields.get("text")
    is_text = fields.keys() == {"type", "text"} and fields["type"] == "text"
    return text if is_text and isinstance(text, str) else None


def _odd_part(part: object) -> str:
    """What is odd about a part; "" where it is no part at all."""
    if not isinstance(part, Mapping) or "type" not in part:
        return ""
    if part["type"] != "text":
        return f"has a part of type {shown(part['type'])}, and only text is trained on"
    more = sorted(str(key) for key in part if key not in ("type", "text") and part[key] is not None)
    return f"has a part with {quoted(more)} beside its text" if more else ""


# --- words for messages -------------------------------------------------------------------------


def quoted(names: list[str] | tuple[str, ...], joint: str = ", ") -> str:
    """Names in quotes, each cut short."""
    # JSON with ASCII only: column names are data, and data must not reach a terminal raw.
    return joint.join(json.dumps(str(name)[:_SHOWN_LENGTH]) for name in names)


def shown(value: object) -> str:
    """Type and value, shortened and without control characters."""
    text = ascii(value)
    if len(text) > _SHOWN_LENGTH:
        text = text[:_SHOWN_LENGTH] + "..."
    return f"{type(value).__name__} {text}"
