"""Capability retention: tasks of EleutherAI's lm-evaluation-harness, on the model in memory."""

from __future__ import annotations

import copy
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from seal.artifacts.evaluation import Measurement, TaskResult
from seal.data.reasoning import Reasoning
from seal.data.sample import ID_LENGTH
from seal.generation import prompt_sharing
from seal.tasks.task import Subject, Task, TaskName

# Metrics whose values are 0 or 1 on most tasks; where one is not (truthfulqa_mc2), it is a mean.
_RATES = frozenset({"acc", "acc_norm", "exact_match"})


class LmEval(Task):
    """Named tasks of lm-evaluation-harness (the extra `eval`), run on the model in memory.

    What was lost of the abilities that fine-tuning was not about. Metrics: one per named task,
    reported as `<name>/<task>_<metric>`, e.g. `lm_eval/hellaswag_acc_norm`, with one value per
    document, so that intervals and paired tests are ours; direction and range are lm-eval's. Two
    tasks have different items. A group (such as mmlu) is measured over the documents of all its
    tasks together.

    Tasks come with code that is run, and most load their data from the Hub. Of `decoding` only the
    batch size matters; `model.chat_template_kwargs` are not passed on.

    Attributes:
        task: Which task this is.
        name: Of its folder.
        tasks: lm-eval's name of a task or group -> its metric, e.g. {hellaswag: acc_norm}. Where
            the task has several filters, one follows after a comma:
            {gsm8k: "exact_match,flexible-extract"}.
        num_fewshot: Solved documents before each one; None takes each task's own number.
        limit: Only the first documents of each task, this many; None = all.
        include_path: A folder with task files of your own.
        apply_chat_template: Ask in the model's chat template, examples as earlier turns.
    """

    IS_BENCHMARK: ClassVar[bool] = True

    task: Literal["lm_eval"] = "lm_eval"
    name: TaskName = "lm_eval"
    tasks: Annotated[dict[str, str], Field(min_length=1)]
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    include_path: str | None = None
    apply_chat_template: bool = True

    @property
    def metrics(self) -> tuple[str, ...]:
        """One per task."""
        return tuple(_metric_name(task, metric) for task, metric in self.tasks.items())

    @property
    def data_path(self) -> str:
        """The folder of your own tasks, or lm-eval's name."""
        return self.include_path or "lm_eval"

    @property
    def data_paths(self) -> tuple[str, ...]:
        """The files of your own tasks; those of lm-eval belong to its version."""
        if self.include_path is None:
            return (self.data_path,)
        files = sorted(Path(self.include_path).rglob("*"))
        return tuple(str(file) for file in files if file.is_file() and file.suffix != ".pyc")

    def run(self, subject: Subject) -> TaskResult:
        """Run every task.

        Raises:
            ValueError: If lm-eval is not installed, it does not know a task or metric, a task's
                data cannot be had, or the metric is no mean over documents.
        """
        harness = _Harness()
        manager = self._manager(harness)
        found = self._evaluate(harness, manager, subject)
        results = [_measured(found, task, metric) for task, metric in self.tasks.items()]
        return TaskResult(
            tuple(part for part, _ in results), tuple(row for _, rows in results for row in rows)
        )

    def _manager(self, harness: _Harness) -> Any:  # noqa: ANN401 (lm-eval's)
        """What finds lm-eval's tasks; over the user's own alone where that is enough."""
        if self.include_path is not None:
            own = harness.tasks.TaskManager(include_path=self.include_path, include_defaults=False)
            if set(self.tasks) <= set(own.all_subtasks):
                return own
        manager = harness.tasks.TaskManager(include_path=self.include_path)
        known = [*manager.all_subtasks, *manager.all_groups]
        for task in self.tasks:
            if task not in known:
                near = ", ".join(get_close_matches(task, known)) or "none is near"
                raise ValueError(
                    f"{self.name}.tasks: lm-eval has no task or group {task!r} ({near}). List them "
                    "with: lm-eval ls tasks"
                )
        return manager

    def _evaluate(self, harness: _Harness, manager: Any, subject: Subject) -> Mapping[str, Any]:  # noqa: ANN401
        needs_one = prompt_sharing(subject.lm) != "padded"
        with _random_states_kept():
            model = harness.models.HFLM(
                pretrained=subject.lm.model,
                # a copy, because it sets what the tokenizer pads with
                tokenizer=copy.deepcopy(subject.lm.tokenizer),
                backend="causal",
                batch_size=1 if needs_one else subject.decoding.batch_size,
                # what a model thinks before it answers is no answer
                think_end_token=think_end(subject.reasoning, subject.lm.tokenizer),
            )
            try:
                return harness.evaluator.simple_evaluate(
                    model=model,
                    tasks=list(self.tasks),
                    num_fewshot=self.num_fewshot,
                    limit=self.limit,
                    apply_chat_template=self.apply_chat_template,
                    fewshot_as_multiturn=self.apply_chat_template,
                    bootstrap_iters=0,
                    task_manager=manager,
                )
            except (OSError, KeyError, ValueError) as error:
                raise ValueError(
                    f"{self.name}: lm-eval could not run {', '.join(self.tasks)} "
                    f"({type(error).__name__}: {error}). Most tasks need the Hub; see that the "
                    "tasks run with the lm-eval command."
                ) from error


