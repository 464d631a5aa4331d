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
from copy import copy
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from seal.data.control_tokens import NOT_ESCAPED, ControlTokens
from seal.data.encoded import Encoded, Located, Tokenization, fit, response_mask
from seal.data.end_of_turn import EndOfTurn, added_tokens, token_ids
from seal.data.fallback_template import FALLBACK_TEMPLATE
from seal.data.notes import Notes
from seal.data.reasoning import (
    Marks,
    Reasoning,
    find_reasoning,
    inner_ends,
    kept_tokens,
    outside,
)
from seal.data.rendered_turns import Lost, Span, find_turns
from seal.data.responses import Response, response_of
from seal.data.sample import Message, Sample
from seal.data.template import REFUSALS, ChatTemplate, refusal

__all__ = [
    "FALLBACK_TEMPLATE",
    "ChatEncoder",
    "Encoded",
    "Located",
    "Span",
    "Tokenization",
    "response_mask",
]

logger = logging.getLogger(__name__)

_BATCH_SIZE = 256  # texts per tokenizer call: enough for its threads, little memory for the offsets


class ChatEncoder:
    """Renders conversations with a chat template and tokenizes them.

    A template that prints today's date (Llama 3.1's does, where nothing is set) changes the tokens
    from day to day: fix it in `template_kwargs`, for example `date_string`.

    Attributes:
        template: The text of the chat template in use.
        reasoning: How the model's reasoning is told from its answers.
        shown_specials: The special tokens that stay in a response's text: reasoning is marked so.
        stop_ids: Token ids that end a response: end of sequence, the template's end of turn, and
            what the model's own configuration names.
        end_text: The plain text that ends a response where no token does; "" = none.
        remark: What is to be said of how the template ends a response, if anything.
    """

    template: str
    stop_ids: tuple[int, ...] = ()
    end_text: str = ""
    remark: str | None = None
    reasoning: Reasoning = Reasoning()
    shown_specials: frozenset[str] = frozenset()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        end_ids: Sequence[int] = (),
        reasoning_marks: Sequence[Marks] | None = None,
    ) -> None:
        """An encoder for one tokenizer and one template.

        Args:
            tokenizer: A fast one: offsets are needed.
            template: Jinja text; None takes the tokenizer's own template, and `FALLBACK_TEMPLATE`
                where it has none.
            template_kwargs: Variables for the template, such as `enable_thinking`.
            end_ids: Token ids at which the model's own configuration ends a response.
            reasoning_marks: What opens and closes the model's reasoning; None looks for it in
                tokenizer and template, and none says that the model does not reason.

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
        self._find_reasoning(reasoning_marks)
        self.control = ControlTokens(
            tokenizer, self.template, _names(tokenizer, self.stop_ids), self.reasoning
        )
        self._escapes = False
        self._has_told = self._has_told_control = False

    def _find_reasoning(self, named: Sequence[Marks] | None) -> None:
        try:
            prompt = self._template.render([("user", "Question")], add_generation_prompt=True)
        except REFUSALS:
            prompt = ""
        added = self._tokenizer.added_tokens_decoder
        self.reasoning = find_reasoning(map(str, added.values()), self.template, prompt, named)
        specials = [str(token) for token in added.values() if token.special]
        self.shown_specials = kept_tokens(self.reasoning, specials)
        inner = inner_ends(self.reasoning)
        goes_on = {number for number, token in added.items() if str(token) in inner}
        self.stop_ids = tuple(number for number in self.stop_ids if number not in goes_on)

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
        notes = Notes() if notes is None else notes
        escapes = tokenization.special_tokens_in_text == "escape"
        located = self.locate(samples, escapes=escapes)
        for sample, found in zip(samples, located, strict=True):
            results.append(
                found
                if isinstance(found, str)
                else self._settle(sample, found, tokenization, notes)
            )
        return results

    def escaping(self) -> ChatEncoder:
        """The same encoder, to which no text is a control token, that of prompts neither."""
        other = copy(self)
        other._escapes = True
        return other

    @property
    def escapes(self) -> bool:
        """Whether no text is a control token to it, whatever a tokenization says."""
        return self._escapes

    def locate(
        self, samples: Sequence[Sample], *, escapes: bool = False
    ) -> Iterator[Located | str]:
        """Tokens and responses in the text of every sample in order, or why there are none.

        Args:
            samples: Conversations.
            escapes: Whether text that reads as a control token stays text.
        """
        for start in range(0, len(samples), _BATCH_SIZE):
            batch = samples[start : start + _BATCH_SIZE]
            yield from self._locate_batch(batch, escapes or self._escapes)

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
        said = self.control.said_of(map(_turns, prompts), escapes=self._escapes)
        if said and not self._has_told_control:
            self._has_told_control = True
            logger.warning("%s", said)
        texts = [text.rstrip(" ") for text in texts]
        ids = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        if self._escapes:
            pairs = zip(prompts, texts, ids, strict=True)
            ids = [self._escaped_prompt(*one) for one in pairs]
        return ids

    def _escaped_prompt(self, prompt: Sequence[Message], text: str, ids: list[int]) -> list[int]:
        """The tokens of a prompt of which no text is a control token; they are `ids` for most."""
        turns = _turns(prompt)
        if not self.control.in_turns(turns):
            return ids
        hidden = self._template.render(self.control.hidden(turns), add_generation_prompt=True)
        tokens = self.control.tokens(text, hidden.rstrip(" "))
        if tokens is None:
            raise ValueError(f"a prompt cannot be used: {NOT_ESCAPED}")
        return tokens.ids

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

    def _locate_batch(self, samples: Sequence[Sample], escapes: bool) -> list[Located | str]:
        rendered = [self._rendered(_turns(one.messages), len(one.prompt)) for one in samples]
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
        located = [
            found
            if isinstance(found, str)
            else Located(found[0], found[1], *_arrays(*next(rows)), lost=found[2])
            for found in rendered
        ]
        if not escapes:
            return located
        return [
            found if isinstance(found, str) else self._escaped(sample, found)
            for sample, found in zip(samples, located, strict=True)
        ]

    def _escaped(self, sample: Sample, found: Located) -> Located | str:
        """A conversation of which no turn's text is a control token; the same for most."""
        turns = _turns(sample.messages)
        if not self.control.in_turns(turns):
            return found
        hidden = self._rendered(self.control.hidden(turns), len(sample.prompt))
        if isinstance(hidden, str):
            return hidden
        tokens = self.control.tokens(found.text, hidden[0])
        if tokens is None:
            return NOT_ESCAPED
        # Found in the hidden text, in which no turn holds what looks like its end.
        return Located(found.text, hidden[1], *_arrays(*tokens), lost=hidden[2])

    def _rendered(
        self, turns: list[tuple[str, str]], num_prompt: int
    ) -> tuple[str, list[Response], list[Lost]] | str:
        """The text, the responses in it, and the turns that are not in it."""
        try:
            text = self._template.render(turns)
        except REFUSALS as error:
            return refusal(error)
        roles = tuple(role for role, _ in turns)
        answers = frozenset(
            place for place in range(num_prompt, len(turns)) if roles[place] == "assistant"
        )
        layout = self._template.layout(roles)
        found, lost = find_turns(layout.frame, text, turns, answers)
        changed = [one.place for one in lost if not one.is_dropped]
        shorter = self.reasoning.shortened(turns, changed) if changed else None
        if shorter is not None:  # the template left out no more than what was thought
            found, lost = find_turns(layout.frame, text, shorter, answers)
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
        turns = _turns(sample.messages)
        if self.reasoning.is_left_out(found.text, turns, found.responses):
            notes.add(f"{self._template.name} leaves the reasoning out of a turn", sample.id)
        held = self.control.held(turns)
        if held and tokenization.special_tokens_in_text == "exclude":
            return f"{held[0].said(escapes=False)} (tokenization.special_tokens_in_text=exclude)"
        escapes = self._escapes or tokenization.special_tokens_in_text == "escape"
        for what in dict.fromkeys(one.said(escapes=escapes) for one in held):
            notes.add(what, sample.id)
        spans = self._learned_spans(sample, found, tokenization, notes)
        if not spans:
            return "the response is nothing but reasoning, which tokenization.reasoning=mask masks"
        mask = response_mask(found.offsets, spans)
        return fit(sample.id, found.input_ids, mask, tokenization)

    def _learned_spans(
        self, sample: Sample, found: Located, tokenization: Tokenization, notes: Notes
    ) -> list[Span]:
        """The characters that carry the loss: with reasoning, or without."""
        blocks = [self.reasoning.blocks(found.text, *span) for span in found.spans]
        if not any(blocks):
            return found.spans
        is_masked = tokenization.reasoning == "mask"
        learned = "carries no loss" if is_masked else "is learned like the answer"
        notes.add(f"reasoning in the response {learned}", sample.id)
        if not is_masked:
            return found.spans
        pairs = zip(found.spans, blocks, strict=True)
        return [Span(*part) for span, inner in pairs for part in outside(*span, inner)]


def _names(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    names = tokenizer.convert_ids_to_tokens(list(ids))
    assert isinstance(names, list)
    return tuple(names)


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in messages]


def _arrays(ids: list[int], offsets: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    edges = np.fromiter(chain.from_iterable(offsets), dtype=np.int64, count=2 * len(offsets))
    return np.array(ids, dtype=np.int32), edges.reshape(-1, 2)
