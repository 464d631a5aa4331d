"""The log of a training: TRL's entries, and the steps that were left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seal.processes import processes
from seal.progress import Progress
from seal.stages.trainer import WatchedTrainer, not_finite
from seal.stages.training_state import mean_loss
from seal.tracking import Mirror


class Log(TrainerCallback):
    """Writes TRL's log to a file and tells of each step; a step left out has no numbers.

    Attributes:
        records: All that was written.
    """

    def __init__(
        self, trainer: WatchedTrainer, path: Path, progress: Progress, mirror: Mirror
    ) -> None:
        self.records: list[dict[str, Any]] = []
        self._trainer = trainer
        self._path = path
        self._progress = progress
        self._mirror = mirror
        path.unlink(missing_ok=True)  # of an attempt that did not fit into memory

    def write(self, record: dict[str, Any]) -> None:
        """Take one entry."""
        self.records.append(record)
        if not processes().is_first:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        self._mirror(record)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 (TrainerCallback's signature, as is **kwargs)
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take one entry of TRL's."""
        logs: dict[str, float | None] = dict(kwargs["logs"])
        watch = self._trainer.watch
        for name in ("loss", "train_loss"):
            value = logs.get(name)
            if value is not None and not math.isfinite(value):
                what = f"training loss ({value})"
                raise ValueError(not_finite(what, state.global_step, state, args))
        if "train_loss" in logs:
            logs["train_loss"] = mean_loss(self._trainer, state.global_step - watch.num_skipped)
        if "loss" in logs:
            logs["loss"] = self._mean(cast(float, logs["loss"]), state.global_step)
            if watch.last_skipped == state.global_step:
                logs["grad_norm"] = None
        # Under fp16 a gradient may overflow and be skipped, but JSON has no word for infinity.
        row = {
            name: value if value is None or math.isfinite(value) else None
            for name, value in {"step": state.global_step, **logs}.items()
        }
        self.write(cast(dict[str, Any], row))
        self._progress("steps", state.global_step, state.max_steps)

    def _mean(self, mean: float, step: int) -> float | None:
        """TRL's mean over the steps since the last entry, without those that were left out."""
        last = max((record["step"] for record in self.records if "loss" in record), default=0)
        skipped = sum(record["step"] > last for record in self.records if "skipped" in record)
        num = step - last
        if not skipped:
            return mean
        return mean * num / (num - skipped) if num > skipped else None
