r"""Row formats: how a row of a file becomes the turns of a prompt and of a completion.

| format              | columns                                                          |
|---------------------|------------------------------------------------------------------|
| `trl`, the default  | per row either of the next two: TRL's own vocabulary             |
| `messages`          | `messages`: turns with `role` and `content`                      |
| `prompt_completion` | `prompt` and `completion`: two strings, or two lists of turns    |
| `alpaca`            | `instruction`, `output`, and perhaps `input`                     |
| `sharegpt`          | `conversations`: turns with `from` and `value`                   |
| `orca`              | `question`, `response`, and perhaps `system_prompt`              |
| `hh`                | `chosen`: one string of "\n\nHuman: " and "\n\nAssistant: " turns |

A format is never guessed; other columns are left alone. A column that is null counts as absent. In
`messages` and `sharegpt` the completion starts at the first assistant turn, so every assistant turn
is response; in `hh` it is the last one only, because the turns before it are context that the
preferred and the rejected answer share. Of a turn's further keys `name` is left out; `weight` and
`train` must be 1 or true on assistant turns, since a turn cannot be left out of the loss; any other
key that is not empty (`tool_calls`, `reasoning_content`) is refused, because dropping it would
change the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from seal.data.sample import Message

Format = Literal["trl", "messages", "prompt_completion", "alpaca", "sharegpt", "orca", "hh"]

Turns = tuple[Message, ...]

_NEEDED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "orca": ("question", "response"),
    "hh": ("chosen",),
}

# Columns that other tools render into the text. Ranking a text that nobody trains on would be
# silent.
_UNSUPPORTED: dict[str, tuple[str, ...]] = {
    "messages": ("tools", "chat_template_kwargs"),
    "prompt_completion": ("tools", "chat_template_kwargs"),
    "alpaca": ("system", "history"),
    "sharegpt": ("system", "tools"),
    "orca": (),
    "hh": (),
}

_OPTIONAL: dict[str, tuple[str, ...]] = {"alpaca": ("input",), "orca": ("system_prompt",)}

_IGNORED_KEYS = frozenset({"name", "weight", "train"})
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_SHOWN_LENGTH = 40
_NUM_SHOWN_COLUMNS = 20


def parse(row: Mapping[str, Any], format: Format) -> tuple[Turns, Turns]:
    """The prompt and the completion that a row holds.

    A plain pair of strings becomes one user turn and one assistant turn. Alpaca's `input`, where it
    is not blank, follows the instruction after an empty line. Texts are kept as they are, blanks at
    their ends included, except in `hh`, where blanks separate the markers from the text.

    Args:
        row: Column -> value.
        format: How to read it.

    Returns:
        Prompt and completion. The prompt holds a user turn and does not end with an assistant turn;
        the completion starts and ends with an assistant turn.

    Raises:
        ValueError: If the row does not fit the format, naming the field and its value, or if it
            holds something that `seal` cannot train on: no or empty response, tool calls, images.
    """
    columns = {name: value for name, value in row.items() if value is not None}
    shape = _trl_shape(columns, row) if format == "trl" else format
    missing = [name for name in _NEEDED[shape] if name not in columns]
    if missing:
        raise ValueError(_does_not_fit(row, columns, format, _quoted(_NEEDED[shape], " and ")))
    for name in _UNSUPPORTED[shape]:
        if name in columns and columns[name] not in ("", [], {}):
            raise ValueError(
                f"column {_quoted([name])} is {_shown(columns[name])}, which is not supported: it "
                "would be missing from the text. Remove the column, or write it into the turns"
            )
    prompt, completion = _PARSERS[shape](columns)
    _check_order(prompt, completion)
    return prompt, completion


def expected_columns(format: Format) -> tuple[str, ...]:
    """The columns that a format reads, needed ones first."""
    kinds = ("messages", "prompt_completion") if format == "trl" else (format,)
    return tuple(name for kind in kinds for name in _NEEDED[kind] + _OPTIONAL.get(kind, ()))


def describe_columns(row: Mapping[str, Any]) -> str:
    """The columns of a row for a message: names in quotes, at most 20, nulls marked."""
    if not row:
        return "no columns"
    names = [
        _quoted([name]) + (" (null)" if value is None else "")
        for name, value in list(row.items())[:_NUM_SHOWN_COLUMNS]
    ]
    more = len(row) - len(names)
    return "the columns " + ", ".join(names) + (f" and {more} more" if more else "")


def _trl_shape(columns: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    shapes = [
        shape
        for shape in ("messages", "prompt_completion")
        if all(name in columns for name in _NEEDED[shape])
    ]
    if len(shapes) > 1:
        raise ValueError(
            'the row has both "messages" and "prompt" with "completion"; set format: messages or '
            "format: prompt_completion to say which of them counts"
        )
    if not shapes:
        needed = '"messages", or "prompt" and "completion"'
        raise ValueError(_does_not_fit(row, columns, "trl", needed))
    return shapes[0]


def _does_not_fit(
    row: Mapping[str, Any], columns: Mapping[str, Any], format: str, needed: str
) -> str:
    fitting = [shape for shape, names in _NEEDED.items() if all(name in columns for name in names)]
    way_out = (
        f"set format: {' or '.join(fitting)}"
        if fitting
        else f"known formats: {', '.join(get_args(Format))}"
    )
    return f'format "{format}" needs {needed}; this row has {describe_columns(row)}; {way_out}'


def _check_order(prompt: Turns, completion: Turns) -> None:
    if completion[-1].role != "assistant":
        raise ValueError(
            f"the conversation ends with a turn of role {completion[-1].role}; it must end with an "
            "assistant turn"
        )
    if completion[0].role != "assistant":
        raise ValueError(
            f"the completion starts with a turn of role {completion[0].role}; it must start with "
            "an assistant turn"
        )
    if all(turn.role != "user" for turn in prompt):
        raise ValueError("there is no user turn before the response")
    if prompt[-1].role == "assistant":
        raise ValueError("the prompt ends with an assistant turn; the response must follow another")


# --- one parser per shape -----------------------------------------------------------------------


def _parse_messages(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    return _split_at_first_response(_turns(columns["messages"], "messages", _CHAT), "messages")


def _parse_sharegpt(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    turns = _turns(columns["conversations"], "conversations", _SHAREGPT)
    return _split_at_first_response(turns, "conversations")


def _parse_prompt_completion(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    prompt, completion = columns["prompt"], columns["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return (_user(prompt, "prompt"),), (_assistant(completion, "completion"),)
    if not (isinstance(prompt, list | tuple) and isinstance(completion, list | tuple)):
        raise ValueError(
            '"prompt" and "completion" must both be strings or both be lists of turns; they are '
            f"{_shown(prompt)} and {_shown(completion)}"
        )
    responses = _turns(completion, "completion", _CHAT)
    if all(turn.role != "assistant" for turn in responses):
        raise ValueError('"completion" has no assistant turn')
    return _turns(prompt, "prompt", _CHAT), responses


def _parse_alpaca(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    question = _user(columns["instruction"], "instruction").content
    details = _text(columns.get("input", ""), "input")
    if details.strip():
        question = f"{question}\n\n{details}"
    return (Message("user", question),), (_assistant(columns["output"], "output"),)


def _parse_orca(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    system = _text(columns.get("system_prompt", ""), "system_prompt")
    before = (Message("system", system),) if system.strip() else ()
    question = _user(columns["question"], "question")
    return (*before, question), (_assistant(columns["response"], "response"),)


def _parse_hh(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    text = _text(columns["chosen"], "chosen")
    before, *parts = _HH_TURN.split(text)
    if before or not parts:
        raise ValueError(
            f'"chosen" must start with "\\n\\nHuman:"; it is {_shown(text)}. For plain text in '
            "other columns set another format"
        )
    turns = []
    for place, (name, content) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        make = _user if name == "Human" else _assistant
        turns.append(make(content.removeprefix(" "), f"turn {place + 1} of chosen"))
    return tuple(turns[:-1]), tuple(turns[-1:])


_PARSERS: dict[str, Callable[[Mapping[str, Any]], tuple[Turns, Turns]]] = {
    "messages": _parse_messages,
    "prompt_completion": _parse_prompt_completion,
    "alpaca": _parse_alpaca,
    "sharegpt": _parse_sharegpt,
    "orca": _parse_orca,
    "hh": _parse_hh,
}


# --- turns --------------------------------------------------------------------------------------


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


def _split_at_first_response(turns: Turns, column: str) -> tuple[Turns, Turns]:
    first = next((i for i, turn in enumerate(turns) if turn.role == "assistant"), None)
    if first is None:
        raise ValueError(f"{_quoted([column])} has no assistant turn")
    return turns[:first], turns[first:]


def _turns(value: object, column: str, keys: _TurnKeys) -> Turns:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_quoted([column])} must be a list of turns; it is {_shown(value)}")
    if not value:
        raise ValueError(f"{_quoted([column])} is an empty list; it must hold the turns")
    return tuple(_turn(turn, f"{column}[{place}]", keys) for place, turn in enumerate(value))


def _turn(turn: object, where: str, keys: _TurnKeys) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{where} must be an object; it is {_shown(turn)}")
    # Arrow gives every turn the keys of all turns: those without a value say nothing.
    fields = {key: value for key, value in turn.items() if value not in (None, [], {})}
    if keys.role not in fields or keys.content not in fields:
        raise ValueError(
            f"{where} needs {_quoted([keys.role, keys.content], ' and ')}; it has "
            f"{_quoted(list(fields)) or 'nothing'}{_other_keys(fields, keys)}"
        )
    name = fields[keys.role]
    if not isinstance(name, str) or name not in keys.roles:
        raise ValueError(
            f"{where}.{keys.role} is {_shown(name)}; known roles: {', '.join(keys.roles)}"
        )
    role = keys.roles[name]
    _check_keys(fields, where, keys, role)
    content_where = f"{where}.{keys.content}"
    if role == "user":
        return _user(fields[keys.content], content_where)
    if role == "assistant":
        return _assistant(fields[keys.content], content_where)
    return Message(role, _text(fields[keys.content], content_where))


def _other_keys(fields: Mapping[str, Any], keys: _TurnKeys) -> str:
    if keys is _SHAREGPT and {"role", "content"} <= fields.keys():
        return '; rename the column to "messages" and set format: messages'
    if keys is _CHAT and {"from", "value"} <= fields.keys():
        return '; rename the column to "conversations" and set format: sharegpt'
    return ""


def _check_keys(fields: Mapping[str, Any], where: str, keys: _TurnKeys, role: str) -> None:
    unknown = sorted(fields.keys() - _IGNORED_KEYS - {keys.role, keys.content})
    if unknown:
        raise ValueError(
            f"{where} has {_quoted(unknown)}, which is not supported: only the turn's "
            f"{_quoted([keys.content])} is trained on. Remove the key, or the row"
        )
    for key in ("weight", "train"):
        if role == "assistant" and key in fields and fields[key] != 1:
            raise ValueError(
                f"{where}.{key} is {_shown(fields[key])}: a response cannot be left out of the "
                "loss. Remove the key, or give the earlier turns as prompt"
            )


def _user(value: object, where: str) -> Message:
    return Message("user", _filled(value, where, "the user's turn"))


def _assistant(value: object, where: str) -> Message:
    return Message("assistant", _filled(value, where, "the assistant's response"))


def _filled(value: object, where: str, what: str) -> str:
    text = _text(value, where)
    if not text.strip():
        raise ValueError(f"{where} is empty: {what} must hold text")
    return text


def _text(value: object, where: str) -> str:
    """A string, or the text parts of multi-part content joined without a separator."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list | tuple) else [None]
    texts = [_part_text(part) for part in parts]
    if None in texts:
        raise ValueError(f"{where} must be a string or a list of text parts; it is {_shown(value)}")
    return "".join(text for text in texts if text is not None)


def _part_text(part: object) -> str | None:
    if not isinstance(part, Mapping):
        return None
    fields = {key: value for key, value in part.items() if value is not None}
    text = fields.get("text")
    is_text = fields.keys() == {"type", "text"} and fields["type"] == "text"
    return text if is_text and isinstance(text, str) else None


# --- words for messages -------------------------------------------------------------------------


def _quoted(names: list[str] | tuple[str, ...], joint: str = ", ") -> str:
    # JSON with ASCII only: column names are data, and data must not reach a terminal raw.
    return joint.join(json.dumps(str(name)[:_SHOWN_LENGTH]) for name in names)


def _shown(value: object) -> str:
    """Type and value, shortened and without control characters."""
    text = ascii(value)
    if len(text) > _SHOWN_LENGTH:
        text = text[:_SHOWN_LENGTH] + "..."
    return f"{type(value).__name__} {text}"
