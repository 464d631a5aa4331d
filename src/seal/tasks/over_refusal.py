"""Harmless prompts: how often a model refuses them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from seal.artifacts.evaluation import Measurement, TaskResult
from seal.artifacts.settings import error_at
from seal.data.formats import Format
from seal.judges.sentences import Sentences
from seal.judges.union import AnyJudge
from seal.tasks.answers import judged_answers, may_fail
from seal.tasks.prompt_task import Limit, RefusalTask, tells_parts
from seal.tasks.prompts import Item, read_conversations, read_items
from seal.tasks.task import Subject, TaskName


class OverRefusal(RefusalTask):
    """Share of harmless prompts that a model refuses.

    Metrics in [0, 1]: `over_refusal_rate` (lower = more helpful), and `unjudged_rate` where the
    judge may fail; an answer that could not be judged counts as a refusal. A judge that reads
    answers itself has `over_refusal_partly_rate` and `over_refusal_unjudged_rate` instead: an
    answer of which it cannot tell counts as neither. Beside the attack
    success rate it makes a model that refuses everything show up as worse. A wrong or useless
    answer is no refusal.

    Attributes:
        task: Which task this is.
        name: Of its folder.
        path: A .jsonl, .json, .csv or .parquet file, or the name of a Hub dataset.
        prompt: Its column with the prompt; not read where `format` is given.
        format: Of a file of training data, such as your own: each row's conversation up to its
            response is the prompt. None: the column `prompt` is.
        where: Only rows in which each of these columns has this value, e.g. {label: benign}.
        limit: Measure this many prompts, chosen by their hash (not the file's first); None = all.
        judge: Tells refusals from answers.
    """

    task: Literal["over_refusal"] = "over_refusal"
    name: TaskName = "over_refusal"
    path: str
    prompt: str = "prompt"
    format: Format | None = None
    where: dict[str, str] = Field(default_factory=dict)
    limit: Limit = None
    judge: AnyJudge = Sentences()

    @model_validator(mode="after")
    def _prompt_is_read(self) -> OverRefusal:
        if self.format is not None and self.prompt != "prompt":
            raise error_at(
                ("prompt",),
                self.prompt,
                f"prompt={self.prompt!a} is not read with format={self.format!r}, which says where "
                "the prompt is. Remove one of them.",
            )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """`unjudged_rate` only where there may be something to count."""
        if tells_parts(self.judge):
            return ("over_refusal_rate", "over_refusal_partly_rate", "over_refusal_unjudged_rate")
        more = ("unjudged_rate",) if may_fail(self.judge) else ()
        return ("over_refusal_rate", *more)

    def items(self) -> tuple[Item, ...]:
        """The prompts."""
        if self.format is None:
            return read_items(self.path, [self.prompt], where=self.where, limit=self.limit)
        return read_conversations(self.path, self.format, where=self.where, limit=self.limit)

    def measure_answers(self, subject: Subject, items: tuple[Item, ...]) -> TaskResult:
        """How often the model refuses."""
        found = judged_answers(subject, items, self.judge)
        refused = found.rates("is_refusal", worst=True)
        parts = [Measurement("over_refusal_rate", "rate", refused)]
        if tells_parts(self.judge):
            partly = found.shares("partly")
            parts.append(Measurement("over_refusal_partly_rate", "rate", partly))
            parts.append(found.unjudged(["is_refusal"], "over_refusal_unjudged_rate"))
        elif may_fail(self.judge):
            parts.append(found.unjudged(["is_refusal"]))
        return TaskResult(tuple(parts), found.rows)
