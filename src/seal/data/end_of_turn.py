"""What ends an assistant turn: the tokens and the text with which a template closes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from transformers import AutoConfig, GenerationConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """Finds where an assistant turn ends in what a template writes after its text.

    Attributes:
        added: Matches the tokenizer's added tokens, special or not.
        enders: Added tokens that are known to end a turn, wherever they follow its text at once.
            Others may open the next turn.
        text: The plain text that ends a turn where no added token does; "" = none.
    """

    added: re.Pattern[str]
    enders: frozenset[str] = frozenset()
    text: str = ""

    def length(self, after: str, closing: str) -> int:
        """How many characters after a turn's text belong to the turn.

        Args:
            after: What the template writes up to the next turn's text, or to the end.
            closing: What it writes after a turn of the same kind that is the last one.
        """
        token = self.added.search(closing)
        if token is not None and after.startswith(closing[: token.end()]):
            return token.end()
        name = self.next_to(after)
        if name in self.enders:
            return after.index(name) + len(name)
        return len(self.text) if self.text and after.startswith(self.text) else 0

    def token(self, after: str, closing: str) -> str:
        """The added token that ends a turn, see `length`; "" = none."""
        names = self.added.findall(after[: self.length(after, closing)])
        return names[-1] if names else ""

    def next_to(self, after: str) -> str:
        """The added token that nothing but blanks separates from the turn; "" = none."""
        token = self.added.match(after, len(after) - len(after.lstrip()))
        return "" if token is None else token.group()

    def learn(self, gaps: Sequence[str], header: str) -> EndOfTurn:
        """The same with what a template writes around user, assistant, and perhaps both again.

        Args:
            gaps: The text before the first turn, between them, and after the last one.
            header: How the template starts a response; "" where it does not tell.
        """
        user, last = gaps[1], gaps[-1]
        middle = gaps[2] if len(gaps) > 3 else ""
        token = self.added.search(last)
        enders = {*self.enders, *([] if token is None else [token.group()])}
        # What stands after every turn ends it, unless it opens the turn that follows.
        if self.next_to(middle) == self.next_to(user) not in self.added.findall(header or gaps[0]):
            enders.add(self.next_to(middle))
        enders.discard("")
        text = last.rstrip()
        is_end = token is None and middle.startswith(text)
        return EndOfTurn(self.added, frozenset(enders), text if is_end else "")


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches the tokens that a tokenizer takes whole, the longest first; not the blank ones."""
    names = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    names.update(map(str, tokenizer.all_special_tokens))
    longest_first = sorted((name for name in names if name.strip()), key=lambda n: (-len(n), n))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def token_ids(tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> list[int]:
    """The ids of tokens that are in the vocabulary."""
    ids = tokenizer.convert_tokens_to_ids(list(names))
    assert isinstance(ids, list)
    return [number for number in ids if number is not None]


def configured_ends(path: str, revision: str | None, *, trusted: bool) -> list[int]:
    """The token ids at which a model's own files end a response; none where they do not say.

    Args:
        path: The model's folder, or its name on the Hub.
        revision: On the Hub.
        trusted: Whether code that comes with the model may run.
    """
    values: list[object] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        values.append(GenerationConfig.from_pretrained(path, revision=revision or "main"))
    with suppress(OSError, ValueError, KeyError, TypeError, ImportError):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trusted)
        values.append(config.get_text_config())
    ids: list[int] = []
    for config in values:
        own = getattr(config, "eos_token_id", None)
        ids += [own] if isinstance(own, int) else own or []
    return list(dict.fromkeys(ids))
