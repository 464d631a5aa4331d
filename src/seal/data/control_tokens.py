"""Text that reads as control tokens: found in the turns of a conversation, or tokenized as text.

A tokenizer reads the name of a control token as that token wherever it stands. A user's text that
holds "<|im_end|>" so ends the user's turn, and what follows is read as the template's own words.

To tokenize such text as text, the template's own control tokens are given other names: characters
of the same number that no text has. A copy of the tokenizer knows these names, and no others. What
the turns hold is then text to it, and as no length changes, every offset stays right.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tokenizers import Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from seal.data.reasoning import Reasoning

NOT_ESCAPED = (
    "it holds text that reads as a control token and cannot be told from the chat template's own. "
    "Take it out, or set tokenization.special_tokens_in_text=keep"
)
_FIRST = 0x100000  # of the private characters that nobody assigns
# What control tokens look like. An added token of another look, such as <h1> or a run of blanks, is
# one only if it is special or the template writes it.
_LOOK = re.compile(
    r"<[|\uff5c][^|\uff5c<>{}\s]+[|\uff5c]>|\[/?[A-Z][A-Z_]+\]|<</?[A-Z]+>>"
    r"|<(?:start|end)_of_\w+>|</?s>|◁[^◁▷\s]+▷"
)


class Held(NamedTuple):
    """Text of a turn that reads as a control token.

    Attributes:
        name: The token's.
        role: The turn's.
        is_token: Whether the tokenizer knows it; else the template writes it as plain text, which
            nothing can tell from the same text in a turn.
    """

    name: str
    role: str
    is_token: bool

    def said(self, *, escapes: bool) -> str:
        """What becomes of it, for a message.

        Args:
            escapes: Whether text is not to become a control token.
        """
        becomes = "is read as text" if escapes else "becomes that control token"
        if not self.is_token:
            becomes = "cannot be told from the same text of the chat template"
        return f"{self.name!a} in the text of a turn ({self.role}) {becomes}"


class Tokens(NamedTuple):
    """A text as tokens: their ids, and the start and end of each in the text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class ControlTokens:
    """The control tokens of one tokenizer under one template.

    Attributes:
        tokenizer: A fast one.
        template: The template's own text.
        ends: Names of the tokens that end a response.
        reasoning: The marks of a model's reasoning belong into its own turns, and are no intruders
            there.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    ends: Iterable[str]
    reasoning: Reasoning

    def held(self, turns: Sequence[tuple[str, str]]) -> list[Held]:
        """What the turns hold, each once, in order."""
        found = (
            Held(self._name(text), role, self._name(text) in self._ids)
            for role, content in turns
            for text in self._matches(role, content)
        )
        return list(dict.fromkeys(found))

    def said_of(self, prompts: Iterable[Sequence[tuple[str, str]]], *, escapes: bool) -> str:
        """What becomes of text in prompts that reads as control tokens; empty if there is none."""
        held = [(place, self.held(turns)) for place, turns in enumerate(prompts)]
        found = [(place, some[0]) for place, some in held if some]
        if not found:
            return ""
        place, first = found[0]
        said = first.said(escapes=escapes)
        return f"{said} in prompt {place}; {len(found)} of {len(held)} prompts hold such text"

    def in_turns(self, turns: Sequence[tuple[str, str]]) -> bool:
        """Whether the turns hold any token."""
        return any(held.is_token for held in self.held(turns))

    def hidden(self, turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The turns with other characters, as many, in place of what reads as a control token."""
        return [
            (role, self._pattern.sub(lambda found, r=role: self._hide(found[0], r), content))
            for role, content in turns
        ]

    def tokens(self, text: str, hidden: str) -> Tokens | None:
        """The tokens of a rendered conversation in which the turns' text is nothing but text.

        Args:
            text: The conversation as the template renders it.
            hidden: The same of the hidden turns: shows which control tokens are the template's.

        Returns:
            None where the two cannot be laid side by side, or text stays a control token.
        """
        if len(text) != len(hidden) or self._aliases & set(text):
            return None
        own = list(self._pattern.finditer(hidden))
        renamed, place = [], 0
        for match in own:
            renamed += [text[place : match.start()], self._alias(self._name(match[0]))]
            place = match.end()
        made = self._copy.encode("".join([*renamed, text[place:]]), add_special_tokens=False)
        ids = [self._originals.get(number, number) for number in made.ids]
        controls = set(self._ids.values())
        names = (self._name(match[0]) for match in own)
        expected = Counter(self._ids[name] for name in names if name in self._ids)
        more = Counter(number for number in ids if number in controls) - expected
        return None if more else Tokens(ids, list(made.offsets))

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Name -> id of the control tokens that the tokenizer knows, longest first."""
        ends, marks = set(self.ends), [mark for pair in self.reasoning.own for mark in pair]
        found = {
            str(token): number
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if str(token).strip() and self._is_control(str(token), token.special, ends, marks)
        }
        return dict(sorted(found.items(), key=lambda pair: (-len(pair[0]), pair[0])))

    def _is_control(
        self, name: str, is_special: bool, ends: set[str], marks: Sequence[str]
    ) -> bool:
        is_known = name in ends or any(name in mark for mark in marks)
        return is_special or is_known or name in self.template or bool(_LOOK.fullmatch(name))

    @cached_property
    def _names(self) -> dict[str, int]:
        """Name -> number of all that reads as control: tokens, and words of the template."""
        words = [found[0] for found in _LOOK.finditer(self.template)]
        return {name: number for number, name in enumerate(dict.fromkeys([*self._ids, *words]))}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self._names, key=lambda name: (-len(name), name))
        ignored = re.IGNORECASE if self._ignores_case else re.NOFLAG
        return re.compile("|".join(map(re.escape, longest)) or r"(?!)", ignored)

    @cached_property
    def _ignores_case(self) -> bool:
        """Whether tokens are looked for in text whose case is gone."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        normalizer = self._backend.normalizer
        is_normalized = any(token.normalized for token in tokens)
        return is_normalized and normalizer is not None and "A" not in normalizer.normalize_str("A")

    @property
    def _backend(self) -> Tokenizer:
        backend = self.tokenizer.backend_tokenizer
        assert isinstance(backend, Tokenizer)  # it is a fast one
        return backend

    @cached_property
    def _aliases(self) -> frozenset[str]:
        return frozenset(chr(_FIRST + number) for number in self._names.values())

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer, with aliases for names."""
        state = json.loads(self._backend.to_str())
        state["padding"] = state["truncation"] = None  # settings of the last call
        for token in state["added_tokens"]:
            if token["content"] in self._ids:
                token["content"] = self._alias(token["content"])
        return Tokenizer.from_str(json.dumps(state))

    @cached_property
    def _originals(self) -> dict[int, int]:
        """The copy's id of a control token -> the tokenizer's own."""
        found = {self._copy.token_to_id(self._alias(name)): own for name, own in self._ids.items()}
        return {number: own for number, own in found.items() if number is not None}

    def _matches(self, role: str, content: str) -> Iterator[str]:
        for found in self._pattern.finditer(content):
            if not self._belongs(found[0], role):
                yield found[0]

    def _belongs(self, text: str, role: str) -> bool:
        marks = (mark for pair in self.reasoning.own for mark in pair)
        return role == "assistant" and any(text in mark for mark in marks)

    def _hide(self, text: str, role: str) -> str:
        return text if self._belongs(text, role) else self._alias(self._name(text))

    def _name(self, text: str) -> str:
        """The control token that a text reads as; itself, but where letter case is disregarded."""
        if text in self._names:
            return text
        return next(name for name in self._names if name.casefold() == text.casefold())

    def _alias(self, name: str) -> str:
        return chr(_FIRST + self._names[name]) * len(name)
