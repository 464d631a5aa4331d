"""Each loss backend beside the plain loss: time and peak memory of the output layer alone.

Losses of random hidden states, and the gradient of a sum with unequal weights, with the output
layer frozen, as under LoRA. Peak memory is that above what the inputs take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks.steps import mebibytes, peaks_in_children
from benchmarks.table import Line
from benchmarks.timing import Ratio, Watch, peak_ratio, ratio, take_turns
from seal.loss_backends.backend import Head
from seal.loss_backends.choice import BACKENDS, refusal

# Tokens and words of the cases, and the width of the hidden states.
SHAPES = {"small": ((1024, 8000, 256), (1024, 32_000, 256)), "tiny": ((8, 50, 16),)}


class Case:
    """Random inputs of one shape."""

    def __init__(
        self, shape: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        num_tokens, num_words, width = shape
        layer = nn.Linear(width, num_words, bias=False, device=device, dtype=dtype)
        layer.requires_grad_(False)
        self.head = Head(layer, layer.weight, None)
        self.hidden = torch.randn(num_tokens, width, device=device, dtype=dtype).requires_grad_()
        self.labels = torch.randint(num_words, (num_tokens,), device=device)
        self.weights = torch.rand(num_tokens, device=device)

    def run(self, name: str) -> None:
        """Forward and backward."""
        if name == "plain":
            losses = self.head.nll(self.hidden, self.labels)
        else:
            losses = BACKENDS[name].token_nll(self.hidden, self.labels, self.head)
        torch.autograd.grad((self.weights * losses).sum(), self.hidden)

    def seconds(self, name: str, device: str = "cpu", runs: int = 1) -> list[float]:
        """Of each run."""
        watch = Watch(device)
        watch.mark()
        for _ in range(runs):
            self.run(name)
            watch.mark()
        return watch.steps()


def against_plain(size: str, seconds: float) -> list[Line]:
    """Every backend that passes its self-test; a reason on stderr for each that does not."""
    names, reasons = usable(Case((2, 16, 16)).head)
    for reason in reasons:
        sys.stderr.write(f"{reason}\n")
    lines = []
    for shape in SHAPES[size]:
        inputs = Case(shape)
        turns = {name: partial(inputs.seconds, name) for name in ("plain", *names)}
        for turn in turns.values():
            turn()
        times = take_turns(turns, seconds / len(SHAPES[size]))
        title = f"{shape[0]} tokens x {shape[1]} words"
        key = ",".join(map(str, shape))
        peaks = {name: peaks_in_children("loss_backends", name, key) for name in turns}
        for name in names:
            found: Ratio = ratio(times[name], times["plain"])
            lines.append(Line("backends", f"{name} time / plain, {title}", found))
            note = f"{mebibytes(peaks[name])} and {mebibytes(peaks['plain'])} MiB"
            memory = peak_ratio(peaks[name], peaks["plain"])
            lines.append(Line("backends", f"{name} memory / plain, {title}", memory, note=note))
    return lines


def usable(head: Head) -> tuple[list[str], list[str]]:
    """Names of the backends that may be used for a head, and what is wrong with the others."""
    refused = {name: refusal(backend, head) for name, backend in BACKENDS.items()}
    names = [name for name, reason in refused.items() if reason is None]
    return names, [f"{name} is left out: {why}" for name, why in refused.items() if why is not None]


def case(name: str, shape: str) -> Callable[[], object]:
    """What a process runs whose peak memory is measured."""
    Case((2, 16, 16)).run(name)  # loads what is loaded at first use
    inputs = Case([int(number) for number in shape.split(",")])
    return partial(inputs.run, name)
