"""The evaluate stage: run every task on one model and write down what was found."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import model_validator

from seal.artifacts.evaluation import (
    Measurement,
    TaskResult,
    count_answers,
    load_measurements,
    save_task_result,
)
from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings, error_at
from seal.generation import Decoding
from seal.judges.judge import Judge
from seal.metrics import estimate
from seal.progress import Progress, silent
from seal.server import ServerSettings
from seal.tasks.prompt_task import PromptTask
from seal.tasks.task import Subject
from seal.tasks.union import AnyTask

logger = logging.getLogger(__name__)


class EvaluateSettings(Settings):
    """What to measure on a model.

    Attributes:
        decoding: How responses are generated, the same for every task.
        tasks: What to run, in this order.
        server: An OpenAI-compatible server that answers instead of the model in memory, such as
            vLLM. Tasks that read likelihoods still take the model in memory.
    """

    decoding: Decoding = Decoding()
    tasks: tuple[AnyTask, ...] = ()
    server: ServerSettings | None = None

    def identity(self) -> dict[str, Any]:
        """What decides the measurements, as JSON: no licence, no waiting time of a server."""
        server = self.server and {"base_url": self.server.base_url, "model": self.server.model}
        no_matter = {"tasks": {"__all__": {"data": {"license"}, "judge": {"calibration"}}}}
        found = {**self.model_dump(mode="json", exclude=no_matter), "server": server}
        judges = {task.name: getattr(task, "judge", None) for task in self.tasks}
        reads = {name: judge for name, judge in judges.items() if isinstance(judge, Judge)}
        # Of these the settings do not say all: how they read answers changes with seal.
        said = {name: judge.identity() for name, judge in reads.items() if judge.HAS_VALUES}
        return {**found, "judges": said} if said else found

    @model_validator(mode="after")
    def _names_are_unique(self) -> EvaluateSettings:
        # Some file systems do not tell upper from lower case, and names are folders.
        times = Counter(task.name.casefold() for task in self.tasks)
        seen: set[str] = set()
        for place, task in enumerate(self.tasks):
            if task.name.casefold() in seen:
                raise error_at(
                    ("tasks", place, task.task, "name"),
                    task.name,
                    f'{times[task.name.casefold()]} tasks have the name "{task.name}", but each '
                    "needs a folder of its own. Give this one another, such as name: "
                    f"{self._free(task.name)}; its metrics are then reported as <name>/<metric>.",
                )
            seen.add(task.name.casefold())
        return self

    @model_validator(mode="after")
    def _metrics_are_unique(self) -> EvaluateSettings:
        owner: dict[str, str] = {}
        for place, task in enumerate(self.tasks):
            for key in metric_keys(task):
                if key in owner:
                    raise error_at(
                        ("tasks", place, task.task, "name"),
                        task.name,
                        f'the tasks "{owner[key]}" and "{task.name}" both measure {key}. Give this '
                        f"one a name of its own, such as name: {self._free(task.name)}; its "
                        "metrics are then reported as <name>/<metric>.",
                    )
                owner[key] = task.name
        return self

    def _free(self, name: str) -> str:
        """A name like this one that no task has."""
        taken = {task.name.casefold() for task in self.tasks}
        return next(new for n in count(2) if (new := f"{name[:60]}-{n}").casefold() not in taken)


def metric_keys(task: AnyTask) -> tuple[str, ...]:
    """What a report calls the metrics of a task: as they are, or under the task's own name.

    Published sets share their metrics' names, so that theirs always stand under the set's.
    """
    is_alone = task.name == task.task and not task.IS_BENCHMARK
    prefix = "" if is_alone else f"{task.name}/"
    return tuple(prefix + metric for metric in task.metrics)


def evaluate(
    subject: Subject,
    settings: EvaluateSettings,
    folder: StrPath,
    *,
    progress: Progress = silent,
) -> tuple[Measurement, ...]:
    """Run every task and write `<task>/responses.jsonl`, `<task>/scores.jsonl` and `metrics.json`.

    A warning tells of answers that never came, because the model was still reasoning.

    Args:
        subject: The model to measure.
        settings: The tasks.
        folder: Exists and is empty; the caller renames it once this returns.
        progress: Told how many tasks are done.

    Returns:
        Every metric of every task, as `load_evaluation` reads them back.

    Raises:
        ValueError: If a task's file has a bad row, or an item does not fit into the model.
    """
    folder = Path(folder)
    found: list[Measurement] = []
    for done, task in enumerate(settings.tasks):
        progress("tasks", done, len(settings.tasks))
        result = task.run(subject)
        assert tuple(part.metric for part in result.measurements) == task.metrics
        named = tuple(
            replace(part, metric=key)
            for part, key in zip(result.measurements, metric_keys(task), strict=True)
        )
        (folder / task.name).mkdir()
        save_task_result(TaskResult(named, result.responses), folder / task.name)
        found.extend(named)
        if isinstance(task, PromptTask):
            _warn(task.name, count_answers(result.responses), settings.decoding)
        progress("tasks", done + 1, len(settings.tasks))
    metrics = {part.metric: estimate(part).model_dump() for part in found}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    return tuple(found)


def load_answer_counts(folder: StrPath, tasks: Sequence[AnyTask]) -> dict[str, dict[str, int]]:
    """Task -> what `count_answers` counts, in a folder that `evaluate` wrote; of tasks that ask.

    Raises:
        ValueError: If the responses cannot be read.
    """
    found = {}
    for name in (task.name for task in tasks if isinstance(task, PromptTask)):
        path = Path(folder) / name / "responses.jsonl"
        try:
            with path.open(encoding="utf-8") as file:
                found[name] = count_answers([json.loads(line) for line in file])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: not the responses of a task ({error!r}). Evaluate the model again."
            ) from error
    return found


def load_evaluation(folder: StrPath) -> tuple[Measurement, ...]:
    """The measurements in a folder that `evaluate` wrote, in the order of its tasks.

    Raises:
        ValueError: If the folder holds no complete evaluation.
    """
    folder = Path(folder)
    try:
        order = list(json.loads((folder / "metrics.json").read_text("utf-8")))
        scores = sorted(folder.glob("*/scores.jsonl"))
        found = {part.metric: part for path in scores for part in load_measurements(path.parent)}
        if found.keys() == set(order):
            return tuple(found[metric] for metric in order)
        reason = (
            f"metrics.json and the scores differ in {', '.join(sorted(found.keys() ^ set(order)))}"
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"{folder}: not a complete evaluation ({reason}). Evaluate the model again.")


def _warn(task: str, counts: Mapping[str, int], decoding: Decoding) -> None:
    if counts["num_unclosed"]:
        logger.warning(
            "%s: %d of %d answers ended while the model was still reasoning. They are no answers, "
            "neither refusals nor attacks that succeeded. Raise max_new_tokens=%d of the decoding",
            task, counts["num_unclosed"], counts["num"], decoding.max_new_tokens,
        )  # fmt: skip
    if counts["num_cut"]:
        logger.info(
            "%s: %d of %d answers are as long as max_new_tokens=%d lets them be",
            task, counts["num_cut"], counts["num"], decoding.max_new_tokens,
        )  # fmt: skip
