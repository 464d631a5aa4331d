"""From turns to tokens, with the mask of the response tokens.

The whole conversation is rendered and tokenized once, and the response is found in the text by its
characters. A token counts as response when it shares a character with the response. Tokenizing the
prompt alone and counting its tokens would lose the first response token wherever it merges with the
prompt's last blank (" Sure"): the token in which a model refuses or complies.

A response ends with its end-of-turn token, so that ending is learned too. Nothing is invented: a
cut response has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from pydantic import Field
from tokenizers import Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from seal.artifacts.settings import Settings
from seal.data.fallback_template import FALLBACK_TEMPLATE
from seal.data.sample import Message, Sample

_BATCH_SIZE = 256  # texts per tokenizer call: enough for its threads, little memory for the offsets
_RESERVED = (
    frozenset(  # parameters of apply_chat_template, and what the template finds the turns in
        {"add_generation_prompt", "chat_template", "continue_final_message", "conversation"}
        | {"conversations", "documents", "max_length", "messages", "padding", "return_dict"}
        | {"return_assistant_tokens_mask", "return_tensors", "sanitize_control_tokens", "tokenize"}
        | {"tokenizer_kwargs", "tools", "truncation"}
    )
)
_PROBE = (Message("user", "Question"), Message("assistant", "Answer"))


class Tokenization(Settings):
    """How samples become tokens.

    Attributes:
        max_length: Most tokens of a sample, prompt and response together.
        truncate: What happens to a longer sample: "response" cuts it on the right, and excludes it
            only when no response token is left; "drop" excludes it.
    """

    max_length: int = Field(default=2048, ge=8)
    truncate: Literal["response", "drop"] = "response"


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


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a rendered conversation."""

    start: int
    end: int


class Located(NamedTuple):
    """A rendered conversation: its text, the responses in it, its tokens, and their offsets."""

    text: str
    spans: list[Span]
    input_ids: Int32[np.ndarray, " T"]
    offsets: Int64[np.ndarray, "T 2"]


