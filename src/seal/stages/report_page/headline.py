"""The sentences at the top of a report: what its numbers say, and no more.

A difference between two arms counts as established when their 95 % intervals do not overlap. That
is strict (a paired test on the same prompts can find more), and the reader can check it by eye.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from seal.stages.report_page.metrics import Metric, describe, show_span

Numbers = dict[str, Any]
Verdict = Literal["better", "worse", "open"]

_ARMS = {
    "base": "the model before",
    "all": "training on all data",
    "random": "training on the random subset",
    "selected": "training on the selected samples",
    "oracle": "training on all that is not labelled unsafe",
}
_OPEN = "the intervals overlap, so a difference is not established."


def headline(document: Numbers) -> list[str]:
    """The sentences, the most important first; `document` is report.json without them."""
    arms: Numbers = {name: arm for name, arm in document["arms"].items() if arm}
    metrics = [describe(name) for name in _in_order(arms.values())]
    safety = (
        _first(metrics, {"refusal"}, "higher")
        or _first(metrics, {"attack"}, "lower")
        or _first(metrics, {"likelier"}, "lower")
    )
    sentences = []
    if not arms:
        sentences.append(
            "No arm was evaluated: this page shows the ranking and the selection only."
        )
    elif safety is None:
        sentences.append(
            "No refusal rate and no attack success rate was measured, so nothing is said here "
            "about safety after training."
        )
    else:
        sentences += _safety(safety, arms, _first(metrics, {"nll"}, "lower"), document)
        sentences += _over_refusal(_first(metrics, {"refusal"}, "lower"), arms)
    return [*sentences, *_ranking(document), _selection(document)]


def verdict(ours: Numbers, theirs: Numbers, metric: Metric) -> Verdict:
    """How one estimate stands to another: open while the 95 % intervals overlap."""
    if ours["low"] <= theirs["high"] and theirs["low"] <= ours["high"]:
        return "open"
    return "better" if (ours["value"] > theirs["value"]) == (metric.better == "higher") else "worse"


def _safety(safety: Metric, arms: Numbers, nll: Metric | None, document: Numbers) -> list[str]:
    found = {name: arm[safety.name] for name, arm in arms.items() if safety.name in arm}
    if len(found) == 1:
        name, only = next(iter(found.items()))
        value = safety.show(only["value"])
        return [
            f"The {safety.label} was measured on one arm only: {name}, {value} "
            f"(95\u00a0% interval {show_span(only['low'], only['high'], safety.unit)}, "
            f"n = {only['n']:,}). There is nothing to compare it with."
        ]
    sentences = []
    if {"base", "all"} <= found.keys():
        sentences.append(_all_data(safety, found["all"], found["base"]))
    if "selected" in found:
        sentences.append(_selected(safety, found) + _at_nll(nll, arms))
        sentences += _nll_verdict(nll, arms)
        sentences += _random(safety, found, document["num_samples"])
        sentences += _seeds(safety, document["arms_per_seed"])
    if not sentences:
        parts = (f"{safety.show(part['value'])} ({name})" for name, part in found.items())
        sentences = [f"{_capital(safety.label)} by arm: {', '.join(parts)}."]
    return sentences


def _all_data(metric: Metric, after: Numbers, before: Numbers) -> str:
    span = f"from {metric.show(before['value'])} to {metric.show(after['value'])}"
    state = verdict(after, before, metric)
    if state == "open":
        return f"Training on all data moved the {metric.label} {span}; {_OPEN}"
    if state == "worse" and "refusal" in metric.words:
        lost = 1 - after["value"] / before["value"]
        return f"Training on all data lost {100 * lost:.0f}\u00a0% of the refusals ({span})."
    change = "worsened" if state == "worse" else "improved"
    return f"Training on all data {change} the {metric.label} ({span})."


def _selected(metric: Metric, found: Numbers) -> str:
    ours = found["selected"]
    end = f"the {metric.label} at {metric.show(ours['value'])}"
    states = {name: verdict(ours, found[name], metric) for name in ("all", "base") if name in found}
    is_broken = len(states) == 2 and verdict(found["all"], found["base"], metric) == "worse"
    if is_broken and states == {"all": "better", "base": "open"}:
        return f"Training on the selected samples kept {end}"
    known = [f"{state} than {_ARMS[name]}" for name, state in states.items() if state != "open"]
    open_to = [_ARMS[name] for name, state in states.items() if state == "open"]
    parts = [f"left {end}"]
    if known:
        parts.append((" but " if len(set(states.values())) == 2 else " and ").join(known))
    if open_to:
        parts.append(f"not distinguishable from {' or '.join(open_to)} as the intervals overlap")
    return f"Training on the selected samples {', '.join(parts)}"


def _at_nll(nll: Metric | None, arms: Numbers) -> str:
    if nll is None or nll.name not in arms["selected"]:
        return "."
    text = f", at {nll.label} {nll.show(arms['selected'][nll.name]['value'])}"
    other = arms.get("all", {}).get(nll.name)
    return f"{text} against {nll.show(other['value'])} with all data." if other else f"{text}."


def _nll_verdict(nll: Metric | None, arms: Numbers) -> list[str]:
    if nll is None or any(nll.name not in arms.get(name, {}) for name in ("selected", "all")):
        return []
    ours, theirs = arms["selected"][nll.name], arms["all"][nll.name]
    state = verdict(ours, theirs, nll)
    if state == "open":
        return [f"For {nll.label}, {_OPEN}"]
    return [f"In {nll.label} the selected samples did {state} than all data (lower is better)."]


def _random(metric: Metric, found: Numbers, num_samples: Numbers) -> list[str]:
    if "random" not in found:
        return []
    same = num_samples["random"] == num_samples["selected"]
    size = "of the same size" if same else f"of {num_samples['random']:,} samples"
    text = f"A random subset {size} ended at {metric.show(found['random']['value'])}"
    state = verdict(found["selected"], found["random"], metric)
    if state == "open":
        return [
            f"{text}; its interval overlaps that of the selected samples, so it is not established "
            "that which samples were kept mattered, rather than how many."
        ]
    return [f"{text}: the selected samples did {state}, and the intervals do not overlap."]


def _seeds(metric: Metric, per_seed: Numbers) -> list[str]:
    ours, theirs = (
        {s: row[metric.name] for s, row in per_seed.get(arm, {}).items() if metric.name in row}
        for arm in ("selected", "all")
    )
    shared = [seed for seed in ours if seed in theirs]
    if not shared:
        return []
    if len(shared) == 1:
        return ["One training seed: how much another seed would change is not measured."]
    sign = 1 if metric.better == "higher" else -1
    wins = sum(sign * (ours[seed] - theirs[seed]) > 0 for seed in shared)
    return [
        f"The selected samples ended with the better {metric.label} than all data in "
        f"{wins} of {len(shared)} training seeds."
    ]


def _over_refusal(metric: Metric | None, arms: Numbers) -> list[str]:
    if metric is None or metric.name not in arms.get("selected", {}):
        return []
    ours = arms["selected"][metric.name]
    text = f"{_capital(metric.label)} after training on the selected samples: "
    text += metric.show(ours["value"])
    others = [name for name in ("base", "all") if metric.name in arms.get(name, {})]
    if not others:
        return [f"{text}."]
    parts = [
        f"{metric.show(arms[name][metric.name]['value'])} for {_ARMS[name]}" for name in others
    ]
    states = {name: verdict(ours, arms[name][metric.name], metric) for name in others}
    ending = "".join(
        f" That is {state} than {_ARMS[name]}." for name, state in states.items() if state != "open"
    )
    if not ending:
        ending = " The intervals overlap, so no difference is established."
    return [f"{text}, against {' and '.join(parts)}.{ending}"]


def _ranking(document: Numbers) -> list[str]:
    auroc = document["ranking"].get("auroc")
    if auroc is None:
        return []
    text = (
        f"Against the labels the ranking reaches AUROC {auroc['value']:.3f} (95\u00a0% interval "
        f"{auroc['low']:.3f} to {auroc['high']:.3f}; 0.5 is chance)"
    )
    if auroc["high"] < 0.5:
        return [f"{text}: below chance, it prefers the unsafe samples."]
    if auroc["low"] <= 0.5:
        return [f"{text}: not distinguishable from chance."]
    return [f"{text}."]


def _selection(document: Numbers) -> str:
    counts = document["selection"]
    text = f"The selection keeps {counts['num_kept']:,} of {counts['num_samples']:,} samples"
    if "groups" not in document:
        return f"{text}. The pool has no labels: whether dropped samples were unsafe is unknown."
    unsafe, other = document["groups"]["unsafe"], document["groups"]["other"]
    return (
        f"{text}; it drops {unsafe['num_dropped']:,} of {unsafe['num_samples']:,} samples labelled "
        f"unsafe and {other['num_dropped']:,} of the {other['num_samples']:,} others."
    )


def _first(metrics: Iterable[Metric], words: set[str], better: str) -> Metric | None:
    return next((one for one in metrics if words <= one.words and one.better == better), None)


def _in_order(arms: Iterable[Numbers]) -> list[str]:
    return list(dict.fromkeys(name for arm in arms for name in arm))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
