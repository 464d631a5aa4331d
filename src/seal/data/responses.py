"""The characters of a response: all that the model writes after the generation prompt.

That is the text of the assistant turn with what the template puts before it (a blank, an empty
think block) and after it, up to its end-of-turn token. `{% generation %}` markers that a template
has decide how much of what it writes around the text is learned, but the generation prompt is never
learned, and the end of turn always is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from seal.data.end_of_turn import EndOfTurn
from seal.data.rendered_turns import Frame, Span, Turn, frame_of, placeholders, unknown_frame

Turns: TypeAlias = Sequence[tuple[str, str]]  # role and text of each


class Render(NamedTuple):
    """A conversation as the template writes it.

    Attributes:
        text: The whole text.
        marked: What `{% generation %}` markers enclose.
    """

    text: str
    marked: list[Span]


Renderer: TypeAlias = Callable[[Turns, bool], Render]  # with a generation prompt, or without


class Response(NamedTuple):
    """A response in the rendered text.

    Attributes:
        place: Of its turn in the conversation.
        span: What carries the loss.
        content: What of it is the turn's own text.
    """

    place: int
    span: Span
    content: Span


@dataclass(frozen=True, slots=True)
class Layout:
    """What a template does with the turns of a sequence of roles.

    Attributes:
        frame: What it writes around them.
        openings: Role -> what it writes after a turn of this role when a response is to follow,
            as it is generated from.
        header: How it starts a response; "" where it does not tell.
        closing: What it writes after an assistant turn that is the last one.
        marks: Assistant turn -> the characters before and after its text that its markers enclose.
    """

    frame: Frame
    openings: Mapping[str, str]
    header: str
    closing: str
    marks: Mapping[int, tuple[int, int]]


def lay_out(render: Renderer, roles: Sequence[str]) -> Layout:
    """The layout, from a few renders whose number does not depend on the number of turns.

    Raises:
        Exception: What the template raises that refuses such roles or placeholders.
    """
    turns = list(zip(roles, placeholders(len(roles)), strict=True))
    whole = render(turns, False)
    frame = frame_of(whole.text)
    answers = [place for place, role in enumerate(roles) if role == "assistant"]
    openings: dict[str, str] = {}
    header = ""
    for place in answers:
        if place and roles[place - 1] not in openings:
            prompt = render(turns[:place], True).text
            openings[roles[place - 1]] = frame_of(prompt).gaps[-1].rstrip(" ")
            bare = "" if header else render(turns[:place], False).text
            header = header or (prompt[len(bare) :] if prompt.startswith(bare) else "")
    closing = ""
    if answers:
        last = answers[-1]
        is_last = last == len(roles) - 1
        closing = (frame if is_last else frame_of(render(turns[: last + 1], False).text)).gaps[-1]
    return Layout(frame, openings, header.rstrip(" "), closing, _marks(whole, roles))


def prompt_layout(render: Renderer, roles: Sequence[str]) -> Layout:
    """The layout of turns that the start of a response follows: no more than its frame."""
    turns = list(zip(roles, placeholders(len(roles)), strict=True))
    return Layout(frame_of(render(turns, True).text), {}, "", "", {})


def unknown_layout(count: int) -> Layout:
    """The layout of a template that refuses to tell."""
    return Layout(unknown_frame(count), {}, "", "", {})


def response_of(
    layout: Layout, text: str, turn: Turn, role_before: str, end_of_turn: EndOfTurn
) -> Response:
    """The response in an assistant turn.

    Args:
        layout: Of the conversation's roles.
        text: The rendered conversation.
        turn: Where its text lies.
        role_before: Of the turn before it; "" if it is the first.
        end_of_turn: Finds where it ends.
    """
    content = turn.content
    start = _start(layout, text, turn, role_before)
    if turn.after is None:
        following = text[content.end : content.end + max(len(layout.closing), _ENOUGH)]
    else:
        following = turn.after
    end = content.end + end_of_turn.length(following, layout.closing)
    before, after = layout.marks.get(turn.place, (None, 0))
    if before is not None and turn.after is not None:
        start = max(start, content.start - before)
        end = max(end, content.end + after)
    return Response(turn.place, Span(start, end), content)


_ENOUGH = 200  # characters after a turn's text in which its end-of-turn token begins


def _start(layout: Layout, text: str, turn: Turn, role_before: str) -> int:
    """Where the model begins to write."""
    opening = layout.openings.get(role_before)
    before = text[turn.before : turn.content.start]
    # A template that has no generation prompt has the model begin with the text.
    if (
        opening is not None
        and text.startswith(opening, turn.before)
        and (layout.header or not before[len(opening) :].strip())
    ):
        return min(turn.before + len(opening), turn.content.end)
    place = before.rfind(layout.header) if layout.header.strip() else -1
    if place >= 0:
        return turn.before + place + len(layout.header)
    return turn.content.start


def _marks(whole: Render, roles: Sequence[str]) -> dict[int, tuple[int, int]]:
    """Characters before and after the text of each assistant turn that markers enclose."""
    marks: dict[int, tuple[int, int]] = {}
    for number, block in enumerate(whole.marked):
        inside = frame_of(whole.text[block.start : block.end])
        if len(inside.order) != 1 or roles[inside.order[0]] != "assistant":
            continue  # markers around no turn, or around several
        end = block.end
        for other in whole.marked[number + 1 :]:
            if other.start != end:
                break
            end = other.end
        marks[inside.order[0]] = (len(inside.gaps[0]), len(inside.gaps[1]) + end - block.end)
    return marks
