"""The evaluation: what was measured on one model, item by item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings

Kind = Literal["rate", "mean"]


class Estimate(Settings):
    """A number with its uncertainty.

    Attributes:
        value: The point estimate.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of the 95 % confidence interval.
        n: Number of independent items (prompts or samples) behind it.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric on one task, item by item.

    Attributes:
        metric: Its name, e.g. "attack_success_rate".
        kind: "rate" (each value is 0 or 1) or "mean" (any real number).
        values: Item id -> value. Ids are the same for every model measured on the same task.
    """

    metric: str
    kind: Kind
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one task found on one model.

    Attributes:
        measurements: One per metric.
        responses: One JSON object per item with its `id` and what was seen (prompt, response,
            verdict, losses): the evidence behind the measurements.
    """

    measurements: tuple[Measurement, ...]
    responses: tuple[dict[str, Any], ...]


def answer_of(row: Mapping[str, Any]) -> str:
    """What is judged, counted and compared of a line of `responses.jsonl`: without reasoning.

    Raises:
        KeyError: If the line holds no response.
    """
    return row.get("answer", row["response"])


def count_answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What is odd about the answers of a task, by how many there are.

    `num_unclosed` ended while the model was still reasoning, and are no answers; `num_reasoned` had
    reasoning before the answer; `num_empty` are blank; `num_cut` ended because they were as long as
    they may be.
    """
    answered = [row for row in rows if not row.get("no_answer")]
    return {
        "num": len(rows),
        "num_unclosed": len(rows) - len(answered),
        "num_reasoned": sum("answer" in row for row in answered),
        "num_empty": sum(not answer_of(row).strip() for row in answered),
        "num_cut": sum(bool(row.get("is_cut")) for row in rows),
    }


def save_task_result(result: TaskResult, folder: StrPath) -> None:
    """Write `responses.jsonl` and `scores.jsonl` of one task into an existing folder."""
    folder = Path(folder)
    with (folder / "responses.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in result.responses)
    with (folder / "scores.jsonl").open("w", encoding="utf-8") as file:
        for part in result.measurements:
            for key, value in part.values.items():
                row = {"metric": part.metric, "kind": part.kind, "id": key, "value": value}
                file.write(json.dumps(row) + "\n")


def load_measurements(folder: StrPath) -> tuple[Measurement, ...]:
    """The measurements in a folder written by `save_task_result`."""
    folder = Path(folder)
    found: dict[str, Measurement] = {}
    with (folder / "scores.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            part = found.setdefault(row["metric"], Measurement(row["metric"], row["kind"], {}))
            part.values[row["id"]] = row["value"]
    return tuple(found.values())
