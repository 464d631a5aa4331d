"""JSON as the standard has it: what `json.loads` lets through silently is a problem here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

_BLANKS = re.compile(r"[ \t\n\r]*")
_NO_VALUE = "is not a JSON value"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class StrictDecoder:
    """Decodes JSON values, and says what is wrong with those that decode but must not be used.

    That is a key given twice, NaN and the infinities, numbers too large to hold, and half a
    surrogate pair, which no file can be written with. They are reported beside the value, because
    the end of a value must be known to go on behind it.
    """

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
        )

    def decode_at(self, text: str, place: int) -> tuple[Any, int, str]:
        """The value that starts at `place`, where it ends, and its first problem or "".

        Raises:
            json.JSONDecodeError: If no JSON value starts there.
        """
        self._problems.clear()
        try:
            value, end = self._decoder.raw_decode(text, place)
        except RecursionError as error:
            raise json.JSONDecodeError("Nested too deeply", text, place) from error
        if _SURROGATE.search(text, place, end) and not _is_encodable(value):
            self._problems.append("half a surrogate pair, which is no character")
        return value, end, self._problems[0] if self._problems else ""

    def decode_all(self, text: str) -> tuple[Any, str]:
        """The value that the text is, blanks around it aside, and its first problem or "".

        Raises:
            json.JSONDecodeError: If the text is not one JSON value.
        """
        value, end, problem = self.decode_at(text, skip_blanks(text, 0))
        end = skip_blanks(text, end)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return value, problem

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            repeated = first_repeated(name for name, _ in pairs)
            self._problems.append(f"the key {json.dumps(repeated[:40])} is given twice")
        if any(problem.endswith(_NO_VALUE) for problem in self._problems):
            self._name_key(pairs)
        return value

    def _name_key(self, pairs: list[tuple[str, Any]]) -> None:
        """Say in which of the keys the value stands that is none."""
        named = [name for name, part in pairs if _holds_no_number(part)]
        where = f" (key {json.dumps(named[0][:40])}); write null" if named else ""
        self._problems[:] = [
            problem + where if problem.endswith(_NO_VALUE) else problem
            for problem in self._problems
        ]

    def _constant(self, name: str) -> float:
        self._problems.append(f"{name} {_NO_VALUE}")
        return float(name)

    def _float(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            self._problems.append(f"the number {text[:40]} is too large")
        return value

    def _int(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:  # Python's bound on the digits of an integer
            self._problems.append(f"the number {text[:40]}... is too large")
            return 0


def first_repeated(names: Iterable[str]) -> str:
    """The first of some names that has occurred before; one of them must have."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def skip_blanks(text: str, place: int) -> int:
    """The first place at or after `place` that holds no JSON whitespace."""
    found = _BLANKS.match(text, place)
    assert found is not None
    return found.end()


def _holds_no_number(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds_no_number, value))
    return isinstance(value, float) and not math.isfinite(value)


def _is_encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
