"""Time and memory that a busy machine does not blur: blocks in turns, processes of their own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

NUM_DRAWS = 2000
LEAST_ROUNDS = 6  # the extremes of fewer do not hold the median in 95 % of cases
_FREES_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Ratio(NamedTuple):
    """How much more one thing takes than another.

    Attributes:
        value: Median over the rounds.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end.
        rounds: Independent measurements that went in.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int


class Watch:
    """Marks the ends of steps: CPU seconds of this process, or CUDA's events.

    CPU seconds, on one thread, so that other work on the machine counts little.
    """

    def __init__(
        self, device: str = "cpu", *, steps: int | None = None, seconds: float | None = None
    ) -> None:
        """Start.

        Args:
            device: "cpu" or "cuda".
            steps: After so many marks there is nothing more to do.
            seconds: Nor when so many seconds of wall clock have passed since the first mark,
                before which all is done that is done once.
        """
        self._events: list[torch.cuda.Event] | None = [] if device == "cuda" else None
        self._most_steps = steps
        self._most_seconds = seconds
        self._times: list[float] = []
        self._start = time.monotonic()

    def mark(self) -> bool:
        """A step has ended; whether there is another one to do."""
        if self._events is not None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            if self._events:  # else the wall clock would run far ahead of the device
                self._events[-1].synchronize()
            self._events.append(event)
        self._times.append(time.process_time())
        if len(self._times) == 1:
            self._start = time.monotonic()
        steps, seconds = self._most_steps, self._most_seconds
        is_late = seconds is not None and time.monotonic() - self._start > seconds
        return not (is_late or (steps is not None and len(self._times) >= steps))

    def steps(self) -> list[float]:
        """Seconds of every step but the first, which includes setting up."""
        if self._events is None:
            return np.diff(self._times).tolist()
        torch.cuda.synchronize()
        return [one.elapsed_time(other) / 1e3 for one, other in itertools.pairwise(self._events)]


def take_turns(
    turns: Mapping[str, Callable[[], Sequence[float]]], seconds: float
) -> dict[str, np.ndarray]:
    """Seconds of each step of each [rounds, steps], block by block until the time is up.

    The order is reversed from round to round, so that a drift of the machine cancels out.
    """
    found: dict[str, list[Sequence[float]]] = {name: [] for name in turns}
    start, rounds = time.monotonic(), 0
    while rounds < LEAST_ROUNDS or time.monotonic() - start < seconds:
        for name in list(turns) if rounds % 2 else list(turns)[::-1]:
            found[name].append(turns[name]())
        rounds += 1
    return {name: np.array(blocks) for name, blocks in found.items()}


def ratio(one: np.ndarray, other: np.ndarray) -> Ratio:
    """Of the times of whole blocks, [rounds, steps] each: the median over the rounds.

    The 95 % interval is a bootstrap over rounds: the steps of one lie close together in time, and
    say the same thing about the machine.
    """
    ratios = one.sum(axis=1) / other.sum(axis=1)
    low, high = median_interval(ratios)
    return Ratio(float(np.median(ratios)), low, high, len(ratios))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median of independent values, by a bootstrap."""
    drawn = np.random.default_rng(0).choice(values, size=(NUM_DRAWS, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def peak_ratio(one: Sequence[int], other: Sequence[int]) -> Ratio:
    """Of peak memories in processes of their own: of the medians; the ends are the extremes."""
    return Ratio(
        float(np.median(one) / np.median(other)),
        min(one) / max(other),
        max(one) / min(other),
        min(len(one), len(other)),
    )


def peak_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """Most memory while `work` runs, above what there was before: of this process, or the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the peak so far
    before = resident_bytes("VmRSS")
    work()
    return resident_bytes("VmHWM") - before


def resident_bytes(key: str) -> int:
    """This process's resident memory: now ("VmRSS"), or at most so far ("VmHWM")."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def last_line_of(
    module: str, *arguments: str, timeout: float | None = None, frees_at_once: bool = False
) -> str:
    """What a fresh process `python -m module` says last.

    Args:
        module: Its name.
        arguments: On the command line.
        timeout: In seconds.
        frees_at_once: Whatever tensor is freed goes back to the system, which takes time: a peak
            is then that of what was alive, not of what the allocator kept for later.

    Raises:
        RuntimeError: With what it said, if it fails.
        subprocess.TimeoutExpired: If it takes too long.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(_FREES_AT_ONCE if frees_at_once else {})},
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise RuntimeError(f"{module} {' '.join(arguments)}: {said[-1]}")
    return lines[-1]
