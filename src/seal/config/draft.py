"""A configuration before it is checked: plain values, and where each was given."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seal.config.positions import Document, Key, parse_yaml
from seal.config.shape import Shape, inside, takes_list

COMMAND_LINE = "command line"
KeyPath = tuple[Key, ...]
"""Where something lies in a tree of values."""


@dataclass(slots=True, eq=False)
class Draft:
    """Values from a document, changed by KEY=VALUE words.

    Attributes:
        document: What was read from the file; empty when there is none.
        shape: What the configuration may hold.
        value: The values as they are now.
        given: The path and value of each override, in their order.
    """

    document: Document
    shape: Shape
    value: Any = field(init=False)
    given: list[tuple[KeyPath, Document]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start from the document."""
        self.value = {} if self.document.value is None else _at_home(self.document.value)
        if not isinstance(self.value, dict):
            raise ValueError(
                f"{self.document.where}:{self.document.line(())}: expected a mapping (key: value) "
                f"at the top, got {show(self.value)}."
            )

    def override(self, word: str) -> None:
        """Apply KEY=VALUE; the value is YAML, a later word beats an earlier one.

        Raises:
            ValueError: If it is not of that form, or the key leads through something that is no
                mapping or list.
        """
        name, equals, text = word.partition("=")
        segments = name.split(".")
        if not equals or not all(segments) or name != name.strip():
            raise ValueError(
                f"{COMMAND_LINE}: {word!r} is not of the form KEY=VALUE, such as rank.epochs=3."
            )
        path = self._resolve(segments)
        document = _parse_value(name, text)
        self.replace(path, _at_home(document.value))
        self.given.append((path, document))

    def replace(self, path: KeyPath, value: Any) -> None:  # noqa: ANN401 (any plain value)
        """Put another value at a path."""
        self.value = _replaced(self.value, path, value)

    def at(self, path: KeyPath) -> Any:  # noqa: ANN401
        """The value at a path that exists."""
        found = self.value
        for part in path:
            found = found[part]
        return found

    def place(self, path: KeyPath) -> str:
        """Where the value at a path was given, or the mapping that lacks it: `file:line`."""
        source = self._override_of(path)
        below = any(key[: len(path)] == path for key, _ in self.given)
        empty = self.document.root is None
        if source or empty or (below and not self.document.has(path)):
            return COMMAND_LINE
        return f"{self.document.where}:{self.document.line(path)}"

    def text(self, path: KeyPath) -> str | None:
        """A scalar as the user wrote it; None for anything else."""
        source = self._override_of(path)
        if source is None:
            return self.document.text(path)
        key, document = source
        return document.text(path[len(key) :])

    def _override_of(self, path: KeyPath) -> tuple[KeyPath, Document] | None:
        matches = [item for item in self.given if path[: len(item[0])] == item[0]]
        return matches[-1] if matches else None

    def _wrap(self, path: KeyPath) -> list[Any]:
        """Make the mapping at a path, which stands for a list of one, that list."""
        self.replace(path, [self.at(path)])
        length = len(path)
        self.given = [
            ((*path, 0, *key[length:]) if key[:length] == path and key != path else key, document)
            for key, document in self.given
        ]
        return self.at(path)

    def _resolve(self, segments: Sequence[str]) -> KeyPath:
        """The path that a dotted key means, given what is there now."""
        path: list[Key] = []
        tree, shape = self.value, self.shape
        for number, segment in enumerate(segments):
            taken, name = ".".join(segments[:number]), ".".join(segments)
            if isinstance(tree, list) or (takes_list(shape) and segment.isdecimal()):
                if isinstance(tree, dict):
                    tree = self._wrap(tuple(path))
                step, tree = _list_step(tree, segment, taken, name)
                path.append(step)
                shape = inside(shape, step)
                if segment.isdecimal():
                    continue
            if tree is not None and not isinstance(tree, dict):
                raise ValueError(
                    f"{COMMAND_LINE}: {name}: {taken} is {show(tree)}, not a mapping. Give {taken} "
                    f"as a whole: {taken}='{{KEY: VALUE}}'."
                )
            path.append(segment)
            tree, shape = (tree or {}).get(segment), inside(shape, segment)
        return tuple(path)


def show(value: Any) -> str:  # noqa: ANN401 (any plain value)
    """A value in the words of a message: short, on one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def dotted(path: KeyPath) -> str:
    """A path as it is typed on the command line."""
    return ".".join(str(part) if str(part).isprintable() else repr(part) for part in path)


def _parse_value(name: str, text: str) -> Document:
    try:
        return parse_yaml(text, COMMAND_LINE)
    except ValueError as error:
        reason = str(error).split(": ", 1)[1]
        raise ValueError(
            f"{COMMAND_LINE}: {name}: {reason} For plain text, quote twice: {name}='\"TEXT\"'."
        ) from error


def _list_step(tree: Any, segment: str, taken: str, name: str) -> tuple[int, Any]:  # noqa: ANN401
    """The place in a list that a segment means, and what is there now."""
    items = tree if isinstance(tree, list) else []
    if not segment.isdecimal() and len(items) != 1:
        raise ValueError(
            f"{COMMAND_LINE}: {name}: {taken} is a list of {len(items)}. Say which: {taken}.0."
            f"{segment}=VALUE."
        )
    place = int(segment) if segment.isdecimal() else 0
    if place > len(items):
        raise ValueError(
            f"{COMMAND_LINE}: {name}: {taken} is a list of {len(items)}, counted from 0. The next "
            f"place in it is {taken}.{len(items)}."
        )
    return place, items[place] if place < len(items) else None


def _replaced(tree: Any, path: KeyPath, value: Any) -> Any:  # noqa: ANN401
    """A copy of the tree with one value changed; parts of it may be shared by YAML anchors."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        items = tree or []
        old = items[head] if head < len(items) else None
        return [*items[:head], _replaced(old, rest, value), *items[head + 1 :]]
    return {**(tree or {}), head: _replaced((tree or {}).get(head), rest, value)}


def _at_home(value: Any, done: dict[int, Any] | None = None) -> Any:  # noqa: ANN401
    """The value with `~/` at the start of a text expanded, as no shell does inside KEY=VALUE."""
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)  # noqa: PTH111 (a Path would normalise it)
    if not isinstance(value, dict | list):
        return value
    done = {} if done is None else done  # what anchors share is gone through once
    if id(value) not in done:
        done[id(value)] = (
            {key: _at_home(item, done) for key, item in value.items()}
            if isinstance(value, dict)
            else [_at_home(item, done) for item in value]
        )
    return done[id(value)]
