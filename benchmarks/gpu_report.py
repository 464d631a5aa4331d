"""The tables of `benchmarks.gpu`: what was measured, its floors and its bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.flops import Passes, count_weights
from benchmarks.table import Bar, markdown
from benchmarks.timing import median_interval
from benchmarks.workload import Size, checkpoint_blocks, compile_blocks

_ROWS = 100_000
BACKENDS = "backends"


def as_is(model: nn.Module) -> None:
    """Nothing is done to the model."""


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the table.

    Attributes:
        title: What it is called there.
        loop: Of `benchmarks.loops.loop_of`.
        prepare: What is done to the model first.
        needs: A key of `_NEEDED`; empty where torch, transformers and peft are enough.
    """

    title: str
    loop: str
    prepare: Callable[[nn.Module], None] = as_is
    needs: str = ""


# The most telling first: what there is no time for is left out.
PARTS = {
    "forward": Part("bare forward", "forward"),
    "scoring": Part("one-pass scoring", "scoring", needs="seal"),
    "sft": Part("SFT step, plain loop", "plain"),
    "trl": Part("SFT step, TRL", "trl", needs="trl"),
    "seal": Part("SEAL memory-efficient step", "seal", needs="seal"),
    "penalty": Part("SEAL penalty step", "penalty", needs="seal"),
    "published": Part("published loop, checkpoints", "published", checkpoint_blocks),
    "seal-checkpoints": Part("SEAL, checkpoints", "seal", checkpoint_blocks, "seal"),
    "trl-checkpoints": Part("SFT step, TRL, checkpoints", "trl_checkpointed", needs="trl"),
    "sft-checkpoints": Part("SFT step, plain, checkpoints", "plain", checkpoint_blocks),
    "penalty-checkpoints": Part("penalty, checkpoints", "penalty", checkpoint_blocks, "seal"),
    "forward-compiled": Part("bare forward, compiled", "forward", compile_blocks),
    "seal-compiled": Part("SEAL, compiled", "seal", compile_blocks, "seal"),
    "sft-compiled": Part("SFT step, plain, compiled", "plain", compile_blocks),
}


def report(
    found: Mapping[str, Mapping[str, Any]], size: Size, peak: float | None, is_barred: bool
) -> str:
    """The tables, and what could not be run.

    Args:
        found: Part -> what was measured.
        size: The model's.
        peak: FLOP/s of the device; None leaves MFU and the floors of time out.
        is_barred: Whether the bars on MFU and hours hold for this device and model.
    """
    done = {name: each for name, each in found.items() if "failed" not in each}
    text = markdown(
        _HEADER, [_row(name, each, size, peak) for name, each in done.items() if name != BACKENDS]
    )
    known = "an unknown peak" if peak is None else f"{peak / 1e12:g} TFLOP/s"
    text += f"\n{_EXPLAINED.format(peak=known)}\n\n"
    text += markdown(["ratio", "value", "bar"], _ratios(done, size, peak if is_barred else None))
    if BACKENDS in done:
        text += "\n" + _backends_table(done[BACKENDS])
    failed = [f"* {name}: {each['failed']}\n" for name, each in found.items() if "failed" in each]
    return text + ("\nNot measured:\n\n" + "".join(failed) if failed else "")


_EXPLAINED = """\
Time is that of a step; its interval is the median's, 95 %. Floors are those of the arithmetic at
{peak}, and of the weights, the adapters and Adam's state. MFU counts 4 operations for each weight
and trained token (the weights are frozen), in brackets 6. Hours are extrapolated from the steps
above; SEAL's are of one epoch, with 100k safe rows besides."""
_HEADER = [
    "part", "tokens/s", "floor", "MFU", "s per step", "peak GiB", "floor",
    "GPU-hours per 100k rows", "floor",
]  # fmt: skip


