"""The sample: one prompt-completion pair, named by its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

ID_LENGTH = 16  # hex digits: 64 bits, two distinct texts among 10M collide with probability 3e-6
_COPY = re.compile(rf"([0-9a-f]{{{ID_LENGTH}}})-\d+")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: The text of the turn.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the completion that a model would be trained to give.

    Attributes:
        id: Hash of prompt and completion; never a position. The k-th repetition of the same content
            (k = 1, 2, ...) carries the suffix `-k`.
        prompt: The turns before the completion, the last of them not the assistant's.
        completion: The turns from the first trained assistant turn on. Its assistant turns are the
            response: their tokens carry the loss.
        source: Where the sample came from, in the user's words; "" when unknown. No ranker reads
            it.
    """

    id: str
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    source: str = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation."""
        return self.prompt + self.completion


def transcript(turns: Sequence[Message], usual: str = "") -> str:
    """The text of a lone turn, else every turn after its role.

    Args:
        turns: In the order in which they were said.
        usual: The role that a lone turn needs to stand without it; "" = any.
    """
    if len(turns) == 1 and (not usual or turns[0].role == usual):
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def content_id(prompt: tuple[Message, ...], completion: tuple[Message, ...]) -> str:
    """The id of a sample: 16 hex digits of the SHA-256 of its canonical JSON."""
    turns = [[[turn.role, turn.content] for turn in part] for part in (prompt, completion)]
    text = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
    # Lone surrogates cannot be encoded strictly, but are possible in JSON: keep them distinct.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]


def content_of(key: str) -> str:
    """A sample's id without the suffix of a copy."""
    found = _COPY.fullmatch(key)
    return key if found is None else found[1]
