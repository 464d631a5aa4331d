"""Tasks for inspect_ai: `inspect eval seal/harmful_prompts -T path=prompts.csv --model hf/...`.

inspect_ai finds them by the entry point `seal` of the group `inspect_ai`; nothing here imports this
module. What is asked and what is measured is the tasks' own: only the answers come from inspect_ai.
The first line of each task's docstring names the class that describes its settings and metrics.
"""

# pyright: reportMissingImports=false
# inspect_ai is the extra `eval`; it is not where the other code is checked.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from anyio import Lock, to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate
from pydantic import TypeAdapter, ValidationError

from seal.artifacts.evaluation import answer_of
from seal.data.sample import Message
from seal.generation import Decoding
from seal.judges.judging import Judging
from seal.responders import Responder
from seal.tasks.prompt_task import PromptTask
from seal.tasks.prompts import Item
from seal.tasks.task import Subject
from seal.tasks.union import AnyTask

# A judge by its name alone, or its settings with the key `judge`.
JudgeSetting = str | dict[str, Any]

_TASK: TypeAdapter[AnyTask] = TypeAdapter(AnyTask)
_TURNS: dict[str, type[ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
    "tool": ChatMessageTool,
}
# What a task's rows say of an answer, beside its text and what the judge wrote.
_SEEN = ("is_refusal", "is_harmful", "score", "category", "problem", "wanted", "got", "no_answer")


@task
def harmful_prompts(
    path: str,
    prompt: str | None = None,
    where: dict[str, str] | None = None,
    limit: int | None = None,
    judge: JudgeSetting | None = None,
) -> Task:
    """`seal.tasks.harmful_prompts.HarmfulPrompts`; what is None keeps its default."""
    given = {"path": path, "prompt": prompt, "where": where, "limit": limit, "judge": judge}
    return _inspect_task("harmful_prompts", given)


@task
def over_refusal(
    path: str,
    prompt: str | None = None,
    format: str | dict[str, Any] | None = None,
    where: dict[str, str] | None = None,
    limit: int | None = None,
    judge: JudgeSetting | None = None,
) -> Task:
    """`seal.tasks.over_refusal.OverRefusal`; what is None keeps its default."""
    given = {"path": path, "prompt": prompt, "format": format, "where": where}
    return _inspect_task("over_refusal", {**given, "limit": limit, "judge": judge})


@task
def adv_bench(
    path: str,
    prompt: str | None = None,
    limit: int | None = None,
    judge: JudgeSetting | None = None,
) -> Task:
    """`seal.tasks.adv_bench.AdvBench`; what is None keeps its default."""
    given = {"path": path, "prompt": prompt, "limit": limit, "judge": judge}
    return _inspect_task("adv_bench", given)


@task
def harm_bench(
    path: str,
    functional_category: str | list[str] | None = None,
    semantic_category: str | list[str] | None = None,
    limit: int | None = None,
    judge: JudgeSetting | None = None,
) -> Task:
    """`seal.tasks.harm_bench.HarmBench`; what is None keeps its default."""
    given = {
        "path": path,
        "functional_category": _several(functional_category),
        "semantic_category": _several(semantic_category),
    }
    return _inspect_task("harm_bench", {**given, "limit": limit, "judge": judge})


@task
def strong_reject(
    path: str, judge: JudgeSetting, prompt: str | None = None, limit: int | None = None
) -> Task:
    """`seal.tasks.strong_reject.StrongReject`; what is None keeps its default."""
    given = {"path": path, "prompt": prompt, "limit": limit, "judge": judge}
    return _inspect_task("strong_reject", given)


@task
def hex_phi(
    path: str,
    judge: JudgeSetting,
    prompt: str | None = None,
    category: str | None = None,
    limit: int | None = None,
) -> Task:
    """`seal.tasks.hex_phi.HexPhi`; what is None keeps its default."""
    given = {"path": path, "prompt": prompt, "category": category, "limit": limit, "judge": judge}
    return _inspect_task("hex_phi", given)


@task
def xstest(path: str, limit: int | None = None, judge: JudgeSetting | None = None) -> Task:
    """`seal.tasks.xstest.XsTest`; what is None keeps its default."""
    return _inspect_task("xstest", {"path": path, "limit": limit, "judge": judge})


@task
def hh_harmless(path: str, limit: int | None = None, judge: JudgeSetting | None = None) -> Task:
    """`seal.tasks.hh_harmless.HhHarmless`; what is None keeps its default."""
    return _inspect_task("hh_harmless", {"path": path, "limit": limit, "judge": judge})


@task
def slim_orca(
    path: str,
    format: str | dict[str, Any] | None = None,
    limit: int | None = None,
    judge: JudgeSetting | None = None,
) -> Task:
    """`seal.tasks.slim_orca.SlimOrca` without its likelihood; what is None keeps its default."""
    given = {"path": path, "format": format, "limit": limit, "judge": judge}
    return _inspect_task("slim_orca", given)


@task
def alpaca_eval(
    path: str,
    prompt: str | None = None,
    limit: int | None = None,
    judge: JudgeSetting | None = None,
) -> Task:
    """`seal.tasks.alpaca_eval.AlpacaEval`; what is None keeps its default."""
    given = {"path": path, "prompt": prompt, "limit": limit, "judge": judge}
    return _inspect_task("alpaca_eval", given)


@task
def gsm8k(
    path: str,
    question: str | None = None,
    answer: str | None = None,
    instruction: str | None = None,
    num_shots: int | None = None,
    shots_path: str | None = None,
    limit: int | None = None,
) -> Task:
    """`seal.tasks.gsm8k.Gsm8k`; what is None keeps its default."""
    given = {"path": path, "question": question, "answer": answer, "instruction": instruction}
    shots = {"num_shots": num_shots, "shots_path": shots_path}
    return _inspect_task("gsm8k", {**given, **shots, "limit": limit})


@scorer(metrics={"*": [mean(), stderr()]})
def measured(settings: dict[str, Any]) -> Scorer:
    """Every metric of a task, on each answer; `mean` of a metric is what `seal evaluate` reports.

    An answer that could not be judged has the worst value, as everywhere in `seal`, and a note in
    the score's metadata. Where a metric does not count an item (XSTest), the value is NaN, which
    inspect_ai leaves out of the mean.

    Args:
        settings: Of the task, as in a config: `task`, `path`, ...
    """
    scoring = _Scoring(_task_of(settings))

    async def score(state: TaskState, target: Target) -> Score:
        del target  # the item knows it
        return await scoring.score(str(state.sample_id), state.output.completion)

    return score


# --- what is asked ------------------------------------------------------------------------------


def _inspect_task(name: str, given: Mapping[str, Any]) -> Task:
    settings = {key: value for key, value in given.items() if value is not None}
    if isinstance(settings.get("judge"), str):
        settings["judge"] = {"judge": settings["judge"]}
    settings = {"task": name, **settings}
    made = _task_of(settings)
    dataset = MemoryDataset([_sample(item) for item in made.items()], name, made.data_path)
    return Task(dataset=dataset, solver=generate(), scorer=measured(settings))


def _task_of(settings: Mapping[str, Any]) -> PromptTask:
    try:
        made = _TASK.validate_python(settings)
    except ValidationError as error:
        # the first part of a place is the task, which the command line named
        parts = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
        raise ValueError(f"{settings['task']}: {'; '.join(parts)}") from error
    if not isinstance(made, PromptTask):
        raise ValueError(f"task: {made.task} reads a model's likelihoods, which inspect_ai cannot.")
    return made


def _several(given: str | list[str] | None) -> list[str] | None:
    return [given] if isinstance(given, str) else given


def _sample(item: Item) -> Sample:
    turns = [_TURNS[turn.role](content=turn.content) for turn in item.prompt]
    return Sample(
        id=item.id,
        input=cast(list[ChatMessage], turns),
        metadata={"place": item.place, "group": item.group},
    )


# --- what is measured ---------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Answer:
    """An answer that waits for its score."""

    item: Item
    response: str
    found: Score | Exception | None = None


class _Scoring:
    """Scores answers as they come; all that wait are judged together, so that a judge has batches.

    A judge runs in a thread, because inspect_ai's own requests share the thread that calls this.
    """

    def __init__(self, task: PromptTask) -> None:
        self._task = task
        self._items = {item.id: item for item in task.items()}
        self._judging = Judging()
        self._lock = Lock()
        self._waiting: list[_Answer] = []

    async def score(self, key: str, response: str) -> Score:
        """The score of one answer.

        Raises:
            ValueError: If the item is not in the task's file, or the judge cannot be had.
        """
        if key not in self._items:
            raise ValueError(
                f"{self._task.data_path}: there is no item {key}; the file is not the one that was "
                "asked. Give that one."
            )
        answer = _Answer(self._items[key], response)
        self._waiting.append(answer)
        async with self._lock:
            if answer.found is None:
                batch, self._waiting = self._waiting, []
                await to_thread.run_sync(self._score_all, batch)
        assert answer.found is not None
        if isinstance(answer.found, Exception):
            raise answer.found
        return answer.found

    def _score_all(self, batch: Sequence[_Answer]) -> None:
        # Numbered, because with several epochs one item has several answers.
        items = tuple(replace(answer.item, id=str(number)) for number, answer in enumerate(batch))
        given = _Given([answer.response for answer in batch])
        # inspect_ai holds the model; no task here reads likelihoods.
        subject = Subject(None, Decoding(), given, self._judging)
        try:
            found = self._task.measure_answers(subject, items)
        except Exception as error:  # each who waits raises it
            for answer in batch:
                answer.found = error
            return
        for item, answer, row in zip(items, batch, found.responses, strict=True):
            values = {p.metric: p.values.get(item.id, math.nan) for p in found.measurements}
            answer.found = _score(values, row)


class _Given(Responder):
    """Answers with what inspect_ai's model said."""

    def __init__(self, responses: list[str]) -> None:
        self._responses = responses

    def respond(
        self, prompts: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[str]:
        """The responses, in the order of the prompts."""
        del names  # nothing is asked, so no message names a prompt
        assert len(prompts) == len(self._responses)
        return self._responses


def _score(values: dict[str, float], row: Mapping[str, Any]) -> Score:
    seen = {key: row[key] for key in _SEEN if row.get(key) not in (None, "")}
    if row.get("value") == "cannot_tell":
        seen["note"] = "It cannot be told what it does; it counts as no attack and no refusal."
    elif values.get("unjudged_rate"):
        seen["note"] = "It could not be judged and counts as the worst for the model."
    return Score(
        value=cast(dict[str, Any], values),
        answer=answer_of(row),
        explanation=row.get("raw") or None,
        metadata=seen,
    )
