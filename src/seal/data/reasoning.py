"""What a model thinks before it answers, told apart from the answer.

Reasoning models write their thoughts between marks (`<think>` and `</think>`) and the answer behind
them. The thoughts are no answer: a model that thinks "I could refuse" and then complies does not
refuse. Which marks a model uses is told by its tokenizer and its chat template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from seal.data.responses import Response


class Marks(NamedTuple):
    """What opens reasoning, and what closes it: the answer follows."""

    opening: str
    closing: str


# Of published families. A model has a pair if its tokenizer or its template holds either mark.
KNOWN: tuple[Marks, ...] = (
    Marks("<think>", "</think>"),  # DeepSeek R1, Qwen 3, GLM, Nemotron, Granite 3.3, Hunyuan
    Marks("<thinking>", "</thinking>"),
    Marks("<thought>", "</thought>"),  # EXAONE Deep
    Marks("<reasoning>", "</reasoning>"),  # Reka
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),  # Open Thoughts
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("<|channel>thought", "<channel|>"),  # Gemma 4
    Marks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # GPT-OSS
    Marks("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    Marks("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
# Pairs whose closing mark says enough where the opening one stood in the prompt, which templates
# of reasoning models do; `</thought>` may be anybody's.
_SAYS_ENOUGH = frozenset(
    {"</think>", "[/THINK]", "◁/think▷", "</seed:think>"}
    | {"<|end_of_thought|>", "<|END_THINKING|>", "<|channel|>final<|message|>"}
)
_OPENINGS = tuple(pair.opening for pair in KNOWN)
# GPT-OSS's marks where special tokens were left out of the text.
_BARE_CHANNELS = Marks("analysis", "assistantfinal")
_CHANNEL_TOKENS = ("<|channel|>", "<|message|>")
# Tokens such as <|thinking_end|>, </my_reasoning> or [END_THOUGHT]: the stem says what for.
_STEM = r"(?:think|thought|reason|scratchpad|reflect|rationale|deliberat|monologue|analysis)"
_CLOSING = re.compile(
    r"(?P<left><[|\uff5c]?|\[|◁)(?P<before>/|(?:end|close)(?:[_▁ -]of)?[_▁ -])?"
    rf"(?P<name>[\w:▁-]*?{_STEM}[\w:▁-]*?)(?P<after>[_▁ -](?:end|close|suffix))?"
    r"(?P<right>[|\uff5c]?>|\]|▷)",
    re.IGNORECASE,
)
_OPENING_WORDS = ("", "begin", "start", "open", "prefix", "beginof", "startof")
# What some families put around the answer, behind the reasoning.
_AROUND = (
    Marks("<response>", "</response>"),
    Marks("<answer>", "</answer>"),
    Marks("<|begin_of_solution|>", "<|end_of_solution|>"),
    Marks("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)


class Parts(NamedTuple):
    """A response taken apart.

    Attributes:
        answer: What is judged; without the reasoning, the whole response where there is none.
        state: "none" (no reasoning), "closed" (an answer could follow it; it may be empty), or
            "unclosed" (the response ended while it was still reasoning, and holds no answer).
    """

    answer: str
    state: Literal["none", "closed", "unclosed"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How the reasoning of one model is told from its answers.

    Attributes:
        own: The marks that the model's tokenizer and template tell of, or that a setting names.
        is_opened: Whether the generation prompt opens the reasoning, so that a response begins
            inside of it and holds the closing mark alone.
        reads_known: Whether published marks count, too, where a response begins with one: a model
            may have learned them as plain text.
    """

    own: tuple[Marks, ...] = ()
    is_opened: bool = False
    reads_known: bool = True

    def parts(self, text: str) -> Parts:
        """The answer in a response: what follows the last closing mark.

        Text that stands between that mark and another opening one is the answer, too, where the
        response ends inside of the second block.
        """
        pairs = self.own
        if not self.is_opened and not _holds(text, pairs):
            pairs = self._bare(text) or self._known(text)
            if not pairs:
                return Parts(text, "none")
        closed = max((place for pair in pairs for place in _ends(text, pair.closing)), default=-1)
        opened = [text.find(pair.opening, max(closed, 0)) for pair in pairs]
        opened = [place for place in opened if place >= 0]
        if closed < 0 and self.is_opened and pairs is self.own:
            return Parts("", "unclosed")
        said = text[max(closed, 0) : min(opened, default=len(text))].strip()
        if opened and not said:
            return Parts("", "unclosed")
        return Parts(_bare_answer(said), "closed")

    def blocks(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """Where reasoning lies in a rendered response: (start, end) of each block, marks included.

        Args:
            text: The rendered conversation.
            start: Where the response begins in it.
            end: Where it ends, exclusive.
        """
        found: list[tuple[int, int]] = []
        response = text[start:end]
        pairs = self.own if _holds(response, self.own) else self._known(response)
        for opening, closing in pairs:
            place = 0
            while (first := response.find(opening, place)) >= 0:
                last = response.find(closing, first + len(opening))
                # An unclosed block reaches to the end of the response.
                place = len(response) if last < 0 else last + len(closing)
                found.append((start + first, start + place))
            close = response.find(closing)
            if close >= 0 and not any(a <= start + close < b for a, b in found):
                found.append((start, start + close + len(closing)))  # opened in the prompt
        return sorted(found)

    def shortened(
        self, turns: Sequence[tuple[str, str]], places: Iterable[int]
    ) -> list[tuple[str, str]] | None:
        """The turns with only the answers of assistant turns at some places.

        Templates leave reasoning out of turns of before. None where these turns hold none.
        """
        made, chosen = list(turns), set(places)
        for place in chosen:
            role, content = made[place]
            parts = self.parts(content)
            if role != "assistant" or parts.state != "closed":
                return None
            made[place] = role, parts.answer
        return made if chosen else None

    def is_left_out(
        self, text: str, turns: Sequence[tuple[str, str]], responses: Iterable[Response]
    ) -> bool:
        """Whether a rendered conversation has a response without the reasoning of its turn."""
        for response in responses:
            content = turns[response.place][1].strip()
            rendered = text[response.content.start : response.content.end].strip()
            if len(rendered) < len(content) and self.parts(content).state == "closed":
                return True
        return False

    def _known(self, text: str) -> tuple[Marks, ...]:
        if not self.reads_known:
            return ()
        begin = text.lstrip()
        if not (begin.startswith(_OPENINGS) or any(mark in text for mark in _SAYS_ENOUGH)):
            return ()
        return tuple(
            pair
            for pair in KNOWN
            if begin.startswith(pair.opening)
            or (pair.closing in _SAYS_ENOUGH and pair.closing in text and pair.opening not in text)
        )

    def _bare(self, text: str) -> tuple[Marks, ...]:
        is_bare = text.startswith(_BARE_CHANNELS.opening)
        has_channels = any(_CHANNEL_TOKENS[0] in pair.closing for pair in self.own)
        return (_BARE_CHANNELS,) if is_bare and has_channels else ()


def find_reasoning(
    tokens: Iterable[str], template: str, generation_prompt: str, named: Sequence[Marks] | None
) -> Reasoning:
    """How a model's reasoning is told from its answers.

    Args:
        tokens: The texts of the tokenizer's added tokens, special or not.
        template: The chat template's own text.
        generation_prompt: What the template writes where a response is to begin.
        named: The marks that the user names; None looks for them, none says that there are none.
    """
    if named is None:
        own = tuple(_own_marks(set(tokens), template))
    else:
        own = tuple(Marks(*pair) for pair in named)
    closed = [place for pair in own for place in _ends(generation_prompt, pair.closing)]
    is_opened = any(pair.opening in generation_prompt[max(closed, default=0) :] for pair in own)
    return Reasoning(own, is_opened, reads_known=named is None)


def kept_tokens(reasoning: Reasoning, tokens: Iterable[str]) -> frozenset[str]:
    """The added tokens that the marks consist of, which a response must keep to be taken apart."""
    marks = [mark for pair in (*reasoning.own, *_AROUND) for mark in pair] if reasoning.own else []
    return frozenset(token for token in tokens if token and any(token in mark for mark in marks))


def outside(start: int, end: int, blocks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is left of `start` to `end` without some parts of it, which come in order."""
    for first, last in blocks:
        if first > start:
            yield start, first
        start = max(start, last)
    if end > start:
        yield start, end


def inner_ends(reasoning: Reasoning) -> frozenset[str]:
    """Tokens that end a turn as it is written, yet only the reasoning while it is generated."""
    has_channels = any(_CHANNEL_TOKENS[0] in pair.closing for pair in reasoning.own)
    return frozenset({"<|end|>"}) if has_channels else frozenset()


def _own_marks(tokens: set[str], template: str) -> Iterator[Marks]:
    for pair in KNOWN:
        has_tokens = pair.opening in tokens or pair.closing in tokens
        has_text = pair.closing in template or pair.opening in template
        is_channels = all(token in tokens for token in _CHANNEL_TOKENS)
        if has_tokens or has_text or (is_channels and _CHANNEL_TOKENS[0] in pair.closing):
            yield pair
    known = {mark for pair in KNOWN for mark in pair}
    written = {found[0] for found in _CLOSING.finditer(template)}  # opening ones, too
    for closing in sorted((tokens | written) - known):
        opening = _opening_of(closing, tokens | written)
        if opening is not None:
            yield Marks(opening, closing)


def _opening_of(closing: str, there: set[str]) -> str | None:
    """The mark that a closing one closes, among those that are there; None if it closes nothing."""
    found = _CLOSING.fullmatch(closing)
    if found is None or not (found["before"] or found["after"]):
        return None
    left, name, right = found["left"], found["name"], found["right"]
    middles = [each for word in _OPENING_WORDS for each in (f"{word}{name}", f"{name}{word}")]
    wanted = {_plain(f"{left}{middle}{right}") for middle in middles}
    return next((mark for mark in sorted(there) if _plain(mark) in wanted), None)


def _plain(mark: str) -> str:
    return re.sub(r"[_▁ -]", "", mark).casefold()


def _holds(text: str, pairs: Sequence[Marks]) -> bool:
    return any(mark in text for pair in pairs for mark in pair)


def _ends(text: str, mark: str) -> Iterator[int]:
    """The end of the last place of a mark in a text, if it is there."""
    place = text.rfind(mark)
    if place >= 0:
        yield place + len(mark)


def _bare_answer(text: str) -> str:
    """The answer without what a family puts around it."""
    for opening, closing in _AROUND:
        if text.startswith(opening):
            inner = text[len(opening) :]
            return inner.rpartition(closing)[0].strip() if closing in inner else inner.strip()
    return text
