"""What the tasks give a model to do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal.data.load import load
from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.generation import context_length
from seal.models import LanguageModel
from seal.tasks.harmful_prompts import HarmfulPrompts
from seal.tasks.heldout_nll import HeldoutNll
from seal.tasks.over_refusal import OverRefusal
from seal.tasks.prompts import read_items
from seal.tasks.safety_margin import SafetyMargin
from seal.tasks.union import AnyTask


@dataclass(frozen=True, slots=True)
class TaskItems:
    """What a task gives the model to do: prompts to answer, or rows to score."""

    prompts: Sequence[Sequence[Message]] = ()
    rows: Sequence[Encoded] = ()


def task_items(task: AnyTask, lm: LanguageModel) -> TaskItems | None:
    """The items of a task; None for a task that is not known here."""
    match task:
        case HarmfulPrompts() | OverRefusal():
            items = read_items(task.path, [task.prompt], where=task.where, limit=task.limit)
            return TaskItems(prompts=[item.prompt for item in items])
        case SafetyMargin():
            items = read_items(task.path, [task.prompt, task.safe, task.unsafe], limit=task.limit)
            samples = [
                Sample(f"{item.id}/{place}", item.prompt, (Message("assistant", text),))
                for item in items
                for place, text in enumerate(item.texts[1:])
            ]
            return TaskItems(rows=_encoded(lm, samples, task.max_length))
        case HeldoutNll():
            samples = load([task.data], name=task.name).samples
            return TaskItems(rows=_encoded(lm, samples, task.max_length))
        case _:
            return None


def _encoded(lm: LanguageModel, samples: Sequence[Sample], max_length: int | None) -> list[Encoded]:
    limit = max_length or context_length(lm) or 2**31
    found = lm.encoder.encode(samples, Tokenization(max_length=limit))
    return [row for row in found if isinstance(row, Encoded)]