class ChatEncoder:
    """Renders conversations with a chat template and tokenizes them.

    A template that prints today's date (Llama 3.1's does, where nothing is set) changes the tokens
    from day to day: fix it in `template_kwargs`, for example `date_string`.

    Attributes:
        template: The text of the chat template in use.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """An encoder for one tokenizer and one template.

        Args:
            tokenizer: A fast one: offsets are needed.
            template: Jinja text; None takes the tokenizer's own template, and `FALLBACK_TEMPLATE`
                where it has none.
            template_kwargs: Variables for the template, such as `enable_thinking`.

        Raises:
            ValueError: If the tokenizer gives no offsets, the template does not compile, the
                fallback has no end-of-sequence token to write, or a variable's name is taken.
        """
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} of {tokenizer.name_or_path!r} is a slow tokenizer, "
                "which cannot say where in the text its tokens lie. Use one with a tokenizer.json."
            )
        self._kwargs = dict(template_kwargs or {})
        taken = sorted(_RESERVED & self._kwargs.keys())
        if taken:
            raise ValueError(
                f"chat_template_kwargs names {', '.join(taken)}, which is set by seal. Remove it."
            )
        self._tokenizer = tokenizer
        self._fallback_variables: dict[str, Any] = {}
        self.template = self._choose_template(template)
        self._specials = _special_pattern(tokenizer)
        self._end_of_turn = self._find_end_of_turn()

    @property
    def template_hash(self) -> str:
        """SHA-256 of the template's text and its variables: 64 hex digits."""
        text = json.dumps([self.template, self._kwargs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

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

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end a response: end of sequence, and the template's end of turn."""
        names = [self._tokenizer.eos_token, self._end_of_turn]
        found = self._tokenizer.convert_tokens_to_ids([str(name) for name in names if name])
        assert isinstance(found, list)
        return tuple(dict.fromkeys(found))

    def encode(self, samples: Sequence[Sample], tokenization: Tokenization) -> list[Encoded | str]:
        """Tokens of every sample in order, or the reason why it cannot be encoded."""
        results: list[Encoded | str] = []
        for sample, found in zip(samples, self.locate(samples), strict=True):
            if not isinstance(found, str):
                mask = response_mask(found.text, found.offsets, found.spans)
                found = _fit(sample.id, found.input_ids, mask, tokenization)
            results.append(found)
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
                texts.append(self._render(prompt, add_generation_prompt=True).rstrip(" "))
            except (TemplateError, TypeError) as error:
                raise ValueError(f"prompt {place}: {_template_reason(error)}") from error
        if not texts:
            return []
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _choose_template(self, template: str | None) -> str:
        tokenizer = self._tokenizer
        if template is not None:
            return template
        if tokenizer.chat_template is not None:
            return tokenizer.get_chat_template()
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has neither a chat template nor an "
                "end-of-sequence token, so a response could not end. Give model.chat_template."
            )
        if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
            self._fallback_variables["bos_token"] = ""
        return FALLBACK_TEMPLATE

    def _find_end_of_turn(self) -> str | None:
        """The special token that the template puts after an assistant turn."""
        try:
            text = self._render(_PROBE)
            spans = self._response_spans(_PROBE, 1, text)
        except TemplateSyntaxError as error:
            raise ValueError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}. "
                "Correct it, or give another as model.chat_template."
            ) from error
        except (TemplateError, TypeError):
            return None  # a template that refuses the probe; it may still take the user's samples
        if isinstance(spans, str):
            return None
        found = self._specials.search(text, spans[0].start, spans[0].end)
        return None if found is None else found.group()

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        text = self._tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in messages],
            chat_template=self.template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **self._fallback_variables,
            **self._kwargs,
        )
        assert isinstance(text, str)
        return text

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
            found if isinstance(found, str) else Located(*found, *_arrays(*next(rows)))
            for found in rendered
        ]

    def _rendered(self, sample: Sample) -> tuple[str, list[Span]] | str:
        try:
            text = self._render(sample.messages)
            spans = self._response_spans(sample.messages, len(sample.prompt), text)
        except (TemplateError, TypeError) as error:
            return _template_reason(error)
        return spans if isinstance(spans, str) else (text, spans)

    def _response_spans(
        self, messages: Sequence[Message], first: int, text: str
    ) -> list[Span] | str:
        """Where the assistant turns from place `first` on lie, or why one is not found."""
        spans: list[Span] = []
        earliest, next_turn = 0, 0  # no turn from `next_turn` on starts before `earliest`
        for place in range(first, len(messages)):
            if messages[place].role != "assistant":
                continue
            head = self._render(messages[:place], add_generation_prompt=True)
            if text.startswith(head):
                earliest = max(earliest, len(head))
            else:  # a template that renders the last turn otherwise than the same turn inside
                earliest = self._skip_turns(messages[next_turn:place], text, earliest)
            start = self._find_content(messages, place, text, earliest)
            if start is None:
                return (
                    f"the chat template changes the text of turn {place}, so the response cannot "
                    "be found in the rendered conversation"
                )
            end = self._end_of_response(messages, place, text, start)
            spans.append(Span(start, end))
            earliest, next_turn = end, place + 1
        return spans

    def _skip_turns(self, turns: Sequence[Message], text: str, earliest: int) -> int:
        """The end of the turns in the text, as far as they are found in it."""
        for turn in turns:
            content = turn.content.strip()
            found = text.find(content, earliest)
            if found < 0 or turn.role == "system":  # templates may move a system prompt
                continue
            earliest = found + len(content)
            special = _special_after(text, earliest, self._specials)
            earliest = earliest if special is None else special.end
        return earliest

    def _find_content(
        self, messages: Sequence[Message], place: int, text: str, earliest: int
    ) -> int | None:
        """Start of a turn's text at or after `earliest`.

        What the template writes before it may contain the same characters (a response "think" after
        an empty think block), so the first place that an end-of-turn token follows is preferred.
        """
        content = messages[place].content.strip()
        first = text.find(content, earliest)
        if first < 0:
            return None
        latest = len(text)
        if place + 1 < len(messages):
            follower = text.find(messages[place + 1].content.strip(), first + len(content))
            latest = follower if follower >= 0 else latest
        start = first
        while 0 <= start < latest:
            if _special_after(text, start + len(content), self._specials) is not None:
                return start
            start = text.find(content, start + 1)
        return first

    def _end_of_response(
        self, messages: Sequence[Message], place: int, text: str, start: int
    ) -> int:
        content_end = start + len(messages[place].content.strip())
        special = _special_after(text, content_end, self._specials)
        if special is None:
            return content_end
        if place + 1 < len(messages):
            # A special token that is not there while the turn is the last one opens the next turn.
            turn = self._render(messages[: place + 1])
            if text.startswith(turn) and special.end > len(turn):
                return content_end
        return special.end


def response_mask(text: str, offsets: np.ndarray, spans: Sequence[Span]) -> Bool[np.ndarray, " T"]:
    """Which tokens share a character with a response.

    Args:
        text: What was tokenized.
        offsets: Start and end (exclusive) of each token in `text`, [T, 2].
        spans: The responses.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    mask = np.zeros(len(offsets), dtype=bool)
    for span in spans:
        # A token without characters at the very start is either the blank before the response,
        # which tokenizers with trimmed offsets show like that, or a word-start mark that belongs to
        # it.
        belongs = not text[span.start - 1 : span.start].isspace()
        mask |= (starts < span.end) & ((ends > span.start) | ((starts == span.start) & belongs))
    return mask


def _arrays(ids: list[int], offsets: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2)


def _special_after(text: str, place: int, specials: re.Pattern[str]) -> Span | None:
    """The special token at `place`, blanks before it skipped."""
    while place < len(text) and text[place].isspace():
        place += 1
    found = specials.match(text, place)
    return None if found is None else Span(*found.span())


def _special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    names = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    names.update(tokenizer.all_special_tokens)
    longest_first = sorted((name for name in names if name.strip()), key=lambda n: (-len(n), n))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _template_reason(error: Exception) -> str:
    return f"the chat template refuses the conversation: {error!a}"


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
