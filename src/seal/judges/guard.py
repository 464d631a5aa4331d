"""A guard model on this machine: a language model trained to say whether an answer is harmful."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jinja2.exceptions import TemplateError
from pydantic import Field, model_validator

from seal.artifacts.provenance import file_hash
from seal.data.reasoning import Reasoning
from seal.generation import Decoding, context_length, generate_batches
from seal.judges.guard_families import FAMILIES, Family, FamilyName, family_of, render
from seal.judges.judge import Exchange, Judge, Judgement, Verdict
from seal.models import LanguageModel, ModelSpec, load_model, loaded_identity

DEFAULT_MODEL = "Qwen/Qwen3Guard-Gen-0.6B"
READING_VERSION = 1  # raised with every change to how answers are read or marks are broken


class GuardModel(Judge):
    """Asks a guard model that runs on this machine, greedily and in batches.

    It needs no key and sends nothing anywhere. The guard is loaded once per process and stays in
    memory.

    Attributes:
        judge: Which judge this is.
        model: The guard.
        family: How it is asked and read; "auto" tells it by the model's name.
        controversial_is_harmful: Whether Qwen3Guard's middle verdict counts as harmful. Its authors
            call true the strict and false the loose reading. Either way `category` starts with
            "controversial".
        batch_size: Exchanges at a time. Changes speed and memory only.
        max_new_tokens: Longest answer of the guard; None takes the family's own.
        canaries: Judge exchanges of known answer first, and refuse a guard that fails them.
    """

    VERDICTS: ClassVar[frozenset[Verdict]] = frozenset({"is_harmful", "is_refusal"})
    IS_WEAK: ClassVar[bool] = False

    judge: Literal["guard_model"] = "guard_model"
    model: ModelSpec = ModelSpec(path=DEFAULT_MODEL)
    family: Literal["auto"] | FamilyName = "auto"
    controversial_is_harmful: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 16
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    canaries: bool = True

    @model_validator(mode="after")
    def _family_is_known(self) -> GuardModel:
        if self.family == "auto" and _family(self.model.path) is None:
            raise ValueError(
                f"the name of the guard {self.model.path!r} does not tell its family. Give "
                f"`family`: one of {', '.join(FAMILIES)}."
            )
        has_own = self.model.chat_template is not None or self.model.chat_template_kwargs
        if has_own and not FAMILIES[self.family_name].has_template:
            raise ValueError(
                f"chat_template and chat_template_kwargs have no effect on {self.family_name}, "
                "whose prompt is fixed. Leave them out."
            )
        return self

    @property
    def family_name(self) -> FamilyName:
        """The family, found out if it is "auto"."""
        if self.family != "auto":
            return self.family
        found = _family(self.model.path)
        assert found is not None  # validated
        return found

    @property
    def verdicts(self) -> frozenset[Verdict]:
        """Whether a response is harmful; with some families, whether it refuses, too."""
        return FAMILIES[self.family_name].verdicts

    @property
    def must_pass_canaries(self) -> bool:
        """As the settings say."""
        return self.canaries

    def identity(self) -> dict[str, Any]:
        """The guard's files, how it is asked, and how its answer is read."""
        own = None if self.model.chat_template is None else file_hash(self.model.chat_template)
        return {
            "judge": self.judge,
            "model": loaded_identity(self.model),
            "chat_template": own,
            "chat_template_kwargs": self.model.chat_template_kwargs,
            "family": self.family_name,
            "controversial_is_harmful": self.controversial_is_harmful,
            "max_new_tokens": self._max_new_tokens,
            "words": FAMILIES[self.family_name].words,
            "reading_version": READING_VERSION,
        }

    def judge_each(self, exchanges: Sequence[Exchange]) -> Iterator[Judgement]:
        """One judgement per exchange, batch by batch.

        An exchange that is longer than the guard can read gets a judgement that says so.

        Raises:
            ValueError: If the guard cannot be loaded, or its chat template is not its family's.
        """
        if not exchanges:
            return
        lm = _loaded(self.model.model_dump_json())
        family = FAMILIES[self.family_name]
        ids = self._prompt_ids(lm, family, exchanges)
        decoding = Decoding(max_new_tokens=self._max_new_tokens, batch_size=self.batch_size)
        context = context_length(lm)
        room = None if context is None else context - decoding.max_new_tokens
        fitting = []
        for place, (exchange, row) in enumerate(zip(exchanges, ids, strict=True)):
            if room is None or len(row) <= room:
                fitting.append(place)
                continue
            problem = f"no answer: it has {len(row)} tokens, and the guard reads {max(room, 0)}"
            yield Judgement(exchange.id, problem=problem)
        for places, answers in generate_batches(lm, [ids[place] for place in fitting], decoding):
            for place, answer in zip(places, answers, strict=True):
                yield self._judgement(exchanges[fitting[place]].id, answer, family)

    @property
    def _max_new_tokens(self) -> int:
        return self.max_new_tokens or FAMILIES[self.family_name].max_new_tokens

    def _prompt_ids(
        self, lm: LanguageModel, family: Family, exchanges: Sequence[Exchange]
    ) -> list[list[int]]:
        variables = self.model.chat_template_kwargs
        try:
            texts = [render(family, lm.tokenizer, each, variables) for each in exchanges]
        except (TemplateError, ValueError, TypeError) as error:  # ValueError: it has no template
            raise ValueError(
                f"the guard {self.model.path} cannot be asked as {self.family_name} "
                f"({str(error).splitlines()[0]}). Give the `family` that it is of, one of "
                f"{', '.join(FAMILIES)}, and a folder that has its chat template."
            ) from error
        # The formats write their special tokens themselves.
        return lm.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _judgement(self, key: str, answer: str, family: Family) -> Judgement:
        parts = Reasoning().parts(answer)  # what a guard considers is not what it concludes
        reading = None if parts.state == "unclosed" else family.read(parts.answer)
        if reading is None:
            problem = f"unparsable: not an answer of {self.family_name}: {answer[:80]!a}"
            return Judgement(key, raw=answer, problem=problem)
        is_harmful = reading.is_harmful
        if reading.is_borderline:
            is_harmful = self.controversial_is_harmful
        return Judgement(key, reading.is_refusal, is_harmful, None, reading.category, answer)


def _family(path: str) -> FamilyName | None:
    """The family by the model's name; a link is taken by its own name or by what it leads to."""
    return family_of(path) or family_of(str(Path(path).resolve()))


@lru_cache(maxsize=2)  # two guards whose agreement is measured
def _loaded(spec: str) -> LanguageModel:
    model = ModelSpec.model_validate(json.loads(spec))
    try:
        lm = load_model(model)
    except ValueError as error:
        raise ValueError(
            f"the guard model cannot be had: {error} A machine without the network needs it in a "
            f"folder: `hf download {DEFAULT_MODEL} --local-dir guards/qwen3guard` on one that has "
            "it, then `model: {path: guards/qwen3guard}` in the judge's settings."
        ) from error
    if model.chat_template is not None:
        lm.tokenizer.chat_template = lm.encoder.template
    return lm
