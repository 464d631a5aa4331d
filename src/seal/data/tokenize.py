"""From turns to tokens, with the mask of the response tokens.

The whole conversation is rendered and tokenized once, and the response is found in the text by its
characters. A token counts as response when it shares a character with the response. Tokenizing the
prompt alone and counting its tokens would lose the first response token wherever it merges with the
prompt's last blank (" Sure"): the token in which a model refuses or complies.

A response is all that follows the generation prompt: the blanks before its text, too, and what the
template writes there. It ends with its end-of-turn token, so that ending is learned too. Nothing is
invented: a cut response has none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64
from pydantic import Field
from tokenizers import Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from seal.artifacts.settings import Settings
from seal.data.end_of_turn import EndOfTurn, added_tokens, token_ids
from seal.data.fallback_template import FALLBACK_TEMPLATE
from seal.data.notes import Notes
from seal.data.responses import Response, response_of
from seal.data.sample import Message, Sample
from seal.data.template import REFUSALS, ChatTemplate, refusal
from seal.data.turns import Lost, Span, find_turns

__all__ = ["FALLBACK_TEMPLATE"]

logger = logging.getLogger(__name__)

_BATCH_SIZE = 256  # texts per tokenizer call: enough for its threads, little memory for the offsets


class Tokenization(Settings):
    """How samples become tokens.

    Attributes:
        max_length: Most tokens of a sample, prompt and response together.
        truncate: What happens to a longer sample: "response" cuts it on the right, and excludes it
            only when no response token is left; "drop" excludes it.
        dropped_turn: What happens to a sample of which the chat template leaves out a turn, or
            changes its text by more than blanks: "exclude" excludes it; "keep" keeps it without
            that turn's text, which is counted and said. A response that is left out is not learned.
    """

    max_length: int = Field(default=2048, ge=8)
    truncate: Literal["response", "drop"] = "response"
    dropped_turn: Literal["exclude", "keep"] = "exclude"


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


class ChatEncoder:
    """Renders conversations with a chat template and tokenizes them.

    A template that prints today's date (Llama 3.1's does, where nothing is set) changes the tokens
    from day to day: fix it in `template_kwargs`, for example `date_string`.

    Attributes:
        template: The text of the chat template in use.
        stop_ids: Token ids that end a response: end of sequence, the template's end of turn, and
            what the model's own configuration names.
        end_text: The plain text that ends a response where no token does; "" = none.
        remark: What is to be said of how the template ends a response, if anything.
    """

    template: str
    stop_ids: tuple[int, ...] = ()
    end_text: str = ""
    remark: str | None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        end_ids: Sequence[int] = (),
    ) -> None:
        """An encoder for one tokenizer and one template.

        Args:
            tokenizer: A fast one: offsets are needed.
            template: Jinja text; None takes the tokenizer's own template, and `FALLBACK_TEMPLATE`
                where it has none.
            template_kwargs: Variables for the template, such as `enable_thinking`.
            end_ids: Token ids at which the model's own configuration ends a response.

        Raises:
            ValueError: If the tokenizer gives no offsets, the template does not compile, the
                fallback has no end-of-sequence token to write, or a variable's name is taken.
        """
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} of {tokenizer.name_or_path!r} is a slow tokenizer, "
                "which cannot say where in the text its tokens lie. Use one with a tokenizer.json."
            )
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, template, template_kwargs or {})
        self.template = self._template.text
        self._find_ends([number for number in end_ids if 0 <= number < len(tokenizer)])
        self._has_told = False

    @property
    def template_hash(self) -> str:
        """SHA-256 of the template's text and its variables: 64 hex digits."""
        return self._template.hash

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the tokens of a text: the template, and the tokenizer's own content."""
        tokenizer = self._tokenizer
        backend = tokenizer.backend_tokenizer
        assert isinstance(backend, Tokenizer)  # it is a fast one
        state = json.loads(backend.to_str())
        # Settings of the last call, which the next one overwrites.
        content = {key: state[key] for key in state.keys() - {"padding", "truncation"}}
        text = json.dumps([content, tokenizer.special_tokens_map], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"template": self.template_hash, "tokenizer": digest}

    def encode(
        self, samples: Sequence[Sample], tokenization: Tokenization, notes: Notes | None = None
    ) -> list[Encoded | str]:
        """Tokens of every sample in order, or the reason why it cannot be encoded.

        Args:
            samples: What to encode.
            tokenization: How.
            notes: Gets what happened to samples that are encoded all the same.
        """
        results: list[Encoded | str] = []
        for sample, found in zip(samples, self.locate(samples), strict=True):
            results.append(
                found
                if isinstance(found, str)
                else self._settle(sample, found, tokenization, Notes() if notes is None else notes)
            )
        return results

    def locate(self, samples: Sequence[Sample]) -> Iterator[Located | str]:
        """Tokens and responses in the text of every sample in order, or why there are none."""
        for start in range(0, len(samples), _BATCH_SIZE):
            yield from self._locate_batch(samples[start : start + _BATCH_SIZE])

    def prompt_ids(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Tokens of each prompt with the start of an assistant turn, to generate from.

        A blank at the very end is left out: in training it is part of the response's first token.

        Raises:
            ValueError: If the template refuses a prompt, naming its place.
        """
        texts = []
        for place, prompt in enumerate(prompts):
            try:
                text = self._template.render(_turns(prompt), add_generation_prompt=True)
            except REFUSALS as error:
                raise ValueError(f"prompt {place}: {refusal(error)}") from error
            texts.append(text)
        if not texts:
            return []
        self._tell_lost(prompts, texts)
        texts = [text.rstrip(" ") for text in texts]
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _find_ends(self, known: list[int]) -> None:
        tokenizer = self._tokenizer
        eos = [] if tokenizer.eos_token is None else [str(tokenizer.eos_token)]
        names = tokenizer.convert_ids_to_tokens(known)
        assert isinstance(names, list)
        end_of_turn = EndOfTurn(added_tokens(tokenizer), frozenset([*eos, *names]))
        self._end_of_turn, ends = self._template.learn(end_of_turn)
        ids = [*token_ids(tokenizer, [*eos, *(ends or [])]), *known]
        self.stop_ids = tuple(dict.fromkeys(ids))
        self.end_text = self._end_of_turn.text
        if ends == [] and not self.end_text:
            self.remark = (
                f"{self._template.name} writes no end of turn, so the model does not learn to "
                f"stop: what it generates goes on to max_new_tokens"
                + "".join(f", or to {name}" for name in eos)
            )

    def _tell_lost(self, prompts: Sequence[Sequence[Message]], texts: Sequence[str]) -> None:
        """Warn, once, of turns that the template does not show to the model that answers."""
        if self._has_told:
            return
        lost: list[tuple[int, Lost]] = []
        for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            turns = _turns(prompt)
            frame = self._template.layout(tuple(role for role, _ in turns), is_prompt=True).frame
            lost += [(place, one) for one in find_turns(frame, text, turns, frozenset())[1][:1]]
        if lost:
            self._has_told = True
            place, first = lost[0]
            logger.warning(
                "%s %s in prompt %d, and a turn in %d of %d prompts: the model answers without it",
                self._template.name, first, place, len(lost), len(prompts),
            )  # fmt: skip

    def _locate_batch(self, samples: Sequence[Sample]) -> list[Located | str]:
        rendered = [self._rendered(sample) for sample in samples]
        texts = [found[0] for found in rendered if not isinstance(found, str)]
        if not texts:
            return [found for found in rendered if isinstance(found, str)]
        tokens = self._tokenizer(
            texts,
            add_special_tokens=False,  # the template has written them
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        rows = zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        return [
            found
            if isinstance(found, str)
            else Located(found[0], found[1], *_arrays(*next(rows)), lost=found[2])
            for found in rendered
        ]

    def _rendered(self, sample: Sample) -> tuple[str, list[Response], list[Lost]] | str:
        """The text, the responses in it, and the turns that are not in it."""
        turns = _turns(sample.messages)
        try:
            text = self._template.render(turns)
        except REFUSALS as error:
            return refusal(error)
        roles = tuple(role for role, _ in turns)
        answers = frozenset(
            place for place in range(len(sample.prompt), len(turns)) if roles[place] == "assistant"
        )
        layout = self._template.layout(roles)
        found, lost = find_turns(layout.frame, text, turns, answers)
        responses = {
            turn.place: response_of(
                layout, text, turn, roles[turn.place - 1] if turn.place else "", self._end_of_turn
            )
            for turn in found
            if turn.place in answers
        }
        if not responses:
            verb = str(lost[0]) if lost else "shows no response"
            return (
                f"{self._template.name} {verb}, so the response cannot be found in the rendered "
                "conversation"
            )
        return text, [responses[place] for place in sorted(responses)], lost

    def _settle(
        self, sample: Sample, found: Located, tokenization: Tokenization, notes: Notes
    ) -> Encoded | str:
        for lost in found.lost:
            if tokenization.dropped_turn == "exclude":
                return (
                    f"{self._template.name} {lost}, so the model would not read it. Use another "
                    "template, or set tokenization.dropped_turn=keep"
                )
            notes.add(f"{self._template.name} {lost}", sample.id)
        mask = response_mask(found.offsets, found.spans)
        return _fit(sample.id, found.input_ids, mask, tokenization)


def response_mask(offsets: np.ndarray, spans: Sequence[Span]) -> Bool[np.ndarray, " T"]:
    """Which tokens share a character with a response.

    Args:
        offsets: Start and end (exclusive) of each token in the text, [T, 2].
        spans: The responses.
    """
    starts, ends = _with_blanks(offsets)
    mask = np.zeros(len(offsets), dtype=bool)
    # Normalizers may bring tokens out of order: these bounds hold all that share a character.
    furthest, nearest = np.maximum.accumulate(ends), np.minimum.accumulate(starts[::-1])[::-1]
    for span in spans:
        own = slice(np.searchsorted(furthest, span.start), np.searchsorted(nearest, span.end))
        # A token without characters at the very start is a word-start mark that belongs to it.
        reaches = (ends[own] > span.start) | (starts[own] == span.start)
        mask[own] |= reaches & (starts[own] < span.end)
    return mask


def _with_blanks(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of tokens; those of blanks only, which may be trimmed away, with them."""
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    is_empty = starts == ends
    if is_empty.any():
        reached = np.maximum.accumulate(np.where(is_empty, 0, ends))
        starts[is_empty] = np.minimum(np.concatenate([[0], reached[:-1]]), starts)[is_empty]
    return starts, ends


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in messages]


def _arrays(ids: list[int], offsets: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2)


def _fit(
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
