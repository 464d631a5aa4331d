"""Training and ranking with a real vocabulary, beside loops that leave nothing to leave out.

Most of a small model's logits are never needed: those of prompts and padding. The loops here make
logits of response tokens alone, on the same rows in the same passes.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.loops import loop_of
from benchmarks.table import Bar, Line
from benchmarks.timing import Watch, ratio, take_turns
from benchmarks.with_seal import visits_of
from benchmarks.workload import SIZES, Work, make_model, make_work

_STEPS = 3
_LOOPS = ("train", "seal", "penalty", "lean", "lean_twice", "trl")
_BAR = Bar(1.10)


def against_lean_loop(size: str, seconds: float, path: str = "") -> list[Line]:
    """The train stage's trainer and SEAL, both algorithms; the first step, set-up, is left out.

    Args:
        size: "tiny", or anything else for a vocabulary of 49,152.
        seconds: Of timing.
        path: A model's folder, loaded in float32; "" makes a random one.
    """
    chosen = SIZES["tiny" if size == "tiny" else "vocabulary"]
    if path:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        config: LlamaConfig = model.config  # pyright: ignore
        chosen = replace(chosen, config=config)
    else:
        model = make_model(chosen)
    work = make_work(chosen, _STEPS)
    turns = {name: partial(_block, name, work, model) for name in _LOOPS}
    times = take_turns(turns, seconds)
    note = f"{chosen.config.vocab_size} words"
    return [
        Line("vocabulary", what, ratio(times[one], times[other]), bar, note=note)
        for what, one, other, bar in (
            ("train step / lean loop's", "train", "lean", _BAR),
            ("SEAL step / lean loop's", "seal", "lean", _BAR),
            ("penalty step / lean loop's of both levels", "penalty", "lean_twice", _BAR),
            ("TRL's own step / lean loop's", "trl", "lean", None),
        )
    ]


def _block(name: str, work: Work, model: nn.Module) -> list[float]:
    watch = Watch()
    loop_of(name)(copy.deepcopy(model), work, watch, visits_of(work))
    return watch.steps()