class _Harness:
    """The parts of lm-eval that are used; it takes seconds to import, and may not be there."""

    def __init__(self) -> None:
        try:
            self.evaluator = import_module("lm_eval.evaluator")
            self.models = import_module("lm_eval.models.huggingface")
            self.tasks = import_module("lm_eval.tasks")
        except ImportError as error:
            raise ValueError(
                f"the task lm_eval needs lm-evaluation-harness, which cannot be imported ({error})."
                ' Install it: pip install "seal[eval]"'
            ) from error


def think_end(reasoning: Reasoning, tokenizer: PreTrainedTokenizerBase) -> str | int | None:
    """What lm-eval, which takes one mark, is to look for: a token behind which the answer begins.

    As an id where the mark ends in an added token: lm-eval leaves special tokens out of the text.
    """
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
    for _, closing in reasoning.own:
        ending = [number for text, number in added.items() if text and closing.endswith(text)]
        return ending[0] if ending else closing
    return None


def _metric_name(task: str, metric: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{task}_{metric}")


def _measured(
    found: Mapping[str, Any], task: str, metric: str
) -> tuple[Measurement, list[dict[str, Any]]]:
    """The metric's value on every document of a task or group, and what was asked and answered."""
    rows = [
        _row(sample, leaf, found["versions"][leaf])
        for leaf in _leaves(found, task)
        for sample in _of_filter(found["samples"][leaf], leaf, metric)
    ]
    count = Counter[str]()
    for row in rows:
        count[row["id"]] += 1
        row["id"] += f"-{count[row['id']] - 1}" if count[row["id"]] > 1 else ""
    name = metric.partition(",")[0]
    values = {row["id"]: _value(row, name, task) for row in rows}
    _check_mean(found, task, metric, values)
    is_rate = name in _RATES and set(values.values()) <= {0.0, 1.0}
    plain = [{key: value for key, value in row.items() if key != "sample"} for row in rows]
    kept = [{**row, "metric": name, "value": values[row["id"]]} for row in plain]
    part = Measurement(_metric_name(task, metric), "rate" if is_rate else "mean", values)
    return part, kept


def _leaves(found: Mapping[str, Any], name: str) -> list[str]:
    """The tasks of a group, or of a group of groups; of a task, itself."""
    if name in found["samples"]:
        return [name]
    return [leaf for part in found["group_subtasks"][name] for leaf in _leaves(found, part)]


def _of_filter(
    samples: Sequence[Mapping[str, Any]], task: str, metric: str
) -> list[Mapping[str, Any]]:
    """The samples once; lm-eval gives each as often as the task has filters."""
    name, _, wanted = metric.partition(",")
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    if (wanted and wanted not in filters) or (not wanted and len(filters) > 1):
        raise ValueError(
            f"tasks.{task}: {metric!r} does not say which of its filters counts. Write one of "
            + ", ".join(f'"{name},{each}"' for each in filters)
        )
    return [sample for sample in samples if sample["filter"] == (wanted or filters[0])]


def _row(sample: Mapping[str, Any], task: str, version: Any) -> dict[str, Any]:  # noqa: ANN401
    prompt = sample["arguments"][0][0]
    responses = list(sample["filtered_resps"])
    return {
        "id": f"{task}/{sample['doc_hash'][:ID_LENGTH]}",
        "prompt": prompt if isinstance(prompt, str) else str(prompt),
        "response": json.dumps(responses, default=str),
        "target": str(sample["target"]),
        "version": str(version),
        "sample": sample,
    }


def _value(row: Mapping[str, Any], metric: str, task: str) -> float:
    sample = row["sample"]
    if metric not in sample["metrics"]:
        raise ValueError(
            f"tasks.{task}: there is no metric {metric!r}; lm-eval measures "
            f"{', '.join(sample['metrics'])}. Name one of them."
        )
    value = sample[metric]
    if not isinstance(value, bool | int | float | np.number | np.bool_):
        raise ValueError(
            f"tasks.{task}: {metric!r} is no number per document but {type(value).__name__}. Take "
            "a metric that is a mean over documents."
        )
    return float(value)


def _check_mean(
    found: Mapping[str, Any], task: str, metric: str, values: Mapping[str, float]
) -> None:
    """See that lm-eval's own number is the mean of the values; it has none for some groups."""
    name, _, wanted = metric.partition(",")
    results = found["results"].get(task, {})
    keys = [key for key in results if key.split(",") == [name, wanted or key.partition(",")[2]]]
    mean = sum(values.values()) / len(values)
    if task in found["samples"] and not any(abs(results[key] - mean) < 1e-6 for key in keys):
        theirs = ", ".join(f"{key} = {results[key]}" for key in keys)
        raise ValueError(
            f"tasks.{task}: the mean of {metric!r} over documents is {mean}, lm-eval says "
            f"{theirs or 'nothing'}. Take a metric that is a mean over documents."
        )


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Run something that seeds every random generator of the process, and leave no trace."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
