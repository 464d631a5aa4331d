"""The arms: what is compared, and what each is trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from pydantic import (
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from seal.artifacts.settings import Settings, error_at
from seal.config.examples import nearest
from seal.mergers.union import AnyMerger
from seal.rankers.union import AnyRanker
from seal.stages.pairwise import PairwiseSettings
from seal.stages.select import SelectSettings
from seal.stages.train import Match, MixSettings
from seal.tasks.prompt_task import PromptTask
from seal.tasks.union import AnyTask

Word = Literal["base", "all", "random", "selected", "oracle"]
WORDS: tuple[Word, ...] = get_args(Word)

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_+.-]{0,98}[A-Za-z0-9_+-])?")
_RANK_AND_SELECT = ("rank", "select")


class ArmSettings(Settings):
    """One of the models that are compared: what it is trained on, or made of.

    Attributes:
        name: Of its folders and in the report: letters, digits, _, +, - and a dot.
        train_on: Nothing ("base": the model as it is), the whole pool ("all"), the selection
            ("selected"), as many random samples ("random"), or all samples that are not labelled
            unsafe ("oracle").
        rank: A ranker of its own, whose selection it is trained on; None takes the experiment's.
        select: A selection of its own; None takes the experiment's.
        mix: A second data set to mix in; None takes `train.mix`.
        match: Whether it is trained for as many "epochs" or "steps" as on all data; None takes
            `train.match`.
        merge: Make the model of another arm's training instead of training.
    """

    name: str
    train_on: Word = "selected"
    rank: AnyRanker | None = None
    select: SelectSettings | None = None
    mix: MixSettings | None = None
    match: Match | None = None
    merge: AnyMerger | None = None

    @property
    def is_base(self) -> bool:
        """Whether it is the model as it is."""
        return self.train_on == "base"

    @property
    def is_trained(self) -> bool:
        """Whether there is a training of its own."""
        return not self.is_base and self.merge is None

    @property
    def _is_special(self) -> bool:
        """Whether it is trained otherwise than the word that it is trained on."""
        return self.mix is not None or self.match is not None

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_short_for_a_mapping(cls, value: Any) -> Any:  # noqa: ANN401 (whatever was given)
        if not isinstance(value, str):
            return value
        if value not in WORDS:
            hint = nearest(value, list(WORDS))
            raise ValueError(
                f"expected {', '.join(WORDS)} or a mapping such as {{name: mine, rank: {{method: "
                f"dsir}}}}, got {value!r}." + (f" Did you mean '{hint}'?" if hint else "")
            )
        return {"name": value, "train_on": value}

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be the name of a folder. Give up to 100 letters, digits, _, +, "
                "- and dots, of which the first is a letter or digit and the last is no dot, such "
                f"as {_nameable(name)}."
            )
        return name

    @field_validator(
        "select", mode="before", json_schema_input_type=SelectSettings | Literal["auto"] | None
    )
    @classmethod
    def _may_be_auto(cls, value: Any) -> Any:  # noqa: ANN401
        return value  # `SelectSettings` reads the word; this is for the schema

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> ArmSettings:
        given = [
            name for name in ("rank", "select", "mix", "match") if getattr(self, name) is not None
        ]
        if self.merge is not None:
            given += ["train_on"] if "train_on" in self.model_fields_set else []
            self._refuse(given, f"merge takes the training of {self.merge.of} as it is")
        elif self.is_base:
            self._refuse(given, "train_on: base trains nothing")
        elif self.train_on != "selected":
            chosen = [name for name in given if name in _RANK_AND_SELECT]
            self._refuse(chosen, f"train_on: {self.train_on} does not look at a selection")
        return self

    @model_validator(mode="after")
    def _a_word_means_what_it_says(self) -> ArmSettings:
        if self.name in WORDS and self.model_dump() != self.name:
            raise ValueError(
                f"the name {self.name!r} stands for train_on: {self.name} and nothing else. Give "
                f"this arm another name, such as {self.name}-2."
            )
        if self.name not in WORDS and self.train_on != "selected" and not self._is_special:
            # The report compares with these arms, and knows them by their names.
            raise ValueError(
                f"the arm {self.name!r} is nothing but train_on: {self.train_on}, which is called "
                f"{self.train_on!r} everywhere. Write {self.train_on} instead, or give it a mix or "
                "match."
            )
        return self

    @model_serializer(mode="wrap")
    def _as_a_word(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any] | str:
        """What was said, as short as it can be said."""
        written = {key: value for key, value in handler(self).items() if value is not None}
        if self.merge is not None:
            del written["train_on"]
        word = {"name": self.name, "train_on": self.name}
        return self.name if written == word else written

    def _refuse(self, given: Sequence[str], why: str) -> None:
        if given:
            names = " and ".join(given)
            raise ValueError(f"{why}, so {names} would be ignored. Remove {names}.")


def _nameable(name: str) -> str:
    """A name of a folder, as near as it gets."""
    short = re.sub(r"[^A-Za-z0-9_+.-]+", "-", name)[:100].strip("._+-")
    return short if _NAME.fullmatch(short) else "mine"


def arms_of_words(*words: Word) -> tuple[ArmSettings, ...]:
    """The arms that words stand for."""
    return tuple(ArmSettings(name=word, train_on=word) for word in words)


DEFAULT_ARMS = arms_of_words("base", "all", "random", "selected")


def check_together(arms: Sequence[ArmSettings]) -> None:
    """Refuse arms that contradict each other.

    Raises:
        ValidationError: At the place of the arm: names that are the same, or a merge of no arm that
            is trained.
    """
    trained = [arm.name for arm in arms if arm.is_trained]
    listed = f"Those are: {', '.join(trained)}." if trained else "There is none: add one to arms."
    for place, arm in enumerate(arms):
        # Some file systems do not tell upper from lower case, and names are folders.
        if arm.name.casefold() in {other.name.casefold() for other in arms[:place]}:
            raise error_at(
                (place,),
                arm.name,
                f"{arm.name!r} is given twice. Remove one of them, or give it another name.",
            )
        if arm.merge is not None and arm.merge.of not in trained:
            hint = nearest(arm.merge.of, trained)
            raise error_at(
                (place, "merge"),
                arm.merge.of,
                f"of={arm.merge.of!r} names no arm that is trained. {listed}"
                + (f" Did you mean '{hint}'?" if hint else ""),
            )


def check_with_safety_data(
    arms: Sequence[ArmSettings], *, holdout: float, has_harmful: bool
) -> None:
    """Refuse arms whose rank or select needs data that the experiment does not have.

    Args:
        arms: Each is correct by itself.
        holdout: The experiment's share of held-out safe rows.
        has_harmful: Whether there are harmful references.

    Raises:
        ValidationError: At the place of the arm.
    """
    for place, arm in enumerate(arms):
        if arm.rank is not None and arm.rank.needs_harmful and not has_harmful:
            raise error_at(
                ("arms", place, "rank"),
                arm.rank.method,
                f"method={arm.rank.method} needs harmful references, and there are none. "
                "Give some as harmful.path, or choose a ranker that needs none "
                "(docs/how-to-choose.md).",
            )
        if holdout and arm.rank is not None and not arm.rank.SCORES_NEW_ROWS:
            raise error_at(
                ("arms", place, "rank"),
                arm.rank.method,
                f"holdout={holdout} has the ranker score safe rows, which "
                f"method={arm.rank.method} has no scores for. Set holdout=0, or another ranker.",
            )
        if arm.select is not None and arm.select.reference is not None and not holdout:
            raise error_at(
                ("arms", place, "select"),
                arm.select.reference,
                f"reference: {arm.select.reference} needs safe rows that the ranker did not "
                "measure against. Set holdout, such as holdout=0.2.",
            )


def check_pairs(
    pairwise: Sequence[PairwiseSettings], arms: Sequence[ArmSettings], tasks: Sequence[AnyTask]
) -> None:
    """Refuse comparisons of answers that nobody gives.

    Raises:
        ValidationError: At the place of the comparison: no such arm or task, a task without
            answers, or the same comparison twice.
    """
    names = [arm.name for arm in arms]
    answered = [task.name for task in tasks if isinstance(task, PromptTask)]
    for place, pair in enumerate(pairwise):
        where = ("pairwise", place)
        if pair.against not in names:
            raise error_at(
                (*where, "against"),
                pair.against,
                f"{pair.against!r} is no arm. The arms: {', '.join(names)}.",
            )
        if pair.task not in answered:
            listed = f"Those are: {', '.join(answered)}." if answered else "There is none."
            raise error_at(
                (*where, "task"),
                pair.task,
                f"{pair.task!r} is no task of evaluate.tasks that has a model answer "
                f"prompts. {listed}",
            )
        others = [(other.task, other.against) for other in pairwise[:place]]
        if (pair.task, pair.against) in others:
            raise error_at(
                where,
                pair.task,
                f"the answers to {pair.task} are compared with those of "
                f"{pair.against} twice. Remove one of them.",
            )
