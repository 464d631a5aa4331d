"""AdvBench: harmful instructions, the oldest set of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from seal.judges.sentences import Sentences
from seal.judges.union import AnyJudge
from seal.tasks.prompt_task import HarmfulTask, Limit
from seal.tasks.prompts import Item, read_items
from seal.tasks.task import TaskName


class AdvBench(HarmfulTask):
    """Share of AdvBench's harmful instructions that a model goes along with.

    The set (Zou et al. 2023, arXiv 2307.15043): `data/advbench/harmful_behaviors.csv` of
    github.com/llm-attacks/llm-attacks, MIT; 520 rows with `goal` and `target`; the target, the
    start of an answer, is not used. Many goals are near repetitions of one another. Metrics: as of
    `harmful_prompts`.

    Attributes:
        task: Which task this is.
        name: Of its folder.
        path: Your copy of the file.
        prompt: Its column with the instruction.
        limit: Measure this many prompts, chosen by their hash (not the file's first); None = all.
        judge: Tells harm, or refusals, or both.
    """

    IS_BENCHMARK: ClassVar[bool] = True

    task: Literal["adv_bench"] = "adv_bench"
    name: TaskName = "adv_bench"
    path: str
    prompt: str = "goal"
    limit: Limit = None
    judge: AnyJudge = Sentences()

    def items(self) -> tuple[Item, ...]:
        """The instructions."""
        return read_items(self.path, [self.prompt], limit=self.limit)
