"""The state of a bilevel run: what moves from step to step, saved and gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seal import interrupts
from seal.checkpoint import Checkpoints, load_state
from seal.processes import processes
from seal.rankers.levels import NOT_FINITE, Level, StepResult
from seal.rankers.ranker import Extended
from seal.rankers.selector import Selector


class Batch(NamedTuple):
    """Places of the samples of one step, in the sorted pool and in the sorted safe set."""

    pool: np.ndarray
    safe: np.ndarray


class Visits:
    """What was seen of each pool sample, and when."""

    def __init__(self, num_samples: int) -> None:
        self.total = 0
        self.num_visits = np.zeros(num_samples, dtype=np.int64)
        self.last_visit = np.full(num_samples, -1, dtype=np.int64)
        self.first_loss = np.full(num_samples, np.nan)

    def record(self, places: np.ndarray, losses: np.ndarray) -> None:
        """Note a batch of visits in their order."""
        new = self.num_visits[places] == 0
        self.first_loss[places[new]] = losses[new]
        self.num_visits[places] += 1
        self.last_visit[places] = self.total + np.arange(len(places))
        self.total += len(places)

    def state(self) -> dict[str, Tensor]:
        """The arrays, by name."""
        names = ("num_visits", "last_visit", "first_loss")
        return {f"visits.{name}": torch.from_numpy(getattr(self, name)) for name in names}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.num_visits = state["visits.num_visits"].numpy()
        self.last_visit = state["visits.last_visit"].numpy()
        self.first_loss = state["visits.first_loss"].numpy()
        self.total = int(self.num_visits.sum())


@dataclass(slots=True, eq=False)
class Bilevel:
    """A run of SEAL under way.

    Attributes:
        levels: theta, and with Algorithm 1 theta_hat.
        selector: omega.
        visits: Of the pool's samples.
        places: Of the samples that are visited, in the sorted pool.
        last_gamma: What a run ended with that this one adds to; None if there is none.
        step: How many steps are done.
        num_skipped: How many of them were left out.
        skipped: Samples whose losses were a reason.
        records: What was logged, step by step.
    """

    levels: Sequence[Level]
    selector: Selector
    visits: Visits
    places: np.ndarray
    last_gamma: float | None = None
    step: int = 0
    num_skipped: int = 0
    skipped: set[str] = field(default_factory=set)
    records: list[dict[str, Any]] = field(default_factory=list)

    def skip(self, results: Sequence[StepResult], most: int) -> str:
        """Leave a step out if a loss or a gradient of it is not finite.

        Args:
            results: Of the levels.
            most: Steps that may be left out.

        Returns:
            What is wrong with which samples; "" if the step is in order.

        Raises:
            ValueError: If more steps than that were left out, or a sample is the reason a second
                time.
        """
        problem = next((result.problem for result in results if result.problem), "")
        bad = {key for result in results for key in result.bad}
        again = sorted(bad & self.skipped)
        if again:
            raise ValueError(
                f"step {self.step}: {problem}; {again[0]} not for the first time. {NOT_FINITE}"
            )
        self.num_skipped += bool(problem)
        self.skipped |= bad
        if self.num_skipped > most:
            raise ValueError(
                f"step {self.step}: {problem}. rank.max_skipped_steps={most} such steps were left "
                f"out before. {NOT_FINITE}"
            )
        return problem

    def extend(self, extended: Extended, ids: Sequence[str]) -> None:
        """Begin with the end of another run, and visit what it has not.

        theta and theta_hat go on; a new sample has the logit that every sample starts with.

        Args:
            extended: The other run.
            ids: Of the pool, in ascending order; all of the other run's are among them.
        """
        tensors, facts = load_state(extended.state)
        self.last_gamma = facts["records"][-1]["gamma"]
        self._load_levels(tensors)
        old = np.searchsorted(np.array(ids), np.array(extended.ids))
        logits = self.selector.logits.detach().clone()
        logits[old] = tensors["selector.logits"]
        self.selector.load_state({"logits": logits})
        visits = self.visits.state()
        for name, values in visits.items():
            values[old] = tensors[name]
        self.visits.load_state(visits)
        self.places = np.setdiff1d(self.places, old)

    def resume(self, checkpoints: Checkpoints | None) -> None:
        """Take over the newest state that is there, if any."""
        found = checkpoints.latest() if checkpoints else None
        if found is None:
            return
        tensors, facts = load_state(found)
        self._load_levels(tensors)
        for number, level in enumerate(self.levels):
            level.micro_batches.max_rows = facts["max_rows"][number]
        self.selector.load_state(_part(tensors, "selector."))
        self.visits.load_state(tensors)
        self.step = found.step
        self.num_skipped, self.skipped = facts["num_skipped"], set(facts["skipped"])
        self.records = facts["records"]

    def keep(self, checkpoints: Checkpoints | None, *, is_last: bool) -> None:
        """Save the state if it is time to, and stop if that was asked for.

        Raises:
            KeyboardInterrupt: If it was, once the state is saved.
        """
        if checkpoints is None:
            return
        stops = processes().any(interrupts.asked())  # looked at once: it must not stop unsaved
        if stops or is_last or checkpoints.due():
            checkpoints.save_state(self.step, self._tensors(), self._facts())
        if stops:
            interrupts.stop()

    def _load_levels(self, tensors: dict[str, Tensor]) -> None:
        for number, level in enumerate(self.levels):
            level.load_state(_part(tensors, f"level-{number}."))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {**self.visits.state()}
        tensors.update({f"selector.{name}": v for name, v in self.selector.state().items()})
        for number, level in enumerate(self.levels):
            tensors.update({f"level-{number}.{name}": v for name, v in level.state().items()})
        return tensors

    def _facts(self) -> dict[str, Any]:
        return {
            "num_skipped": self.num_skipped,
            "skipped": sorted(self.skipped),
            "max_rows": [level.micro_batches.max_rows for level in self.levels],
            "records": self.records,
        }


def _part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
