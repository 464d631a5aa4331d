"""What a benchmark says: lines with an interval and a bar, as a table and as JSON."""

from __future__ import annotations

import platform
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Ratio

_PACKAGES = ("torch", "transformers", "peft", "trl")


@dataclass(frozen=True, slots=True)
class Bar:
    """What a value must keep to.

    Attributes:
        limit: The value that is just good enough.
        at_most: Whether less is better.
    """

    limit: float
    at_most: bool = True

    def is_met(self, value: float) -> bool:
        """By the value itself, whatever its interval."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        """As in the table."""
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Line:
    """One number.

    Attributes:
        part: Whose.
        what: What it is, with what it is a ratio of.
        found: The value.
        bar: None where nothing is promised.
        unit: Empty for a ratio.
        note: What else there is to know.
    """

    part: str
    what: str
    found: Ratio
    bar: Bar | None = None
    unit: str = ""
    note: str = ""

    def cells(self) -> list[str]:
        """As in the table."""
        value, low, high, rounds = self.found
        interval = "" if low is None else f" [{_short(low)}, {_short(high or 0.0)}]"
        verdict = ""
        if self.bar is not None:
            verdict = f"{self.bar}: {'met' if self.bar.is_met(value) else 'MISSED'}"
        unit = f" {self.unit}" if self.unit else ""
        return [
            self.part,
            self.what,
            f"{_short(value)}{interval}{unit}",
            verdict,
            str(rounds),
            self.note,
        ]

    def record(self) -> dict[str, Any]:
        """As in JSON."""
        met = None if self.bar is None else self.bar.is_met(self.found.value)
        return {**asdict(self), "found": self.found._asdict(), "met": met}


HEADER = ["part", "what", "median [95 %]", "bar", "n", "note"]


def single(value: float) -> Ratio:
    """A value that was measured once."""
    return Ratio(value, None, None, 1)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal, too."""
    every = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    every.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in every
    ]
    return "\n".join(lines) + "\n"


def check_names(parser: ArgumentParser, given: Iterable[str], known: Iterable[str]) -> None:
    """End the process with a message if a part is asked for that there is not."""
    unknown = [name for name in given if name not in known]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")


def surroundings(device: str) -> dict[str, str]:
    """What the numbers hold for: commit, machine, versions."""
    found = {
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit() -> str:
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        changed = " with changes" if git("status", "--porcelain", "--", "..") else ""
        return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
    except FileNotFoundError:  # no git here
        return "unknown"


def _processor() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {len(names)} cores, one thread used"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
