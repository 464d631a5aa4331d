"""A step of SEAL beside a step of TRL's trainer, of a plain loop, and of the published loop.

All work on the same random model with the same adapter (LoRA, r 16, q and v), the same samples and
micro-batches, with Adam and clipping. SEAL's step sees a batch of the pool and as many safe
samples, and with gamma above 0 it trains on both; the others train on all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from torch import nn

from benchmarks.loops import loop_of
from benchmarks.table import Bar, Line
from benchmarks.timing import (
    Watch,
    last_line_of,
    peak_ratio,
    ratio,
    take_turns,
)
from benchmarks.with_seal import visits_of
from benchmarks.workload import SIZES, Size, Work, checkpoint_blocks, make_model, make_work

STEPS = 4
NUM_PEAKS = 3  # processes: peaks differ by little


def against_trl(size: str, seconds: float) -> list[Line]:
    """SEAL, Algorithm 2, and a plain loop: the time of a step, and peak memory."""
    times = _times(("seal", "trl", "plain"), _trl_work(SIZES[size]), seconds)
    peaks = {name: peaks_in_children("steps", name, size) for name in ("seal", "trl")}
    return [
        Line("trl", "SEAL step / TRL's SFT step", ratio(times["seal"], times["trl"]), Bar(1.10)),
        Line("trl", "SEAL step / plain loop's step", ratio(times["seal"], times["plain"])),
        Line(
            "trl",
            "SEAL peak memory / TRL's",
            peak_ratio(peaks["seal"], peaks["trl"]),
            Bar(1.05),
            note=f"{mebibytes(peaks['seal'])} and {mebibytes(peaks['trl'])} MiB",
        ),
    ]


def against_memory_efficient(size: str, seconds: float) -> list[Line]:
    """Algorithm 1 beside Algorithm 2."""
    times = _times(("penalty", "seal"), _trl_work(SIZES[size]), seconds)
    peaks = {name: peaks_in_children("steps", name, size) for name in ("penalty", "seal")}
    return [
        Line(
            "penalty",
            "penalty step / memory-efficient step",
            ratio(times["penalty"], times["seal"]),
            Bar(1.6),
        ),
        Line(
            "penalty",
            "penalty peak memory / memory-efficient",
            peak_ratio(peaks["penalty"], peaks["seal"]),
            Bar(1.05),
            note=f"{mebibytes(peaks['penalty'])} and {mebibytes(peaks['seal'])} MiB",
        ),
    ]


def against_published(size: str, seconds: float) -> list[Line]:
    """The published loop beside SEAL on the same samples: three epochs, gamma 0, 0.03, 0.06.

    The first step of all is left out, so that the epoch without backward passes through the pool,
    in which seal saves most, counts for less than its third.
    """
    work = make_work(SIZES[size], 2, epochs=3, gamma_start=0.0, gamma_step=0.03)
    turns = {
        "seal": partial(_block, "seal", work),
        "published": partial(_block, "published", work, prepare=checkpoint_blocks),
        "unchecked": partial(_block, "published", work),
    }
    times = _turns(SIZES[size], turns, seconds)
    return [
        Line(
            "published",
            "published loop / SEAL",
            ratio(times["published"], times["seal"]),
            Bar(3, at_most=False),
            note="with activation checkpoints, as published",
        ),
        Line(
            "published",
            "published loop without checkpoints / SEAL",
            ratio(times["unchecked"], times["seal"]),
        ),
    ]


def case(name: str, size: str) -> Callable[[], object]:
    """What a process runs whose peak memory is measured: the model is made, and two steps taken."""
    _run(name, _trl_work(SIZES["tiny"]), make_model(SIZES["tiny"]))  # loads what is loaded late
    work = make_work(SIZES[size], 2)
    return lambda: _run(name, work, make_model(SIZES[size]))


def peaks_in_children(part: str, name: str, size: str) -> list[int]:
    """Peak memory of a part's case in each of some fresh processes, in bytes."""
    words = ("--peak", part, name, size)
    return [int(last_line_of("benchmarks", *words, frees_at_once=True)) for _ in range(NUM_PEAKS)]


def mebibytes(peaks: Sequence[int]) -> str:
    """Their median."""
    return f"{np.median(peaks) / 2**20:.0f}"


def _trl_work(size: Size) -> Work:
    return make_work(size, STEPS)


def _times(names: Sequence[str], work: Work, seconds: float) -> Mapping[str, np.ndarray]:
    return _turns(work.size, {name: partial(_block, name, work) for name in names}, seconds)


def _turns(
    size: Size, turns: Mapping[str, Callable[[nn.Module], list[float]]], seconds: float
) -> Mapping[str, np.ndarray]:
    model = make_model(size)
    # Each loop changes its model.
    return take_turns(
        {name: lambda turn=turn: turn(copy.deepcopy(model)) for name, turn in turns.items()},
        seconds,
    )


def _block(
    name: str, work: Work, model: nn.Module, prepare: Callable[[nn.Module], None] | None = None
) -> list[float]:
    if prepare is not None:
        prepare(model)
    return _run(name, work, model)


def _run(name: str, work: Work, model: nn.Module) -> list[float]:
    watch = Watch()
    loop_of(name)(model, work, watch, visits_of(work))
    return watch.steps()
