"""Samples as tokens: how they are made, what they are, and which of them carry the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64
from pydantic import Field

from seal.artifacts.settings import Settings
from seal.data.rendered_turns import Lost, Span
from seal.data.responses import Response

_FEW_SPANS = 4  # to each of which all tokens are compared: quicker than finding bounds


class Tokenization(Settings):
    """How samples become tokens.

    Attributes:
        max_length: Most tokens of a sample, prompt and response together.
        truncate: What happens to a longer sample: "response" cuts it on the right, and excludes it
            only when no response token is left; "drop" excludes it.
        dropped_turn: What happens to a sample of which the chat template leaves out a turn, or
            changes its text by more than blanks: "exclude" excludes it; "keep" keeps it without
            that turn's text, which is counted and said. A response that is left out is not learned.
        special_tokens_in_text: What happens to a turn that holds the name of a control token, such
            as "<|im_end|>": "keep" lets it become that token, as the template and other trainers
            do, and says so; "escape" reads it as plain text; "exclude" excludes the sample.
        reasoning: Whether what a response holds between the marks of reasoning is learned: "keep"
            or "mask". Masked tokens are read, and carry no loss.
    """

    max_length: int = Field(default=2048, ge=8)
    truncate: Literal["response", "drop"] = "response"
    dropped_turn: Literal["exclude", "keep"] = "exclude"
    special_tokens_in_text: Literal["keep", "escape", "exclude"] = "keep"
    reasoning: Literal["keep", "mask"] = "keep"


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A sample as tokens.

    Attributes:
        id: The sample's.
        input_ids: Prompt and response as the chat template renders them; at least one response
            token.
        response_mask: Which tokens carry the loss.
        is_truncated: Whether response tokens were cut off.
    """

    id: str
    input_ids: Int32[np.ndarray, " T"]
    response_mask: Bool[np.ndarray, " T"]
    is_truncated: bool


class Located(NamedTuple):
    """A rendered conversation.

    Attributes:
        text: The whole of it.
        responses: Where they lie in the text.
        input_ids: Its tokens.
        offsets: Start and end (exclusive) of each token in the text.
        lost: The turns of which the text is not in it.
    """

    text: str
    responses: list[Response]
    input_ids: Int32[np.ndarray, " T"]
    offsets: Int64[np.ndarray, "T 2"]
    lost: Sequence[Lost] = ()

    @property
    def spans(self) -> list[Span]:
        """The characters that carry the loss."""
        return [response.span for response in self.responses]


def response_mask(offsets: np.ndarray, spans: Sequence[Span]) -> Bool[np.ndarray, " T"]:
    """Which tokens share a character with a response.

    Args:
        offsets: Start and end (exclusive) of each token in the text, [T, 2].
        spans: The responses.
    """
    mask = np.zeros(len(offsets), dtype=bool)
    for own in tokens_of_each(offsets, spans):
        mask[own] = True
    return mask


def tokens_of_each(offsets: np.ndarray, spans: Sequence[Span]) -> Iterator[Int64[np.ndarray, " R"]]:
    """The tokens that share a character with each span: their places, span by span.

    Args:
        offsets: Start and end (exclusive) of each token in the text, [T, 2].
        spans: In any order; they may overlap.
    """
    starts, ends = _with_blanks(offsets)
    first, last = 0, len(offsets)
    furthest, nearest = ends, starts
    is_many = len(spans) > _FEW_SPANS
    if is_many:
        # Normalizers may bring tokens out of order: these bounds hold all that share a character.
        furthest, nearest = np.maximum.accumulate(ends), np.minimum.accumulate(starts[::-1])[::-1]
    for span in spans:
        if is_many:
            first = int(np.searchsorted(furthest, span.start))
            last = int(np.searchsorted(nearest, span.end))
        begins, stops = starts[first:last], ends[first:last]
        # A token without characters at the very start is a word-start mark that belongs to it.
        reaches = (stops > span.start) | (begins == span.start)
        yield first + np.flatnonzero(reaches & (begins < span.end))


def _with_blanks(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of tokens; those of blanks only, which may be trimmed away, with them."""
    starts, ends = offsets[:, 0], offsets[:, 1]
    is_empty = starts == ends
    if is_empty.any():
        starts = starts.copy()
        reached = np.maximum.accumulate(np.where(is_empty, 0, ends))
        starts[is_empty] = np.minimum(np.concatenate([[0], reached[:-1]]), starts)[is_empty]
    return starts, ends


def fit(
    key: str, input_ids: np.ndarray, mask: np.ndarray, tokenization: Tokenization
) -> Encoded | str:
    """The sample within `max_length`, or why it does not fit."""
    if not mask.any():
        return "the tokenizer gives no token for the response"
    length, most = len(input_ids), tokenization.max_length
    if length <= most:
        return Encoded(key, input_ids, mask, is_truncated=False)
    if tokenization.truncate == "drop":
        return f"{length} tokens are more than max_length={most}"
    num_prompt = int(mask.argmax())
    if num_prompt >= most:
        return f"the prompt's {num_prompt} tokens leave no response token within max_length={most}"
    return Encoded(key, input_ids[:most], mask[:most], is_truncated=bool(mask[most:].any()))
