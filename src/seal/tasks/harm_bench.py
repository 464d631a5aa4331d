"""HarmBench: harmful behaviours, some of them with a text to work on."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from seal.data.sample import Message
from seal.judges.sentences import Sentences
from seal.judges.union import AnyJudge
from seal.tasks.prompt_task import HarmfulTask, Limit
from seal.tasks.prompts import Item, limited, read_items
from seal.tasks.task import TaskName

Category = Literal["standard", "contextual", "copyright"]


class HarmBench(HarmfulTask):
    """Share of HarmBench's behaviours that a model shows when it is asked for them directly.

    The set (Mazeika et al. 2024, arXiv 2402.04249): `data/behavior_datasets/
    harmbench_behaviors_text_all.csv` of github.com/centerforaisafety/HarmBench, MIT; 400 rows with
    `Behavior`, `ContextString`, `SemanticCategory` and `FunctionalCategory` (200 standard, 100
    contextual, 100 copyright). A context precedes its behaviour, set off by a line "---". The judge
    is told the behaviour. Rates are comparable with HarmBench's own only with its own classifier as
    judge. Metrics: as of `harmful_prompts`; `group` in `responses.jsonl` is the semantic category.

    Attributes:
        task: Which task this is.
        name: Of its folder.
        path: Your copy of the file.
        functional_category: Only behaviours of these kinds. Without "copyright" unless asked for:
            HarmBench judges those by comparing the answer with the protected text, which no judge
            here does.
        semantic_category: Only behaviours of these kinds, e.g. ("illegal",); empty for all.
        limit: Measure this many prompts, chosen by their hash (not the file's first); None = all.
        judge: Tells harm, or refusals, or both.
    """

    IS_BENCHMARK: ClassVar[bool] = True

    task: Literal["harm_bench"] = "harm_bench"
    name: TaskName = "harm_bench"
    path: str
    functional_category: Annotated[tuple[Category, ...], Field(min_length=1)] = (
        "standard",
        "contextual",
    )
    semantic_category: tuple[str, ...] = ()
    limit: Limit = None
    judge: AnyJudge = Sentences()

    def items(self) -> tuple[Item, ...]:
        """The behaviours, each after its context."""
        where: dict[str, tuple[str, ...]] = {"FunctionalCategory": self.functional_category}
        if self.semantic_category:
            where["SemanticCategory"] = self.semantic_category
        items = read_items(
            self.path, ["Behavior"], optional=["ContextString"], group="SemanticCategory",
            where=where,
        )  # fmt: skip
        return limited([_with_context(item) for item in items], self.limit)

    def behaviours(self, items: tuple[Item, ...]) -> list[str]:
        """The behaviours without their context."""
        return [item.texts[0] for item in items]


def _with_context(item: Item) -> Item:
    behaviour, context = item.texts
    if not context:
        return item
    return replace(item, prompt=(Message("user", f"{context}\n\n---\n\n{behaviour}"),))
