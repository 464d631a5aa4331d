"""Who answers the prompts of a task: the model in memory, or a server that holds it."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from seal.artifacts.responses import Answer, ResponseFile, ResponseStore
from seal.data.reasoning import Reasoning
from seal.data.sample import Message
from seal.data.tokenize import ChatEncoder
from seal.generation import Decoding, checked_prompt_ids, generate_answers
from seal.models import LanguageModel
from seal.processes import Processes, processes
from seal.progress import Progress, silent
from seal.server import Asked, Server, ServerSettings

logger = logging.getLogger(__name__)


class Responder(ABC):
    """Answers prompts; abstract."""

    @abstractmethod
    def respond(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[str]:
        """One response per prompt, in their order.

        Args:
            prompts: Conversations to answer.
            names: What error messages call each prompt, e.g. "file:line".

        Raises:
            ValueError: If a prompt does not fit into the model's context, the answers cannot be
                kept, or whoever should answer does not. What was answered before is kept.
        """

    def answer_each(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[Answer]:
        """As `respond`, with what is odd about each response, as far as that is known.

        Raises:
            ValueError: As `respond` does.
        """
        return [Answer(text) for text in self.respond(prompts, names)]


class LocalResponder(Responder):
    """The model in memory.

    Attributes:
        lm: The model, in evaluation mode.
        decoding: How it chooses tokens.
        progress: Told how many prompts are answered.
    """

    def __init__(
        self,
        lm: LanguageModel,
        decoding: Decoding,
        store: ResponseStore | None = None,
        progress: Progress = silent,
    ) -> None:
        """A responder that asks the model for no answer that is in `store`.

        Args:
            lm: The model. One that was changed in memory has no name, and its answers are not kept.
            decoding: How it chooses tokens.
            store: Where answers are kept; None keeps none.
            progress: Told how many prompts are answered.
        """
        self.lm = lm
        self.decoding = decoding
        self.progress = progress
        self._file = None
        if store is not None and lm.identity is not None:
            self._file = store.open(local_header(lm, decoding))

    def respond(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[str]:
        """As `generate` does; what is answered is kept batch by batch."""
        return [answer.response for answer in self.answer_each(prompts, names)]

    def answer_each(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[Answer]:
        """The responses, and whether each was cut at `max_new_tokens`."""
        prompt_ids = checked_prompt_ids(self.lm, prompts, self.decoding, names=names)
        keys = [_hash(ids) for ids in prompt_ids]

        def fresh(places: Sequence[int]) -> Iterator[Mapping[str, Answer]]:
            asked = [prompt_ids[place] for place in places]
            for batch, made in generate_answers(self.lm, asked, self.decoding):
                found = zip(batch, made, strict=True)
                yield {keys[places[number]]: answer for number, answer in found}

        return _answers(keys, fresh, self._file, self.progress, processes())


def local_header(lm: LanguageModel, decoding: Decoding) -> dict[str, Any]:
    """All that decides the responses of a model in memory but the prompts, as JSON."""
    return {
        "responder": "local",
        "model": lm.identity,
        "template": lm.encoder.template_hash,
        "stop_ids": list(lm.encoder.stop_ids),
        "decoding": _deciding(decoding),
        **({"escapes": True} if lm.encoder.escapes else {}),
        **_kept(lm),
    }


def _kept(lm: LanguageModel) -> dict[str, Any]:
    """The special tokens that a response keeps, where there are any: not all did, once."""
    kept = lm.encoder.shown_specials
    return {"keeps": sorted(kept)} if kept else {}


class ServerResponder(Responder):
    """A server that holds the model; it is asked nothing as long as all answers are there."""

    def __init__(
        self,
        settings: ServerSettings,
        decoding: Decoding,
        store: ResponseStore | None = None,
        *,
        arm: str,
        seed: int,
        model: Mapping[str, Any] | None,
        encoder: ChatEncoder | None = None,
        progress: Progress = silent,
    ) -> None:
        """A responder that asks the server for no answer that is in `store`.

        Args:
            settings: Where the server is.
            decoding: How it is asked to choose tokens; `batch_size` means nothing to it.
            store: Where answers are kept; None keeps none.
            arm: Of the model that is measured.
            seed: Of its training.
            model: What the server is to hold, as JSON that changes with any byte of the model's
                files: answers of what was served under this name before are not taken for its own.
            encoder: Of the same model: tells how it marks its reasoning.
            progress: Told how many prompts are answered.

        Raises:
            ValueError: If the client is not installed, or there is no key.
        """
        self.progress = progress
        self._reasoning = encoder.reasoning if encoder else Reasoning()
        name = settings.name_of(arm, seed)
        header = {
            "responder": "server",
            "base_url": settings.base_url,
            "served_name": name,
            "model": model,
            "template": "server",  # it renders the conversation, in its own way
            "decoding": _deciding(decoding),
        }
        self._file = None if store is None else store.open(header)
        kept = self._file.path if self._file else None
        shows_specials = bool(encoder and encoder.shown_specials)
        self._server = Server(settings, name, decoding, kept, shows_specials=shows_specials)

    def respond(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[str]:
        """What the server answers; each answer is kept as it comes.

        An answer without text is an empty response, which a warning and the file's note tell of.
        """
        return [answer.response for answer in self.answer_each(prompts, names)]

    def answer_each(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[Answer]:
        """As `respond`, with the reason why each answer ended and what was thought before it."""
        keys = [_hash([[turn.role, turn.content] for turn in prompt]) for prompt in prompts]
        called = names or [f"prompt {number} of {len(keys)}" for number in range(1, len(keys) + 1)]

        def fresh(places: Sequence[int]) -> Iterator[Mapping[str, Answer]]:
            asked = [Asked(keys[place], called[place], prompts[place]) for place in places]
            for key, answer in self._server.answers(asked):
                yield {key: answer}

        def ask() -> list[Answer]:
            return _answers(keys, fresh, self._file, self.progress, Processes())

        answers = processes().first_does(ask)  # one process asks for all
        empty = [answer.note for answer in answers if not answer.response]
        if empty:
            reasons = "; ".join(sorted(set(empty)))
            logger.warning(
                "%d of %d answers of the server are empty (%s)", len(empty), len(keys), reasons
            )
        return [self._taken_apart(answer) for answer in answers]

    def _taken_apart(self, answer: Answer) -> Answer:
        """The answer, said to be without reasoning where the server has dropped it unseen.

        A model whose prompt opens the reasoning closes it before it ends by itself, so that a whole
        answer without any mark is what the server has left of more.
        """
        is_dropped = (
            answer.reasoning is None
            and self._reasoning.is_opened
            and not answer.is_cut
            and self._reasoning.parts(answer.response).state == "unclosed"
            and not any(pair.opening in answer.response for pair in self._reasoning.own)
        )
        return replace(answer, reasoning="") if is_dropped else answer


def _deciding(decoding: Decoding) -> dict[str, Any]:
    """The settings that decide a response's text."""
    without = {"batch_size"} if decoding.temperature else {"batch_size", "seed"}
    return decoding.model_dump(mode="json", exclude=without)


