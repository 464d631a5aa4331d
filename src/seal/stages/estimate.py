"""Estimate: what a run will take, from sizes that are counted and speeds that are measured.

A run consists of cells: the ranking, the training of each arm and seed, the evaluation of each arm
and seed. The tokens of a cell are counted. Its seconds are those tokens times the speed of a few
real steps on rows of the run's own lengths, batched as the stage batches them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from seal.data.batches import collate
from seal.data.sample import Message
from seal.data.tokenize import Encoded
from seal.generation import Decoding, generate
from seal.microbatches import MicroBatches
from seal.models import LanguageModel
from seal.rankers.levels import Level
from seal.tables import Losses

NUM_STEPS = 20
LIMIT_SECONDS = 60.0  # of each measurement; it takes at least two steps
_PROBED_TOKENS = 48  # new tokens of a generation that is measured


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that pass through the model.

    Attributes:
        forward: Without a graph.
        trained: Forward and backward.
        generated: New tokens, at most: every response taken to be as long as allowed.
    """

    forward: float = 0.0
    trained: float = 0.0
    generated: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(
            self.forward + other.forward,
            self.trained + other.trained,
            self.generated + other.generated,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of a run, which is made whole or not at all, and what it takes.

    Attributes:
        name: Its folder below the run's.
        is_done: It is there already; all else is 0.
        work: Tokens.
        flops: Floating-point operations.
        seconds: None where nothing is known about it.
        memory_bytes: Peak; None where nothing was measured. On the CPU of the whole process, and
            therefore never below that of the cell before it.
        disk_bytes: What stays.
    """

    name: str
    is_done: bool = False
    work: Work = Work()
    flops: float = 0.0
    seconds: float | None = 0.0
    memory_bytes: int | None = 0
    disk_bytes: int = 0


class Shape(NamedTuple):
    """What decides the arithmetic of a model.

    Attributes:
        num_weights: Of the whole model.
        num_multiplied: Of them, those in matrix products: all but embeddings that are looked up.
        weight_bytes: Of the whole model.
        num_layers: Of the transformer; 0 where attention cannot be counted.
        width: Of its residual stream.
    """

    num_weights: int
    num_multiplied: int
    weight_bytes: int
    num_layers: int
    width: int


class Measured(NamedTuple):
    """The speed of one kind of work.

    Attributes:
        seconds: Per unit: token, step or batch.
        memory_bytes: Peak while it was measured.
        start_seconds: Spent once, before the first unit.
    """

    seconds: float
    memory_bytes: int
    start_seconds: float = 0.0


def model_shape(model: nn.Module) -> Shape:
    """The shape of a causal language model of transformers."""
    loaded = cast(Any, model)
    weights = list(model.parameters())
    looked_up = loaded.get_input_embeddings().weight
    output = loaded.get_output_embeddings()
    is_tied = output is not None and output.weight is looked_up
    num = sum(weight.numel() for weight in weights)
    config = loaded.config.get_text_config()
    try:
        layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    except AttributeError:  # an architecture with other words for them
        layers, width = 0, 0
    return Shape(
        num_weights=num,
        num_multiplied=num if is_tied else num - looked_up.numel(),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        num_layers=layers,
        width=width,
    )


def flops(work: Work, shape: Shape, context: float, *, num_lora: int = 0) -> float:
    """Floating-point operations of some work.

    With N = `num_multiplied`, A = 4 L d T for attention (scores and values of L layers of width d
    over T tokens of context; no credit for the causal half):

        forward or generated token    2 N + A
        trained token, all weights    3 (2 N + A)
        trained token, LoRA           4 N + 3 A + 6 N_lora

    The last has no gradient of the frozen weights. Activation checkpointing, which adds a forward
    pass to a trained token, is left out.

    Args:
        work: Tokens.
        shape: The model's.
        context: T: mean length of the sequence that a token stands in.
        num_lora: Weights of the adapter that is trained; 0: all weights are.
    """
    attention = 4 * shape.num_layers * shape.width * context
    forward = 2 * shape.num_multiplied + attention
    trained = 3 * forward
    if num_lora:
        trained = 4 * shape.num_multiplied + 3 * attention + 6 * num_lora
    return (work.forward + work.generated) * forward + work.trained * trained


def mean_context(lengths: Sequence[int]) -> float:
    """Mean over tokens of the length of the sequence that the token stands in."""
    return sum(length**2 for length in lengths) / max(1, sum(lengths))


def spread(rows: Sequence[Encoded], num: int) -> list[Encoded]:
    """Rows at evenly spaced places of the order by length, the longest always among them."""
    order = sorted(rows, key=lambda row: (-len(row.input_ids), row.id))
    if num >= len(order):
        return order
    return [order[place * len(order) // num] for place in range(num)]


def total(cells: Sequence[Cell]) -> Cell:
    """All cells, one after the other: sums, and the largest peak of memory.

    Cells about whose seconds nothing is known count nothing.
    """
    return Cell(
        name="total",
        is_done=all(cell.is_done for cell in cells),
        work=sum((cell.work for cell in cells), Work()),
        flops=sum(cell.flops for cell in cells),
        seconds=sum(cell.seconds or 0.0 for cell in cells),
        memory_bytes=max((cell.memory_bytes or 0 for cell in cells), default=0),
        disk_bytes=sum(cell.disk_bytes for cell in cells),
    )


def as_json(cells: Sequence[Cell]) -> dict[str, Any]:
    """The cells and their total as plain values."""
    return {"cells": [asdict(cell) for cell in cells], "total": asdict(total(cells))}


def as_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what `as_json` returned; the total comes last."""
    header = ["cell", "forward", "trained", "generated", "FLOPs", "time", "peak memory", "disk"]
    return header, [_table_row(cell) for cell in (*document["cells"], document["total"])]


def _table_row(cell: Mapping[str, Any]) -> list[str]:
    if cell["is_done"]:
        return [cell["name"], *["-"] * 4, "done", *["-"] * 2]
    work = cell["work"]
    tokens = [f"{work[name]:,.0f}" for name in ("forward", "trained", "generated")]
    seconds, memory = cell["seconds"], cell["memory_bytes"]
    return [
        cell["name"],
        *tokens,
        f"{cell['flops']:.2g}",
        "unknown" if seconds is None else duration(seconds),
        f"{memory / 2**30:.2f} GiB" if memory else "unknown",
        f"{cell['disk_bytes'] / 2**20:,.1f} MiB",
    ]


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# --- speeds --------------------------------------------------------------------------------------


def measure_forward(
    lm: LanguageModel, rows: Sequence[Encoded], micro_batches: MicroBatches
) -> Measured:
    """Seconds per token of passes without a graph, as loss tables make them.

    A few batches at evenly spaced places of the order by length, the longest first, in three
    rounds: the medians of the batches, over their tokens.
    """
    places = micro_batches.of(rows)
    num = min(len(places), NUM_STEPS // 3)
    chosen = [places[place * len(places) // num] for place in range(num)]
    batches = [collate([rows[place] for place in batch], lm.pad_id) for batch in chosen]

    def step(number: int) -> None:
        with torch.inference_mode():
            Losses().read(lm, batches[number].to(lm.device))

    seconds, memory = _median_seconds(step, num, lm.device)
    # only of those that were reached before the limit
    tokens = sum(int(batches[number].attention_mask.sum()) for number in seconds)
    return Measured(sum(seconds.values()) / tokens, memory)


def measure_descent(level: Level, steps: Sequence[Sequence[Encoded]]) -> Measured:
    """Seconds per token of optimiser steps as rankers make them; changes the level.

    Args:
        level: A parameter vector that nobody needs afterwards.
        steps: The rows of some steps.
    """

    def step(number: int) -> None:
        rows = steps[number]
        level.descend(rows, torch.full((len(rows),), 1 / len(rows)))

    seconds, memory = _median_seconds(step, len(steps), level.lm.device)
    tokens = sum(len(row.input_ids) for number in seconds for row in steps[number])
    return Measured(sum(seconds.values()) / tokens, memory)


def measure_generation(
    lm: LanguageModel, prompts: Sequence[Sequence[Message]], decoding: Decoding
) -> Measured:
    """Seconds of generating for one batch of the prompts given.

    Measured on one token and on a few; where a response was still going on, the rest is taken to
    cost as much per token as those.
    """
    num_probed = min(decoding.max_new_tokens, _PROBED_TOKENS)
    times: list[float] = []
    responses: list[str] = []
    track = _Memory(lm.device)
    for num in (1, 1, num_probed):  # the first warms up
        start = time.perf_counter()
        responses = generate(lm, prompts, decoding.model_copy(update={"max_new_tokens": num}))
        times.append(time.perf_counter() - start)
    longest = max(len(lm.tokenizer(text)["input_ids"]) for text in responses)
    left = decoding.max_new_tokens - num_probed if longest >= num_probed - 1 else 0
    per_token = max(0.0, times[2] - times[1]) / max(1, num_probed - 1)
    return Measured(times[2] + left * per_token, track.peak())


class Enough(Exception):  # noqa: N818 (no error: it ends a measurement)
    """Raised out of a progress callback when enough steps were seen."""


class StepClock:
    """A progress callback that times optimiser steps, and ends the training after a few."""

    def __init__(self, device: torch.device, num_steps: int) -> None:
        """Start the clock.

        Args:
            device: Whose memory is watched.
            num_steps: After so many steps, or `LIMIT_SECONDS`, `Enough` is raised.
        """
        self._start = time.perf_counter()
        self._num_steps = num_steps
        self._times: dict[int, float] = {}
        self._memory = _Memory(device)

    def __call__(self, what: str, done: int, total: int) -> None:  # noqa: ARG002 (Progress)
        """Note that `done` steps were made."""
        self._times.setdefault(done, time.perf_counter() - self._start)
        now = self._times[done]
        if len(self._times) > 1 and (done >= self._num_steps or now > LIMIT_SECONDS):
            raise Enough

    def measured(self) -> Measured:
        """Seconds per step, the first left out; and what came before it."""
        noted = sorted(self._times.items())
        (first, start), *_ = noted
        if len(noted) == 1:
            return Measured(start / max(1, first), self._memory.peak())
        pairs = zip(noted[1:], noted[:-1], strict=True)
        step = statistics.median((t1 - t0) / (n1 - n0) for (n1, t1), (n0, t0) in pairs)
        return Measured(step, self._memory.peak(), max(0.0, start - first * step))


def _median_seconds(
    step: Callable[[int], None], num: int, device: torch.device
) -> tuple[dict[int, float], int]:
    """Median seconds of each of `num` different steps, and the peak of memory.

    One step goes ahead and is not counted. Rounds over all steps follow, up to `NUM_STEPS` steps or
    `LIMIT_SECONDS`; a step that was not reached is left out.
    """
    memory = _Memory(device)
    begin = time.perf_counter()
    step(0)
    seconds: dict[int, list[float]] = {}
    for count in range(max(1, NUM_STEPS // num) * num):
        start = time.perf_counter()
        step(count % num)
        end = time.perf_counter()
        seconds.setdefault(count % num, []).append(end - start)
        if end - begin > LIMIT_SECONDS:
            break
    return {key: statistics.median(times) for key, times in seconds.items()}, memory.peak()


class _Memory:
    """Peak memory: of the GPU since this was made, or of the process since it began."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _process_peak()


def _process_peak() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 (not there on Windows)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
