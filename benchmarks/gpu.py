"""Llama-3-8B and Llama-3.2-1B with random weights on a GPU: `python -m benchmarks.gpu --size 8b`.

Prints one Markdown table: tokens/s, share of the device's arithmetic (MFU), time of a step and peak
memory, each with its floor. torch, transformers and peft are enough to run it; what needs more is
left out by name. Each part is a process of its own, so that its memory is its own and one that
fails stops no other. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.flops import Passes, peak_flops
from benchmarks.gpu_report import BACKENDS, PARTS, Part, report
from benchmarks.loops import ROWS_OF_A_PASS, loop_of
from benchmarks.table import check_names, surroundings
from benchmarks.timing import Watch, last_line_of, peak_bytes
from benchmarks.workload import SIZES, Row, Size, Work, make_model, make_work

MOST_STEPS = 40
WARM_UP = 2  # further steps that are not counted: the allocator and autotuners settle in them
_NEEDED = {  # what else the parts need that run seal's own code, and TRL's
    "seal": ("pydantic", "jaxtyping", "pyarrow", "yaml", "jinja2"),
    "trl": ("trl", "datasets"),
}
_ADVICE = (
    "`pip install -e .` brings all of it. For a machine without a network: pip install --target "
    "more PACKAGES elsewhere, and PYTHONPATH=more here."
)


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts and print the table; as a child, one part's numbers as JSON."""
    parser = _parser()
    given = parser.parse_args(words)
    check_names(parser, given.parts, [*PARTS, BACKENDS])
    if given.device == "cpu":
        torch.set_num_threads(1)
    else:  # TRL's trainer would take all there are
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    if given.child:
        answer = _guarded(given.child, given.size, given.device, given.seconds)
        sys.stdout.write(f"\n{json.dumps(answer)}\n")
        return
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device. To see it run: --device cpu --size tiny")
    around = surroundings(given.device)
    peak = given.peak_tflops * 1e12 if given.peak_tflops else peak_flops(around["device"])
    _say(missing_note())
    found: dict[str, dict[str, Any]] = {}
    for name, each in _measured(given):
        found[name] = each
        _say(f"{json.dumps({name: each})}\n")  # not lost, should this be ended from outside
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in around.items()) + "\n\n")
    sys.stdout.write(report(found, SIZES[given.size], peak, _is_h200_8b(around, given.size)))
    if given.json is not None:
        content = {"surroundings": around, "peak_flops": peak, "parts": found}
        given.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def missing_note() -> str:
    """What is not installed, what that leaves out, and the way out; empty if nothing is missing."""
    gone = {need: _absent(need) for need in _NEEDED}
    if not any(gone.values()):
        return ""
    what = [
        f"without {', '.join(names)} no part with {need}" for need, names in gone.items() if names
    ]
    return f"Left out, as not all is installed here: {'; '.join(what)}. {_ADVICE}\n"


def run_part(part: Part, size: Size, device: str, seconds: float) -> dict[str, Any]:
    """Seconds of each step, what passes through the model in it, and peak memory."""
    work, watch = make_work(size, MOST_STEPS), Watch(device, steps=MOST_STEPS, seconds=seconds)
    loop = loop_of(part.loop)

    def run() -> None:
        model = make_model(size, device)
        part.prepare(model)
        loop(model, work, watch, work.visits())

    peak = peak_bytes(run, device)
    steps = watch.steps()
    rows, passes = what_passes(part.loop, work)
    return {
        "steps": steps[min(WARM_UP, len(steps) - 1) :],
        "rows": len(rows),
        "tokens": _tokens(rows),
        "passes": passes._asdict(),
        "peak_bytes": peak,
    }


def what_passes(loop: str, work: Work) -> tuple[list[Row], Passes]:
    """The rows that a step gets done, and what passes through the model for it at the least.

    For SEAL these are the pool's: it takes as many safe rows besides.
    """
    visit = work.visits()[0]
    pool, every = visit.pool, visit.pool + visit.safe
    if loop in ("forward", "scoring"):
        rows = work.pool[:ROWS_OF_A_PASS]
        return rows, Passes(forward=_tokens(rows), forward_losses=_losses(rows))
    if loop in ("plain", "trl", "trl_checkpointed"):
        return every, Passes(trained=_tokens(every), trained_losses=_losses(every))
    twice = every + pool if loop == "penalty" else every
    return pool, Passes(trained=_tokens(twice), trained_losses=_losses(twice))


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.input_ids) for row in rows)


def _losses(rows: Sequence[Row]) -> int:
    return sum(int(row.response_mask[1:].sum()) for row in rows)


def run_backends(size: Size, device: str, seconds: float) -> dict[str, Any]:
    """Each loss backend on the model's output layer alone, forward and backward."""
    from benchmarks.loss_backends import Case, usable  # noqa: PLC0415 (needs seal's packages)

    config = size.config
    tokens = 4096 if device == "cuda" else 16
    inputs = Case((tokens, config.vocab_size, config.hidden_size), device, size.dtype)
    names, reasons = usable(inputs.head)
    found = {}
    for name in ("plain", *names):
        inputs.run(name)
        watch = Watch(device, steps=MOST_STEPS, seconds=seconds / (len(names) + 1))
        peak = peak_bytes(lambda name=name: inputs.run(name), device)
        while watch.mark():
            inputs.run(name)
        found[name] = {"steps": watch.steps(), "peak_bytes": peak}
    return {"tokens": tokens, "refused": reasons, "backends": found}


def _measured(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Part after part, until the time is up."""
    end = time.monotonic() + 60 * given.minutes
    for name in given.parts or [*PARTS, BACKENDS]:
        left = end - time.monotonic()
        yield name, _in_child(name, given, left)


def _in_child(name: str, given: argparse.Namespace, left: float) -> dict[str, Any]:
    needs = "seal" if name == BACKENDS else PARTS[name].needs
    absent = _absent(needs) if needs else ()
    if absent:
        return {"failed": f"not installed: {', '.join(absent)}"}
    if left < given.seconds:
        return {"failed": f"skipped: no time left of {given.minutes:g} minutes"}
    words = ["--child", name, "--size", given.size, "--device", given.device]
    try:
        line = last_line_of("benchmarks.gpu", *words, "--seconds", str(given.seconds), timeout=left)
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped when the {given.minutes:g} minutes were up"}
    except RuntimeError as error:
        return {"failed": str(error)}
    return json.loads(line)


def _guarded(name: str, size: str, device: str, seconds: float) -> dict[str, Any]:
    try:
        if name == BACKENDS:
            return run_backends(SIZES[size], device, seconds)
        return run_part(PARTS[name], SIZES[size], device, seconds)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except ImportError as error:
        return {"failed": f"not installed: {error}"}


def _absent(need: str) -> tuple[str, ...]:
    return tuple(name for name in _NEEDED[need] if importlib.util.find_spec(name) is None)


def _is_h200_8b(around: Mapping[str, str], size: str) -> bool:
    return "H200" in around["device"] and size == "8b"


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, {BACKENDS}"
    )
    parser.add_argument("--size", choices=list(SIZES), default="8b", help="of the model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing, for each part")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument(
        "--peak-tflops", type=float, help="of the device, dense bf16, where its name does not say"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
