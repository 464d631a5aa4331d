"""What the tasks give a model to do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal.data.load import load
from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.generation import context_length
from seal.models import LanguageModel
from seal.tasks.heldout_nll import HeldoutNll
from seal.tasks.prompt_task import PromptTask
from seal.tasks.safety_margin import SafetyMargin, both_answers
from seal.tasks.slim_orca import SlimOrca
from seal.tasks.union import AnyTask


@dataclass(frozen=True, slots=True)
class TaskItems:
    """What a task gives the model to do: prompts to answer, rows to score, or both.

    What a judge does is not in it.
    """

    prompts: Sequence[Sequence[Message]] = ()
    rows: Sequence[Encoded] = ()


def task_items(task: AnyTask, lm: LanguageModel) -> TaskItems | None:
    """The items of a task; None for a task that is not known here.

    Raises:
        ValueError: If the task's file has a bad row.
    """
    match task:
        case SlimOrca():
            items = task.items()
            rows = _encoded(lm, task.samples(items), task.max_length)
            return TaskItems([item.prompt for item in items], rows)
        case PromptTask():
            return TaskItems(prompts=[item.prompt for item in task.items()])
        case SafetyMargin():
            samples = [sample for item in task.items() for sample in both_answers(item)]
            return TaskItems(rows=_encoded(lm, samples, task.max_length))
        case HeldoutNll():
            samples = load([task.data], name=task.name).samples
            return TaskItems(rows=_encoded(lm, samples, task.max_length))
        case _:
            return None


def _encoded(lm: LanguageModel, samples: Sequence[Sample], max_length: int | None) -> list[Encoded]:
    limit = max_length or context_length(lm) or 2**31
    found = lm.encoder.encode(samples, Tokenization(max_length=limit, dropped_turn="keep"))
    return [row for row in found if isinstance(row, Encoded)]
