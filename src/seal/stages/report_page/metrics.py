"""What a metric's name says: how to show its numbers and which direction is better."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["rate", "number"]
Better = Literal["higher", "lower", "unknown"]

# The first row whose words all occur in the name decides; so the special cases come first.
_DIRECTIONS: tuple[tuple[str, Better], ...] = (
    ("over refusal", "lower"),
    ("overrefusal", "lower"),
    ("benign refusal", "lower"),
    ("harmless refusal", "lower"),
    ("attack success", "lower"),
    ("unsafe kept", "lower"),
    ("unsafe likelier", "lower"),
    ("unsafe recall", "higher"),
    ("safety margin", "higher"),
    ("harmful nll", "unknown"),
    ("unsafe nll", "unknown"),
    ("nll", "lower"),
    ("perplexity", "lower"),
    ("refusal", "higher"),
    ("win rate", "higher"),
    ("accuracy", "higher"),
    ("auroc", "higher"),
    ("average precision", "higher"),
)
_PER_CENT = "\u00a0%"
_SHARES = frozenset({"rate", "fraction", "share", "accuracy"})
_PROMPT_KINDS = frozenset({"benign", "harmless", "harmful", "unsafe"})
_SPELLINGS = (
    ("nll", "NLL"),
    ("auroc", "AUROC"),
    ("heldout", "held-out"),
    ("unsafe likelier rate", "rate of unsafe answers that are likelier than safe ones"),
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as the page speaks of it.

    Attributes:
        name: Its key in report.json, e.g. "harmful/refusal_rate".
        label: Its name in running text, e.g. "refusal rate (harmful)".
        unit: "rate" is shown in per cent, "number" with three decimals.
        better: Which direction is better, as far as the name tells.
    """

    name: str
    label: str
    unit: Unit
    better: Better

    @property
    def words(self) -> frozenset[str]:
        """The words that decide: the metric's own, and from its task which kind of prompts."""
        return _words(self.name)

    def show(self, value: float) -> str:
        """A value of this metric, with its unit."""
        return show(value, self.unit)


def describe(name: str) -> Metric:
    """The metric of a name; a task in front of it is set off by "/" or "."."""
    words = _words(name)
    ways: list[Better] = [way for needed, way in _DIRECTIONS if words.issuperset(needed.split())]
    parts = re.split(r"[/.]", name)
    label = parts[-1].replace("over_refusal", "over-refusal").replace("_", " ")
    for plain, proper in _SPELLINGS:
        label = re.sub(rf"\b{plain}\b", proper, label)
    task = " ".join(part for part in parts[:-1] if part)
    label = f"{label} ({task})" if task else label
    return Metric(name, label, "rate" if words & _SHARES else "number", (*ways, "unknown")[0])


def show(value: float, unit: Unit) -> str:
    """A number for the eye: 0.5802 as "58.0 %", 3.9961 as "3.996", 12345.6 as "12,346"."""
    if unit == "rate":
        return f"{100 * value:.1f}{_PER_CENT}"
    return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def show_span(low: float, high: float, unit: Unit) -> str:
    """An interval for the eye: "49.3 to 66.2 %"; the unit is said once."""
    return f"{show(low, unit).removesuffix(_PER_CENT)} to {show(high, unit)}"


def _words(name: str) -> frozenset[str]:
    *task, own = (set(re.findall(r"[a-z]+", part)) for part in re.split(r"[/.]", name.lower()))
    return frozenset(own.union(*task) & (own | _PROMPT_KINDS))
