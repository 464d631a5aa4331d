"""Short training of an adapter, epoch by epoch, before gradients are taken with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seal.data.batches import epoch_order
from seal.data.tokenize import Encoded
from seal.rankers.levels import Level
from seal.rankers.ranker import RankingTask


@dataclass(frozen=True, slots=True)
class Schedule:
    """Plain training on the mean loss of batches.

    Attributes:
        epochs: Passes over the rows.
        batch_size: Rows per step.
        learning_rate: The highest.
        warmup_ratio: Share of the steps over which the rate rises; None keeps it constant.
        seed: Of the order of rows.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float | None
    seed: int

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of a step (from 0): a linear rise, then a linear fall towards 0.

        No step has rate 0: training may have no more than a few.
        """
        if self.warmup_ratio is None:
            return self.learning_rate
        rising = int(np.ceil(self.warmup_ratio * num_steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (num_steps - step) / (num_steps - rising)


def train_epochs(
    level: Level, rows: Sequence[Encoded], schedule: Schedule, task: RankingTask, what: str
) -> Iterator[float]:
    """Train a level, and stop after every epoch.

    Args:
        level: What is trained.
        rows: At least one, in any order; it decides nothing.
        schedule: How.
        task: Told the progress, and given a record per step.
        what: What the training is called.

    Yields:
        The mean learning rate of the epoch that was just made.
    """
    ordered = sorted(rows, key=lambda row: row.id)
    steps_per_epoch = -(-len(ordered) // schedule.batch_size)
    num_steps = steps_per_epoch * schedule.epochs
    for epoch in range(schedule.epochs):
        order = epoch_order(len(ordered), seed=schedule.seed, stream="warm-up", epoch=epoch)
        rates: list[float] = []
        for start in range(0, len(ordered), schedule.batch_size):
            batch = [ordered[i] for i in order[start : start + schedule.batch_size]]
            step = epoch * steps_per_epoch + len(rates)
            rates.append(schedule.rate(step, num_steps))
            for group in level.optimizer.param_groups:
                group["lr"] = rates[-1]
            result = level.descend(batch, torch.full((len(batch),), 1 / len(batch)))
            task.progress(what, step + 1, num_steps)
            task.log(
                {
                    "training": what,
                    "step": step,
                    "learning_rate": rates[-1],
                    "loss": float(result.losses.mean()),
                    "grad_norm": result.grad_norm,
                }
            )
        yield float(np.mean(rates))