def _hash(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _answers(
    keys: Sequence[str],
    fresh: Callable[[Sequence[int]], Iterator[Mapping[str, Answer]]],
    file: ResponseFile | None,
    progress: Progress,
    everyone: Processes,
) -> list[Answer]:
    """One answer per key: those in the file, and for the others fresh ones, which go there.

    Args:
        keys: Of the prompts; equal prompts have equal keys and are answered once.
        fresh: Answers the prompts at some places, a few at a time.
        file: Where answers are kept.
        progress: Told how many keys have an answer.
        everyone: Those among whom the prompts are dealt out.
    """
    answers = file.read() if file else {}
    place_of = {key: place for place, key in reversed(list(enumerate(keys)))}
    missing = sorted(place for key, place in place_of.items() if key not in answers)
    missing = everyone.first_says(missing)  # another launch may just be adding to the file
    mine = everyone.share_of(missing)
    made: dict[str, Answer] = {}
    num_done = len(place_of) - len(missing)
    for batch in fresh(mine):
        if file:
            file.append(batch)
        made.update(batch)
        progress(
            "responses", min(num_done + len(made) * everyone.size, len(place_of)), len(place_of)
        )
    for others in everyone.gather(made):
        answers.update(others)
    if file and (missing or everyone.size > 1):
        # Where another launch was faster its answer counts, here as there.
        answers.update(file.read())
    return [answers[key] for key in keys]
