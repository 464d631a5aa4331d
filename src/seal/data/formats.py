r"""Row formats: how a row of a file becomes the turns of a prompt and of a completion.

| format              | columns                                                          |
|---------------------|------------------------------------------------------------------|
| `trl`, the default  | per row either of the next two: TRL's own vocabulary             |
| `messages`          | `messages`: turns with `role` and `content`, or as in `sharegpt` |
| `prompt_completion` | `prompt` and `completion`: two strings, or two lists of turns    |
| `alpaca`            | `instruction`, `output`, and perhaps `input`                     |
| `sharegpt`          | `conversations`: turns with `from` and `value`, or as above      |
| `orca`              | `question`, `response`, and perhaps `system_prompt`              |
| `hh`                | `chosen`: one string of "\n\nHuman: " and "\n\nAssistant: " turns |

A format is never guessed; other columns are left alone. A column that is null counts as absent. In
`messages` and `sharegpt` the completion starts at the first assistant turn, so every assistant turn
is response; in `hh` it is the last one only, because the turns before it are context that the
preferred and the rejected answer share. How a turn may be written is told in `seal.data.turns`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from seal.data.arrow_types import Kind
from seal.data.sample import Message
from seal.data.turns import Turns, assistant_turn, quoted, shown, text_of, turns_of, user_turn

Format = Literal["trl", "messages", "prompt_completion", "alpaca", "sharegpt", "orca", "hh"]

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

_HOLDS: dict[str, Kind] = {
    "messages": "turns",
    "prompt_completion": "text or turns",
    "sharegpt": "turns",
}

_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
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
        raise ValueError(_does_not_fit(row, columns, format, quoted(_NEEDED[shape], " and ")))
    for name in _UNSUPPORTED[shape]:
        if name in columns and columns[name] not in ("", [], {}):
            raise ValueError(
                f"column {quoted([name])} is {shown(columns[name])}, which is not supported: it "
                "would be missing from the text. Remove the column, or write it into the turns"
            )
    prompt, completion = _PARSERS[shape](columns)
    _check_order(prompt, completion)
    return prompt, completion


def expected_columns(format: Format) -> tuple[str, ...]:
    """The columns that a format reads, needed ones first."""
    kinds = ("messages", "prompt_completion") if format == "trl" else (format,)
    return tuple(name for kind in kinds for name in _NEEDED[kind] + _OPTIONAL.get(kind, ()))


def column_kinds(format: Format) -> dict[str, Kind]:
    """What each column must hold that a format reads, or that would change its text."""
    shapes = ("messages", "prompt_completion") if format == "trl" else (format,)
    found: dict[str, Kind] = {}
    for shape in shapes:
        found |= dict.fromkeys(_UNSUPPORTED[shape], "text or nothing")
        found |= dict.fromkeys(_NEEDED[shape] + _OPTIONAL.get(shape, ()), _HOLDS.get(shape, "text"))
    return found


def describe_columns(row: Mapping[str, Any]) -> str:
    """The columns of a row for a message: names in quotes, at most 20, nulls marked."""
    if not row:
        return "no columns"
    names = [
        quoted([name]) + (" (null)" if value is None else "")
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
        else f"known formats: {', '.join(get_args(Format))}; for a pool or a safe set, columns: "
        "{NAME_OF_THE_FORMAT: COLUMN} says which column stands for one that is missing"
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
    return _split_at_first_response(turns_of(columns["messages"], "messages"), "messages")


def _parse_sharegpt(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    turns = turns_of(columns["conversations"], "conversations")
    return _split_at_first_response(turns, "conversations")


def _parse_prompt_completion(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    prompt, completion = columns["prompt"], columns["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return (user_turn(prompt, "prompt"),), (assistant_turn(completion, "completion"),)
    if not (isinstance(prompt, list | tuple) and isinstance(completion, list | tuple)):
        raise ValueError(
            '"prompt" and "completion" must both be strings or both be lists of turns; they are '
            f"{shown(prompt)} and {shown(completion)}"
        )
    responses = turns_of(completion, "completion")
    if all(turn.role != "assistant" for turn in responses):
        raise ValueError('"completion" has no assistant turn')
    return turns_of(prompt, "prompt"), responses


def _parse_alpaca(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    question = user_turn(columns["instruction"], "instruction").content
    details = text_of(columns.get("input", ""), "input")
    if details.strip():
        question = f"{question}\n\n{details}"
    return (Message("user", question),), (assistant_turn(columns["output"], "output"),)


def _parse_orca(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    system = text_of(columns.get("system_prompt", ""), "system_prompt")
    before = (Message("system", system),) if system.strip() else ()
    question = user_turn(columns["question"], "question")
    return (*before, question), (assistant_turn(columns["response"], "response"),)


def _parse_hh(columns: Mapping[str, Any]) -> tuple[Turns, Turns]:
    text = text_of(columns["chosen"], "chosen")
    before, *parts = _HH_TURN.split(text)
    if before or not parts:
        raise ValueError(
            f'"chosen" must start with "\\n\\nHuman:"; it is {shown(text)}. For plain text in '
            "other columns set another format"
        )
    turns = []
    for place, (name, content) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        make = user_turn if name == "Human" else assistant_turn
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


def _split_at_first_response(turns: Turns, column: str) -> tuple[Turns, Turns]:
    first = next((i for i, turn in enumerate(turns) if turn.role == "assistant"), None)
    if first is None:
        raise ValueError(f"{quoted([column])} has no assistant turn")
    return turns[:first], turns[first:]
