"""Why rows were left out, in a few words: the commonest reasons, their counts, the ways out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from seal.data.rows import Excluded

_NUM_SHOWN = 3
# What differs from row to row within one reason: numbers, and the values and columns of the row.
_VALUES = (
    (re.compile(r"\bstr (?:'[^']*'|\"[^\"]*\")(?:\.\.\.)?"), "str"),
    (re.compile(r"\b(list|dict|tuple|bytes) (?:\[|\{|\(|b['\"]).*?(?=; |$)"), r"\1"),
    (re.compile(r"\bhas (?:the columns .*?|no columns)(?=; |$)"), "has other columns"),
    (re.compile(r"\bthis one is .*$"), "this one is not"),
    (re.compile(r"\d+(?:\.\d+)?"), "0"),
)
_LENGTH = re.compile(r"\bmax_length=\d+")
_TEMPLATE = "Correct the chat template, or give another as model.chat_template"
# A part of a reason -> what to do about it. Reasons that hold their way out are not named.
_ADVICE = (
    (
        "tokens are more than max_length",
        "Raise tokenization.max_length, or set tokenization.truncate=response to cut responses",
    ),
    ("leave no response token within max_length", "Raise tokenization.max_length"),
    ("the chat template refuses the conversation", _TEMPLATE),
    ("so the response cannot be found", _TEMPLATE),
    ("gives no token for the response", "Correct these responses, or take these rows out"),
    ("not valid UTF-8", "Save the file as UTF-8"),
    ("not valid JSON", "Correct these lines"),
    ("the header names", "Put fields that hold a comma or a line break into quotes"),
)


class Kind(NamedTuple):
    """Rows that were left out for one reason.

    Attributes:
        first: The first of them.
        num_rows: How many.
    """

    first: Excluded
    num_rows: int


class Tally:
    """Counts rows by why they were left out; two reasons that differ in values alone are one."""

    def __init__(self, excluded: Iterable[Excluded] = ()) -> None:
        """Count these to begin with."""
        self._kinds: dict[tuple[str, str], Kind] = {}
        for row in excluded:
            self.add(row)

    def add(self, row: Excluded) -> None:
        """Count one more row."""
        key = (row.stage, _kind(row.reason))
        before = self._kinds.get(key)
        self._kinds[key] = (
            Kind(row, 1) if before is None else Kind(before.first, before.num_rows + 1)
        )

    @property
    def first(self) -> Excluded | None:
        """The first row; None if there is none."""
        return next((kind.first for kind in self._kinds.values()), None)

    @property
    def total(self) -> int:
        """How many rows."""
        return sum(kind.num_rows for kind in self._kinds.values())

    def kinds(self) -> list[Kind]:
        """The reasons, the commonest first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.num_rows)

    def summary(self) -> str:
        """The commonest reasons with their counts, the first row of each, and what can be done."""
        found = self.kinds()
        parts = [
            f"{kind.num_rows} because {kind.first.reason} (first: {kind.first.where}{_then(kind)})"
            for kind in found[:_NUM_SHOWN]
        ]
        rest = found[_NUM_SHOWN:]
        if rest:
            count = sum(kind.num_rows for kind in rest)
            parts.append(f"{count} for {len(rest)} other reason{'s' if len(rest) > 1 else ''}")
        return "; ".join(parts)

    def several(self) -> str:
        """The summary as a further sentence of a message; empty where there is one reason."""
        return f" By reason: {self.summary()}." if len(self._kinds) > 1 else ""


def advice(reason: str) -> str:
    """What to do about a reason; empty where it says so itself, or nothing is known."""
    return next((way for part, way in _ADVICE if part in reason), "")


def is_length(reason: str) -> bool:
    """Whether a larger `max_length` would help."""
    return _LENGTH.search(reason) is not None


def _then(kind: Kind) -> str:
    way = advice(kind.first.reason)
    return f"; {way[0].lower()}{way[1:]}" if way else ""


def _kind(reason: str) -> str:
    for pattern, word in _VALUES:
        reason = pattern.sub(word, reason)
    return reason
