"""Every benchmark that needs no GPU: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.table import HEADER, Line, check_names, markdown, surroundings
from benchmarks.timing import peak_bytes

# Name -> module, function of (size, seconds of timing), what is measured.
PARTS = {
    "trl": ("steps", "against_trl", "a step of SEAL beside a step of TRL's SFTTrainer"),
    "penalty": ("steps", "against_memory_efficient", "Algorithm 1 beside Algorithm 2"),
    "published": ("steps", "against_published", "the published loop beside SEAL"),
    "vocabulary": ("vocabulary", "against_lean_loop", "train and rank seal with 49,152 words"),
    "scoring": ("scoring", "against_bare_loop", "one-pass scoring beside a bare forward loop"),
    "backends": ("loss_backends", "against_plain", "each loss backend beside the plain loss"),
    "scaling": ("scaling", "flatness", "1,000 to 100,000 samples through ranking, without a model"),
    "selector": ("scaling", "selector", "the selector of 10 million samples"),
}
ELSEWHERE = """\
elsewhere:
  python -m benchmarks.gpu           Llama-3-8B and -1B on a GPU: tokens/s, MFU, peak memory
  python benchmarks/large_pool.py    reading, tokenising and selecting from large pools
"""


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts that are named, and print one table; as a child, one number."""
    parser = _parser()
    given = parser.parse_args(words)
    check_names(parser, given.parts, PARTS)
    torch.set_num_threads(1)
    if given.peak:
        part, name, size = given.peak
        case: Callable = importlib.import_module(f"benchmarks.{part}").case
        sys.stdout.write(f"\n{peak_bytes(case(name, size))}\n")
        return
    if given.child:
        part, function, *rest = given.child
        answer = getattr(importlib.import_module(f"benchmarks.{part}"), function)(*rest)
        sys.stdout.write(f"\n{json.dumps(answer)}\n")
        return
    lines: list[Line] = []
    for name in given.parts or PARTS:
        module, function, what = PARTS[name]
        if name == "scaling" and given.million:
            function = "million"
        sys.stderr.write(f"{name}: {what} ...\n")
        run = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        if name == "vocabulary" and given.model:
            run = partial(run, path=given.model)
        lines += run(given.size, given.seconds)
    around = surroundings("cpu")
    _write(lines, around, given.json)


def _write(lines: Sequence[Line], around: dict[str, str], path: Path | None) -> None:
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in around.items()) + "\n\n")
    sys.stdout.write(markdown(HEADER, [line.cells() for line in lines]))
    if path is not None:
        content = {"surroundings": around, "lines": [line.record() for line in lines]}
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:11}{what}" for name, (_, _, what) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed and memory of seal beside the alternatives, on the CPU.\n\nparts:\n"
        + parts,
        epilog=ELSEWHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--size", choices=["tiny", "small"], default="small", help="of the model")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, for each part")
    parser.add_argument("--model", help="vocabulary: a model's folder, instead of a random one")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument(
        "--million", action="store_true", help="scaling: also a million samples; takes long"
    )
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