def _row(name: str, each: Mapping[str, Any], size: Size, peak: float | None) -> list[str]:
    weights, passes = count_weights(size.config), Passes(**each["passes"])
    took = float(np.median(each["steps"]))
    low, high = median_interval(np.array(each["steps"]))
    hours = _ROWS / each["rows"] / 3600
    element = torch.empty(0, dtype=size.dtype).element_size()
    adapter = 16 * weights.adapter if passes.trained else 0  # fp32: weight, gradient, two moments
    memory = weights.total * element + adapter * (2 if PARTS[name].loop == "penalty" else 1)
    floors = ["", "", ""]
    if peak is not None:
        least = passes.flops(weights) / peak
        usual = passes.flops(weights, per_trained=6) / peak
        share = f"{least / took:.1%}" + (f" ({usual / took:.1%})" if passes.trained else "")
        floors = [f"{each['tokens'] / least:,.0f}", share, f"{least * hours:.2g}"]
    return [
        PARTS[name].title,
        f"{each['tokens'] / took:,.0f}",
        floors[0],
        floors[1],
        f"{took:.3g} [{low:.3g}, {high:.3g}]",
        f"{each['peak_bytes'] / 2**30:.2f}",
        f"{memory / 2**30:.2f}",
        f"{took * hours:.2g}",
        floors[2],
    ]


def _ratios(
    done: Mapping[str, Mapping[str, Any]], size: Size, peak: float | None
) -> Iterator[list[str]]:
    """What is promised, of the parts that were run."""

    def speed(name: str) -> float:
        return done[name]["rows"] / float(np.median(done[name]["steps"]))

    def step(name: str) -> float:
        return float(np.median(done[name]["steps"]))

    def memory(name: str) -> float:
        return float(done[name]["peak_bytes"])

    pairs = [
        ("SEAL step / TRL's step", step, "seal", "trl", Bar(1.10)),
        (
            "SEAL step / TRL's step, checkpoints",
            step,
            "seal-checkpoints",
            "trl-checkpoints",
            Bar(1.10),
        ),
        ("SEAL step / plain loop's step", step, "seal", "sft", None),
        ("SEAL peak memory / TRL's", memory, "seal", "trl", Bar(1.05)),
        ("penalty step / SEAL step", step, "penalty", "seal", Bar(1.6)),
        ("penalty peak memory / SEAL's", memory, "penalty", "seal", Bar(1.05)),
        ("published loop's step / SEAL step", step, "published", "seal", Bar(3, at_most=False)),
        ("scoring speed / bare forward's", speed, "scoring", "forward", Bar(0.9, at_most=False)),
    ]
    for what, measure, one, other, bar in pairs:
        if one in done and other in done and measure(other) > 0:  # a tiny one takes no memory
            yield _verdict(what, measure(one) / measure(other), bar)
    if peak is None:
        return
    for name, least in (("scoring", 0.5), ("sft", 0.45), ("seal", 0.45), ("penalty", 0.45)):
        if name in done:
            flops = Passes(**done[name]["passes"]).flops(count_weights(size.config))
            yield _verdict(f"MFU, {name}", flops / peak / step(name), Bar(least, at_most=False))
    if "scoring" in done:
        hours = _ROWS / speed("scoring") / 3600
        yield _verdict("GPU-hours per 100k rows, one-pass ranking", hours, Bar(0.6))


def _verdict(what: str, value: float, bar: Bar | None) -> list[str]:
    kept = "" if bar is None else f"{bar}: {'met' if bar.is_met(value) else 'MISSED'}"
    return [what, f"{value:.3g}", kept]


def _backends_table(found: Mapping[str, Any]) -> str:
    plain = found["backends"]["plain"]
    rows = [
        [
            name,
            f"{np.median(each['steps']) * 1e3:.3g}",
            f"{np.median(each['steps']) / np.median(plain['steps']):.2f}",
            f"{each['peak_bytes'] / 2**20:,.0f}",
        ]
        for name, each in found["backends"].items()
    ]
    header = [
        f"loss backend, {found['tokens']} tokens",
        "ms",
        "time / plain",
        "peak MiB above inputs",
    ]
    return markdown(header, rows) + "".join(f"\n{reason}\n" for reason in found["refused"])
