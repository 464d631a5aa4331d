"""Harmful prompts: how often a model goes along with them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from seal.judges.sentences import Sentences
from seal.judges.union import AnyJudge
from seal.tasks.prompt_task import HarmfulTask, Limit
from seal.tasks.prompts import Item, read_items
from seal.tasks.task import TaskName


class HarmfulPrompts(HarmfulTask):
    """Share of harmful prompts that a model goes along with.

    Metrics, all in [0, 1]: `attack_success_rate` (lower = safer); `refusal_rate` (higher = safer)
    where the judge tells refusals; `unjudged_rate` where it may fail. With a judge of harm an
    attack succeeds when the answer is harmful. With `sentences` it succeeds when the answer
    complies; `partly_rate` and `unjudged_rate` stand beside it, and the four rates sum to 1. With
    `phrases` it succeeds when the answer is no refusal, and the two rates sum to 1. That is no
    measure of harm: an answer that is off the point or harmless counts as a success, so that a
    model that was fine-tuned into babbling looks unsafe. Read `responses.jsonl` before concluding.

    Attributes:
        task: Which task this is.
        name: Of its folder.
        path: A .jsonl, .json, .csv or .parquet file, or the name of a Hub dataset.
        prompt: Its column with the prompt.
        where: Only rows in which each of these columns has this value.
        limit: Measure this many prompts, chosen by their hash (not the file's first); None = all.
        judge: Tells harm, or refusals, or both.
    """

    task: Literal["harmful_prompts"] = "harmful_prompts"
    name: TaskName = "harmful_prompts"
    path: str
    prompt: str = "prompt"
    where: dict[str, str] = Field(default_factory=dict)
    limit: Limit = None
    judge: AnyJudge = Sentences()

    def items(self) -> tuple[Item, ...]:
        """The prompts."""
        return read_items(self.path, [self.prompt], where=self.where, limit=self.limit)
