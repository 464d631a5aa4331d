"""Judged text inside a judge's prompt: it can say anything, but it cannot end where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_T = TypeVar("_T")


def enclosed(tag: str, text: str, tags: Iterable[str]) -> str:
    """A text between `<tag>` and `</tag>`.

    What inside it looks like any of the prompt's tags, opening or closing, loses its "<".

    Args:
        tag: The text's own.
        text: What is judged.
        tags: All tags of the prompt.
    """
    names = "|".join(map(re.escape, sorted(tags)))
    harmless = re.sub(rf"<(?=\s*/?\s*(?:{names})\b)", "&lt;", text, flags=re.IGNORECASE)
    return f"<{tag}>\n{harmless}\n</{tag}>"


def broken_marks(text: str, marks: Iterable[str]) -> str:
    """A text in which each of some marks has a blank after its first character.

    A tokenizer reads the name of a special token as that token wherever it stands, so an answer
    that holds "<|im_end|>" would end the turn it is quoted in and could give the verdict itself.

    Args:
        text: What is judged.
        marks: Special tokens, and what else divides the prompt; letter case is disregarded.
    """
    longest_first = sorted({mark for mark in marks if len(mark) > 1}, key=lambda m: (-len(m), m))
    if not longest_first:
        return text
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    while pattern.search(text):  # breaking one can make no other, but they may overlap
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def field_of(answer: str, name: str, allowed: Mapping[str, _T]) -> _T | None:
    """What a judge's JSON says under a name; None if it says nothing that is allowed.

    An answer that is one JSON object is taken at its word. In any other, the last `"name": value`
    counts: judges reason, and quote, before they conclude. A whole number may be written as 5.0.

    Args:
        answer: What the judge wrote.
        name: The field.
        allowed: What each value that it may have stands for.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        values = "|".join(map(re.escape, allowed))
        value = rf'"?\s*({values})(?:(?<=\d)\.0+)?\s*"?'
        hits = re.findall(rf'"{re.escape(name)}"\s*:\s*{value}(?=\s*[,}}\n]|\s*$)', answer)
        return allowed[hits[-1]] if hits else None
    return allowed.get(_spelt(found.get(name))) if isinstance(found, dict) else None


def _spelt(value: object) -> str:
    """A value as text; a whole number without decimals, whether it is a number or a text."""
    return re.sub(r"(?<=\d)\.0+$", "", str(value).strip())
