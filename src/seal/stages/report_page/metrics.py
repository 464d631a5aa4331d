"""What a metric's name says: how to show its numbers and which direction is better."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["rate", "number"]
Better = Literal["higher", "lower", "unknown"]
Purpose = Literal["attack", "refusal", "likelihood", "utility", "over_refusal", "unjudged", "other"]

# The first row whose words all occur in the name decides; so the special cases come first.
_MEANINGS: tuple[tuple[str, Better, Purpose], ...] = (
    ("unjudged", "lower", "unjudged"),
    ("partly", "unknown", "other"),
    ("over refusal", "lower", "over_refusal"),
    ("overrefusal", "lower", "over_refusal"),
    ("benign refusal", "lower", "over_refusal"),
    ("harmless refusal", "lower", "over_refusal"),
    ("attack success", "lower", "attack"),
    ("unsafe kept", "lower", "other"),
    ("unsafe likelier", "lower", "likelihood"),
    ("unsafe recall", "higher", "other"),
    ("safety margin", "higher", "other"),
    ("harmful nll", "unknown", "other"),
    ("unsafe nll", "unknown", "other"),
    ("nll", "lower", "utility"),
    ("perplexity", "lower", "utility"),
    ("refusal", "higher", "refusal"),
    ("win rate", "higher", "utility"),
    ("accuracy", "higher", "utility"),
    ("auroc", "higher", "other"),
    ("average precision", "higher", "other"),
    ("harmfulness score", "lower", "other"),
    ("harmfulness", "lower", "attack"),
    ("harmful rate", "lower", "attack"),
)
_NO_MEANING: tuple[Better, Purpose] = ("unknown", "other")
_PER_CENT = "\u00a0%"
_POINTS = "\u00a0points"
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
        purpose: What it speaks of, as far as the name tells.
    """

    name: str
    label: str
    unit: Unit
    better: Better
    purpose: Purpose

    def show(self, value: float) -> str:
        """A value of this metric, with its unit."""
        return show(value, self.unit)


def describe(name: str) -> Metric:
    """The metric of a name; a task in front of it is set off by "/" or "."."""
    words = _words(name)
    meanings = [row[1:] for row in _MEANINGS if words.issuperset(row[0].split())]
    better, purpose = meanings[0] if meanings else _NO_MEANING
    parts = re.split(r"[/.]", name)
    label = parts[-1].replace("over_refusal", "over-refusal").replace("_", " ")
    for plain, proper in _SPELLINGS:
        label = re.sub(rf"\b{plain}\b", proper, label)
    task = " ".join(part for part in parts[:-1] if part)
    label = f"{label} ({task})" if task else label
    # StrongREJECT's score is between 0 and 1, and its margin a rate's.
    is_share = bool(words & _SHARES) or parts[-1] == "harmfulness"
    return Metric(name, label, "rate" if is_share else "number", better, purpose)


def questions(task_of: Mapping[str, str]) -> dict[str, str]:
    """Metric -> the question of the decision that it answers; none for those that decide nothing.

    Safety: of every task that judges answers to harmful prompts one metric, attack success before
    refusals; likelihoods only where no task does. Utility, over-refusal: all such metrics.

    Args:
        task_of: Metric -> its task.
    """
    of: dict[str, list[str]] = {}
    for name in task_of:
        of.setdefault(describe(name).purpose, []).append(name)
    attacks = of.get("attack", [])
    attacked = {task_of[name] for name in attacks}
    answers = attacks + [name for name in of.get("refusal", []) if task_of[name] not in attacked]
    return {
        **dict.fromkeys(answers or of.get("likelihood", []), "safety"),
        **dict.fromkeys(of.get("utility", []), "utility"),
        **dict.fromkeys(of.get("over_refusal", []), "over_refusal"),
    }


def show(value: float, unit: Unit) -> str:
    """A number for the eye: 0.5802 as "58.0 %", 3.9961 as "3.996", 12345.6 as "12,346"."""
    if unit == "rate":
        return f"{100 * value:.1f}{_PER_CENT}"
    return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def show_span(low: float, high: float, unit: Unit) -> str:
    """An interval for the eye: "49.3 to 66.2 %"; the unit is said once."""
    return f"{show(low, unit).removesuffix(_PER_CENT)} to {show(high, unit)}"


def show_difference(value: float, unit: Unit) -> str:
    """A difference for the eye, always with its sign: "+2.8 points"; with a real minus."""
    text = f"{100 * value:+.1f}\u00a0points" if unit == "rate" else f"{value:+,.3f}"
    return text.replace("-", "\u2212")


def show_differences(low: float, high: float, unit: Unit) -> str:
    """The interval of a difference: "+0.4 to +6.0 points"; the unit is said once."""
    return f"{show_difference(low, unit).removesuffix(_POINTS)} to {show_difference(high, unit)}"


def show_p(value: float) -> str:
    """A probability as it follows a "p": "= 0.043", "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"


def _words(name: str) -> frozenset[str]:
    *task, own = (set(re.findall(r"[a-z]+", part)) for part in re.split(r"[/.]", name.lower()))
    return frozenset(own.union(*task) & (own | _PROMPT_KINDS))
