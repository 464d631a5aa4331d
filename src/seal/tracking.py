"""Trackers: a copy of each metrics.jsonl, entry by entry, for those who watch runs elsewhere.

A pure side channel. The files of a run are the same with and without, whatever a tracker does: one
that fails is left out from then on, with one warning.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from pydantic import AfterValidator

from seal.processes import processes

logger = logging.getLogger(__name__)

Entry = Mapping[str, Any]
Mirror = Callable[[Entry], None]
"""Given each entry of a metrics.jsonl once it is written; its step is `step`, if it has one."""

TrackerName = Literal["tensorboard", "trackio", "wandb"]


def _each_once(names: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is given twice. Remove one of them.")
    return names


TrackerNames = Annotated[tuple[TrackerName, ...], AfterValidator(_each_once)]


def what_is_absent(names: Sequence[TrackerName]) -> str:
    """Which of the trackers are not installed, and how to install them; empty if all are."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    return (
        f"track: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed. Install "
        f"with `pip install {' '.join(absent)}` (all trackers: `pip install 'seal[track]'`), or "
        "take it out of track."
    )


def nowhere(entry: Entry) -> None:
    """Mirror nothing."""


class Tracking:
    """The trackers of a run.

    Attributes:
        names: Which ones.
        folder: Where those write that write files here.
        project: What they call the runs of this run folder together.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path, project: str) -> None:
        """Trackers, each of which must be installed.

        Raises:
            ValueError: If one is not, with the command that installs it.
        """
        absent = what_is_absent(names)
        if absent:
            raise ValueError(absent)
        self.names = tuple(names)
        self.folder = folder
        self.project = project
        self._failed: set[TrackerName] = set()

    @contextmanager
    def run(self, name: str, labels: Entry) -> Iterator[Mirror]:
        """The mirror of one metrics.jsonl.

        Args:
            name: Of the run in the tracker, like "train/selected/seed-0".
            labels: What the entries belong to: stage, arm, seed.
        """
        names = self.names if processes().is_first else ()
        trackers = [_Guarded(tracker, self._failed) for tracker in names]
        for tracker in trackers:
            tracker.begin(self.folder, self.project, name, labels)
        count = 0

        def mirror(entry: Entry) -> None:
            nonlocal count
            step = entry.get("step", count)
            count += 1
            values = {key: value for key, value in entry.items() if value is not None}
            values.pop("step", None)
            for tracker in trackers:
                tracker.write(step, values)

        try:
            yield mirror
        finally:
            for tracker in trackers:
                tracker.close()


class _Guarded:
    """A tracker that can neither stop the run nor change it."""

    def __init__(self, name: TrackerName, failed: set[TrackerName]) -> None:
        self._name: TrackerName = name
        self._failed = failed
        self._tracker: Tracker | None = None

    def begin(self, folder: Path, project: str, run: str, labels: Entry) -> None:
        def act() -> None:
            self._tracker = _TRACKERS[self._name](folder / self._name, project, run, labels)

        self._safely(act)

    def write(self, step: int, entry: Entry) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._safely(lambda: tracker.write(step, entry))

    def close(self) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._safely(tracker.close)

    def _safely(self, act: Callable[[], None]) -> None:
        if self._name in self._failed:
            return
        # Trackers draw names and ids at random.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            act()
        except Exception as error:  # whatever it is, it is not the run's
            self._failed.add(self._name)
            reason = f"{type(error).__name__}: {error}"
            logger.warning("track: %s failed and is left out from now on (%s)", self._name, reason)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


class Tracker(ABC):
    """One run in one tracker; abstract. What it raises is caught by its caller."""

    @abstractmethod
    def __init__(self, folder: Path, project: str, run: str, labels: Entry) -> None:
        """Begin a run.

        Args:
            folder: Where its files go, if it writes any here.
            project: What the run is part of.
            run: Its name.
            labels: What it is, as names and plain values.
        """

    @abstractmethod
    def write(self, step: int, entry: Entry) -> None:
        """Take one entry, without its step and without what has no value."""

    @abstractmethod
    def close(self) -> None:
        """End the run."""


@final
class TensorBoard(Tracker):
    """Event files in `<folder>/<run>`, for `tensorboard --logdir <folder>`."""

    def __init__(self, folder: Path, project: str, run: str, labels: Entry) -> None:
        """Begin a run; what an interrupted one wrote under this name is hidden from now on."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra)

        self._writer = SummaryWriter(str(folder / run), purge_step=0)
        self._writer.add_text("run", json.dumps({"project": project, **labels}), 0)

    def write(self, step: int, entry: Entry) -> None:
        """Numbers and truth values as scalars, the rest as text."""
        for name, value in entry.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
            else:
                self._writer.add_text(name, str(value), step)
        self._writer.flush()

    def close(self) -> None:
        """End the run."""
        self._writer.close()


@final
class Trackio(Tracker):
    """A run in Trackio's own data base, for `trackio show`: in its folder, or TRACKIO_DIR."""

    def __init__(self, folder: Path, project: str, run: str, labels: Entry) -> None:  # noqa: ARG002
        """Begin a run."""
        import trackio  # noqa: PLC0415 (an extra)  # pyright: ignore[reportMissingImports]

        self._finish = trackio.finish  # which, unlike the run's own, is not repeated at exit
        with redirect_stdout(io.StringIO()):  # it greets with six lines
            self._run = trackio.init(
                project,
                name=run,
                config=dict(labels),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def write(self, step: int, entry: Entry) -> None:
        """The whole entry."""
        self._run.log(dict(entry), step=step)

    def close(self) -> None:
        """End the run; waits until it is written."""
        with redirect_stdout(io.StringIO()):
            self._finish()


@final
class WandB(Tracker):
    """A run of Weights & Biases: in `<folder>/wandb`, uploaded only where WANDB_MODE says so."""

    def __init__(self, folder: Path, project: str, run: str, labels: Entry) -> None:
        """Begin a run."""
        import wandb  # noqa: PLC0415 (an extra)  # pyright: ignore[reportMissingImports]

        root = folder.parent  # wandb makes its own folder "wandb" in there
        root.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            name=run,
            config=dict(labels),
            dir=str(root),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, entry: Entry) -> None:
        """The whole entry; `step` is a value like the others, so that it may begin anew."""
        self._run.log({**entry, "step": step})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


_TRACKERS: dict[TrackerName, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
