"""Where each turn of a conversation lies in what a chat template renders, in linear time.

A template is rendered once for each sequence of roles with digits in the turns' places. That shows
its frame: what it writes before, between and after the turns, their order, and which turns it
leaves out. A real conversation is then walked along its frame. A template may decide by what a turn
says, too; where the text leaves the frame, the next turn is searched for, near the last one first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_DIGITS = "739184620{:06d}518203"  # no template changes, strips or splits digits
_MARK = re.compile(_DIGITS.replace("{:06d}", r"(\d{6})"))
_FEW = 8  # characters next to a turn that tell it from chance
_NEAR = 2_000  # characters that a template may write unforeseen before a turn
MOST_LOST = 16  # vain searches through one text: each reads all of it


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a rendered conversation."""

    start: int
    end: int


class Turn(NamedTuple):
    """A turn that was found in the text.

    Attributes:
        place: Of the turn in the conversation, from 0.
        before: Where the text of the turn before it ends; 0 if there is none.
        content: What is left of the turn's own text: all, or all but blanks around it.
        after: What the frame has after it, if the text has that too; else None.
    """

    place: int
    before: int
    content: Span
    after: str | None


class Lost(NamedTuple):
    """A turn of which the text is not in the rendered conversation.

    Attributes:
        place: Of the turn in the conversation, from 0.
        role: The turn's.
        is_dropped: Whether the template leaves out such a turn whatever it says; else it changes
            or leaves out this text.
    """

    place: int
    role: str
    is_dropped: bool

    def __str__(self) -> str:
        verb = "leaves out" if self.is_dropped else "changes the text of"
        return f"{verb} turn {self.place} ({self.role})"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around the turns of a sequence of roles.

    Attributes:
        order: The turns' places in the order of the text. A turn that is left out is missing, and
            one that is written twice is there twice.
        gaps: The text before each of them, and what follows the last one.
    """

    order: tuple[int, ...]
    gaps: tuple[str, ...]


def placeholders(count: int) -> list[str]:
    """What stands in for the text of each turn."""
    return [_DIGITS.format(place) for place in range(count)]


def frame_of(text: str) -> Frame:
    """The frame of a conversation that was rendered with placeholders."""
    marks = list(_MARK.finditer(text))
    edges = [0, *(edge for mark in marks for edge in mark.span()), len(text)]
    gaps = tuple(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
    return Frame(tuple(int(mark[1]) for mark in marks), gaps)


def unknown_frame(count: int) -> Frame:
    """The frame of a template that refuses placeholders: nothing is known of what it writes."""
    return Frame(tuple(range(count)), ("",) * (count + 1))


def find_turns(
    frame: Frame, text: str, turns: Sequence[tuple[str, str]], exact: frozenset[int]
) -> tuple[list[Turn], list[Lost]]:
    """The turns in the order of the text, and those that are not there.

    Blank turns are never lost. After `MOST_LOST` vain searches the rest is not searched for.

    Args:
        frame: Of the same roles.
        text: The rendered conversation.
        turns: Role and text of each.
        exact: Places of turns that must stand there as they are, but for blanks around them; of
            others the blanks inside may change, and they may be encoded as JSON.
    """
    found: list[Turn] = []
    missing = sorted(set(range(len(turns))) - set(frame.order))
    lost = [Lost(place, turns[place][0], True) for place in missing if turns[place][1].strip()]
    reached, num_searched = 0, 0
    for place, gap, after in zip(frame.order, frame.gaps, frame.gaps[1:], strict=False):
        role, content = turns[place]
        span = None
        if text.startswith(gap, reached):
            begin = reached + len(gap)
            span = _content_at(text, begin, content, after)
            if span is None and place not in exact:
                span = _changed_at(text, begin, content, after)
        if span is None and num_searched < MOST_LOST:
            span = _search(text, reached, gap, content, after)
            num_searched += span is None
        if span is not None:
            follows = text.startswith(after, span.end)
            found.append(Turn(place, reached, span, after if follows else None))
            reached = span.end
        elif content.strip():
            lost.append(Lost(place, role, False))
    seen = {turn.place for turn in found}
    return found, sorted({one for one in lost if one.place not in seen})


def _content_at(text: str, at: int, content: str, after: str) -> Span | None:
    """The turn's text at a place, blanks around it stripped or not, with what must follow."""
    end = at + len(content)
    if text.startswith(content, at) and text.startswith(after, end):
        return Span(at, end)
    core = content.strip()
    left, right = _blanks(content)
    begin = at
    while begin - at < len(left) and text[begin : begin + 1].isspace():
        begin += 1
    if not (left.endswith(text[at:begin]) and text.startswith(core, begin)):
        return None
    end = begin + len(core)
    stop = end
    while stop < len(text) and stop - end < len(right) + len(after) and text[stop].isspace():
        stop += 1
    own = stop - end - (len(after) - len(after.lstrip()))
    for kept in (len(right), 0, own):
        if 0 <= kept <= len(right) and text.startswith(right[:kept] + after, end):
            return Span(at, end + kept)
    return None


def _changed_at(text: str, at: int, content: str, after: str) -> Span | None:
    """The turn's text at a place as JSON, or with other blanks in it."""
    for is_ascii in (False, True):
        quoted = json.dumps(content, ensure_ascii=is_ascii)[1:-1]
        if text.startswith(quoted, at) and text.startswith(after, at + len(quoted)):
            return Span(at, at + len(quoted))
    end = at
    for word in content.split():
        while text[end : end + 1].isspace():
            end += 1
        if not text.startswith(word, end):
            return None
        end += len(word)
    return Span(at, end)


def _search(text: str, reached: int, gap: str, content: str, after: str) -> Span | None:
    """The turn's text after `reached`, the template having written something unforeseen.

    What the template writes may contain the same characters (a response "think" after a think
    block), so a place with the foreseen text before or after it is preferred to the first one.
    """
    core = content.strip()
    first = text.find(core, reached) if core else -1
    if first < 0:
        return None
    left, right = _blanks(content)
    bound = first + len(content) + len(gap) + len(after) + _NEAR
    begin = -1 if gap or after else first
    for head, tail in _surroundings(gap, left, right, after):
        hit = text.find(head + core + tail, reached, bound)
        if hit >= 0:
            begin = hit + len(head)
            break
    if begin < 0:
        return None
    end = begin + len(core)
    kept_left = kept_right = 0
    while kept_left < min(len(left), begin - reached) and (
        text[begin - kept_left - 1] == left[-kept_left - 1]
    ):
        kept_left += 1
    while kept_right < len(right) and text.startswith(right[kept_right], end + kept_right):
        kept_right += 1
    return Span(begin - kept_left, end + kept_right)


def _surroundings(gap: str, left: str, right: str, after: str) -> Iterator[tuple[str, str]]:
    """Before and after of a turn's text, what says most first; each more than blanks."""
    for head, tail in (
        (gap + left, right + after),
        (gap, after),
        (gap + left, ""),
        (gap, ""),
        ("", right + after),
        ("", after),
        (gap[-_FEW:], ""),
        ("", after[:_FEW]),
    ):
        if (head + tail).strip():
            yield head, tail


def _blanks(content: str) -> tuple[str, str]:
    """The blanks before and after a text."""
    start = len(content) - len(content.lstrip())
    return content[:start], content[max(start, len(content.rstrip())) :]
