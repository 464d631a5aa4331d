"""How ranking scales with the pool: seconds and memory per sample, with a model that costs nothing.

The model gives the same logits for every token, so what is left is all that seal does around it:
orders, batches, the selector, tables, the ranking. Lengths are log-normal, as those of instruction
data: a median of 150 tokens, a tenth above 400, at most 1024.
"""

from __future__ import annotations

import itertools
import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.table import Bar, Line, single
from benchmarks.timing import Ratio, last_line_of, resident_bytes
from benchmarks.with_seal import language, rank
from benchmarks.workload import SIZES, Row, Work, make_tokenizer
from seal.rankers.loss import Loss
from seal.rankers.seal import Seal
from seal.rankers.selector import SgdSelector

NUM_SAMPLES = {"tiny": (100, 200, 400), "small": (1_000, 10_000, 100_000)}
MILLION = 1_000_000
NUM_LOGITS = {"tiny": (1_000, 10_000), "small": (1_000_000, 10_000_000)}
FLAT = Bar(1.25)
_WORDS = 64
_BATCH = 64  # the paper's
_HOST_MEBIBYTES = 4096  # what 10 million samples may take


class FreeModel(nn.Module):
    """The same logits for every token."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.bias = nn.Parameter(torch.zeros(_WORDS))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 (a causal model's arguments)
        position_ids: Tensor | None = None,  # noqa: ARG002
        logits_to_keep: Tensor | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> SimpleNamespace:
        """Logits of the columns that are asked for."""
        kept = input_ids.shape[1] if logits_to_keep is None else len(logits_to_keep)
        return SimpleNamespace(logits=self.bias.expand(len(input_ids), kept, _WORDS))


def flatness(size: str, _: float, *more: int) -> list[Line]:
    """What another sample costs in a large pool beside what it costs in a small one.

    Per sample, between two sizes of the pool: the difference of seconds (or bytes) over the
    difference of samples. What is done once drops out.
    """
    lines = []
    for method in ("loss", "seal"):
        sizes = (*NUM_SAMPLES[size], *more)
        found = [_child("ranked", method, num) for num in sizes]
        for unit, scale, what in (("seconds", 1e6, "us"), ("bytes", 1.0, "bytes")):
            costs = np.diff([each[unit] for each in found]) / np.diff(sizes) * scale
            pairs = list(itertools.pairwise(sizes))
            for (small, large), cost in zip(pairs, costs, strict=True):
                title = f"{method}: {unit} of a sample, {small:,} to {large:,}"
                lines.append(Line("scaling", title, single(float(cost)), unit=what))
            growth = float(costs[-1] / costs[0])
            lines.append(
                Line("scaling", f"{method}: {unit} of a sample, last / first", single(growth), FLAT)
            )
    return lines


def million(size: str, seconds: float) -> list[Line]:
    """The same up to a million."""
    return flatness(size, seconds, MILLION)


def selector(size: str, _: float) -> list[Line]:
    """A step of SEAL's selector, and its memory, for a pool that is larger than any model sees."""
    fewer, num = NUM_LOGITS[size]
    small, found = _child("selected", fewer), _child("selected", num)
    epoch = found["median"] * num / _BATCH / 3600
    return [
        Line(
            "selector",
            f"seconds of a step, {num:,} samples",
            Ratio(found["median"], found["low"], found["high"], found["steps"]),
            unit="s",
            note=f"extrapolated: {epoch:.2g} h for the {num // _BATCH:,} steps of an epoch",
        ),
        Line(
            "selector",
            f"seconds of a step, {num:,} / {fewer:,} samples",
            single(found["median"] / small["median"]),
            FLAT,
            note="steps see equally many samples",
        ),
        Line(
            "selector",
            f"memory at most, {num:,} samples",
            single(found["bytes"] / 2**20),
            Bar(_HOST_MEBIBYTES),
            unit="MiB",
            note=f"{found['bytes'] / num:.0f} a sample",
        ),
    ]


def ranked(method: str, num: str) -> dict[str, float]:
    """In a process of its own: CPU seconds of a ranking, and resident bytes for the rows and it."""
    _rank_once(method, make_ragged(8, 0), make_ragged(8, 1))  # loads what is loaded at first use
    before = resident_bytes("VmRSS")
    rows, safe = make_ragged(int(num), 0), make_ragged(800, 1)
    start = time.process_time()
    _rank_once(method, rows, safe)
    return {
        "seconds": time.process_time() - start,
        "bytes": float(resident_bytes("VmHWM") - before),
    }


def selected(num: str, steps: int = 200) -> dict[str, float]:
    """In a process of its own: CPU seconds of a selector's step, and resident bytes."""
    rng = np.random.default_rng(0)
    SgdSelector(8, "softmax", 5e-3).weights(torch.arange(8))
    before = resident_bytes("VmRSS")
    chosen = SgdSelector(int(num), "softmax", 5e-3)
    times = []
    for _ in range(steps):
        places = torch.from_numpy(rng.integers(int(num), size=_BATCH))
        gap = torch.from_numpy(rng.normal(size=_BATCH)).float()
        start = time.process_time()
        _ = chosen.weights(places)
        chosen.update(places, gap)
        chosen.effective_share()  # every step of SEAL logs it
        times.append(time.process_time() - start)
    low, high = np.quantile(times, [0.025, 0.975])
    return {
        "median": float(np.median(times)),
        "low": float(low),
        "high": float(high),
        "steps": steps,
        "bytes": float(resident_bytes("VmHWM") - before),
    }


def make_ragged(num: int, seed: int) -> list[Row]:
    """Rows with the lengths of instruction data; a third is prompt."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(np.log(150), 0.77, num)), 8, 1024).astype(int)
    rows = []
    for i, length in enumerate(lengths):
        ids = rng.integers(2, _WORDS, length).astype(np.int32)
        rows.append(Row(f"{seed}-{i:08d}", ids, np.arange(length) >= length // 3))
    return rows


def _rank_once(method: str, pool: list[Row], safe: list[Row]) -> None:
    lm = language(FreeModel(), make_tokenizer(_WORDS))
    seal = Seal(epochs=1, batch_size=_BATCH, tuning="full", gamma_start=0.5)
    rank(lm, Work(SIZES["tiny"], pool, safe), {"loss": Loss(), "seal": seal}[method])


def _child(function: str, *words: object) -> dict[str, Any]:
    return json.loads(last_line_of("benchmarks", "--child", "scaling", function, *map(str, words)))
