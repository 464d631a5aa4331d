"""The arms' numbers in report.json: estimates, paired differences, seeds, agreement of judges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from seal import bounds
from seal.artifacts.evaluation import Estimate, Measurement
from seal.metrics import average_seeds, pool_seeds
from seal.paired import agreement, compare_paired, holm, seed_spread
from seal.stages.report_page.compared import ArmResult, Comparison, role_of
from seal.stages.report_page.judged import about_judge, corrected_rates
from seal.stages.report_page.metrics import describe, questions

ALPHA = 0.05  # an adjusted p-value below it counts as a difference
SHARE_OF_GAIN = 0.8  # of what training on all data gained, that an arm is to keep

_REFERENCES = ("base", "all", "random", "oracle")

# Metric -> its measurement with each seed, every number finite.
_Measured = dict[str, dict[int, Measurement]]


def measured_arms(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured on the arms, and how the arms differ.

    Raises:
        ValueError: If two arms share a name, or one metric was measured on different items.
    """
    twice = [name for name, n in Counter(arm.name for arm in comparison.arms).items() if n > 1]
    if twice:
        raise ValueError(f'two arms are named "{twice[0]}"; give each arm a name of its own.')
    apart: list[str] = []
    found = {arm.name: _finite(arm, apart) for arm in comparison.arms}
    arms = {name: _estimates(parts) for name, parts in found.items()}
    ranking = {name: one.model_dump() for name, one in comparison.ranking_quality.items()}
    described = {name: _described(name, comparison) for part in arms.values() for name in part}
    asked = questions({name: one["task"] for name, one in described.items()})
    levels = _levels(list(found), asked)
    for name in ranking:
        described.setdefault(name, _described(name, comparison))
    return {
        "metrics": {name: one | {"question": asked.get(name)} for name, one in described.items()},
        "arms": arms,
        "corrected": corrected_rates(arms, comparison.metric_sources),
        "roles": {name: role_of(name) for name in arms},
        "num_samples": {arm.name: arm.num_samples for arm in comparison.arms},
        "training": {arm.name: _training(arm) for arm in comparison.arms if arm.num_steps},
        "arms_per_seed": {name: _per_seed(parts) for name, parts in found.items()},
        "seed_range": {name: _range(parts) for name, parts in found.items()},
        "num_seeds": {arm.name: len(arm.measured) for arm in comparison.arms},
        "paired": _paired(found, asked, levels),
        "gains": _gains(found, asked, levels),
        "base_attacked": _base_attacked(found.get("base", {}), asked, levels),
        "levels": levels,
        "agreement": _agreement(found),
        "ranking": ranking,
        "not_finite": apart,
    }


def _training(arm: ArmResult) -> dict[str, int | None]:
    """Steps and tokens of one training of an arm, on average over its seeds."""
    steps, tokens = list(arm.num_steps.values()), list(arm.num_tokens.values())
    return {
        "num_steps": round(sum(steps) / len(steps)),
        "num_tokens": round(sum(tokens) / len(tokens)) if tokens else None,
    }


def _finite(arm: ArmResult, apart: list[str]) -> _Measured:
    """A metric with a value that is no number, with any seed, is set apart: it has no mean."""
    found: _Measured = {}
    for seed, parts in sorted(arm.measured.items()):
        for part in parts:
            found.setdefault(part.metric, {})[seed] = part
    for name, by_seed in list(found.items()):
        bad = [s for s, one in by_seed.items() if not all(map(math.isfinite, one.values.values()))]
        if bad:
            apart += [f"{arm.name}, seed {seed}, {name}" for seed in bad]
            del found[name]
    return found


def _estimates(parts: _Measured) -> dict[str, Any]:
    return {name: pool_seeds(list(by.values())).model_dump() for name, by in parts.items()}


def _per_seed(parts: _Measured) -> dict[str, dict[str, float]]:
    seeds = sorted({seed for by_seed in parts.values() for seed in by_seed})
    return {
        str(seed): {name: _mean(by[seed]) for name, by in parts.items() if seed in by}
        for seed in seeds
    }


def _range(parts: _Measured) -> dict[str, float]:
    """Metric -> highest less lowest over the training seeds, where there are two at least."""
    found = {name: [_mean(part) for part in by.values()] for name, by in parts.items()}
    return {name: max(values) - min(values) for name, values in found.items() if len(values) > 1}


def _mean(part: Measurement) -> float:
    return math.fsum(part.values.values()) / len(part.values)


def _described(name: str, comparison: Comparison) -> dict[str, Any]:
    metric, source = describe(name), comparison.metric_sources.get(name)
    return {
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "purpose": metric.purpose,
        "task": source.task if source else name.rpartition("/")[0],
        **about_judge(source),
        "has_weak_judge": bool(source and source.has_weak_judge),
    }


def _pairs(arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which arm is held against which: candidates against every control, controls against two.

    Candidates are also held against each other, the later against the earlier.
    """
    candidates = [name for name in arms if role_of(name) == "candidate"]
    for name in (name for name in arms if name != "base"):
        for reference in _REFERENCES if name in candidates else ("base", "all"):
            if reference in arms and reference != name:
                yield name, reference
    for earlier, later in combinations(candidates, 2):
        yield later, earlier


def _levels(arms: Sequence[str], asked: Mapping[str, str]) -> dict[str, float]:
    """How often a bound may be wrong, by question; "each" is for what must hold on every metric.

    The best of several candidates is chosen, so that they share the 5 %. A claim that needs all of
    several answers is wrong no more often than each of them; one that needs any of several metrics
    shares it among these, too.
    """
    num = max(1, sum(role_of(name) == "candidate" for name in arms))
    counts = Counter(asked.values())
    of = {name: ALPHA / num / max(1, counts[name]) for name in ("safety", "utility")}
    return {"each": ALPHA / num, **of}


def _gains(
    found: Mapping[str, _Measured], asked: Mapping[str, str], levels: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What each arm kept of the gain of training on all data, for each metric of usefulness."""
    before, whole = found.get("base", {}), found.get("all", {})
    rows = []
    for arm, metrics in found.items():
        if arm in ("base", "all"):
            continue
        for name in metrics:
            sides = (metrics, whole, before)
            is_asked = asked.get(name) == "utility" and all(name in parts for parts in sides)
            if not is_asked or _num_items(before[name]) < 2:  # of one, no spread is known
                continue
            metric = describe(name)
            gain = bounds.gain(
                *(list(parts[name].values()) for parts in sides),
                is_share=metric.unit == "rate",
                is_higher_better=metric.better == "higher",
                alpha=levels["utility"],
                share=SHARE_OF_GAIN,
            )
            rows.append({"arm": arm, "metric": name, **asdict(gain)})
    return rows


def _num_items(by_seed: Mapping[int, Measurement]) -> int:
    return min(len(part.values) for part in by_seed.values())


def _base_attacked(
    base: _Measured, asked: Mapping[str, str], levels: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """For each rate of safety, on how many prompts the model before fails, with its bounds."""
    found = {}
    for name, by_seed in base.items():
        metric = describe(name)
        if asked.get(name) != "safety" or metric.unit != "rate":
            continue
        part = average_seeds(list(by_seed.values()))
        n, total = len(part.values), math.fsum(part.values.values())
        failed = n - total if metric.better == "higher" else total
        low, high = bounds.share_bounds(min(max(failed, 0.0), n), n, levels["each"])
        found[name] = {"value": failed / n, "low": low, "high": high, "n": n}
    return found


def _paired(
    found: Mapping[str, _Measured], asked: Mapping[str, str], levels: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One row per pair of arms and metric that both have.

    Holm's correction is over the rows of one family: the same reference, metrics of the same
    question, and either all candidates or one control.
    """
    rows = []
    families: dict[tuple[str, ...], dict[str, float]] = {}
    for ours, theirs in _pairs(list(found)):
        for name in found[ours]:
            if name in found[theirs]:
                row = _row(ours, theirs, found[ours][name], found[theirs][name], levels)
                family = _family(row, asked)
                families.setdefault(family, {})[f"{ours}\0{name}"] = row["p_value"]
                rows.append(row)
    adjusted = {family: holm(p_values) for family, p_values in families.items()}
    for row in rows:
        own = adjusted[_family(row, asked)]
        row["p_adjusted"] = own[f"{row['arm']}\0{row['metric']}"]
        row["num_in_family"] = len(own)
        row["state"] = _state(row)
        row["shown"] = _shown(row)
    return rows


def _row(
    ours: str,
    theirs: str,
    left: Mapping[int, Measurement],
    right: Mapping[int, Measurement],
    levels: Mapping[str, float],
) -> dict[str, Any]:
    sides = list(left.values()), list(right.values())
    has_seeds = theirs != "base"
    spread = seed_spread(*sides, theirs_trained=has_seeds)
    is_share = describe(sides[0][0].metric).unit == "rate"

    def bound(alpha: float) -> bounds.Bounds:
        return bounds.difference(*sides, is_share=is_share, alpha=alpha, theirs_trained=has_seeds)

    each, together = bound(levels["each"]), bound(levels["safety"])
    return {
        "arm": ours,
        "against": theirs,
        **asdict(compare_paired(*sides)),
        "seed_low": spread.low,
        "seed_high": spread.high,
        "seed_problem": spread.problem,
        "at_least": _known(each.low),
        "at_most": _known(each.high),
        "is_above_0": together.low > 0,
        "is_below_0": together.high < 0,
    }


def _known(bound: float) -> float | None:
    """None where nothing is known, as with one item."""
    return bound if math.isfinite(bound) else None


def _family(row: Mapping[str, Any], asked: Mapping[str, str]) -> tuple[str, ...]:
    role = role_of(row["arm"])
    who = role if role == "candidate" else row["arm"]
    return row["against"], asked.get(row["metric"], ""), who


def _state(row: Mapping[str, Any]) -> str:
    better = describe(row["metric"]).better
    if better == "unknown":
        return "unknown"
    if row["p_adjusted"] >= ALPHA or not row["difference"]:
        return "open"
    return "better" if (row["difference"] > 0) == (better == "higher") else "worse"


def _shown(row: Mapping[str, Any]) -> str:
    """The state, if it holds with other training seeds, too, as far as these were measured."""
    is_shown = row["is_above_0"] if row["difference"] > 0 else row["is_below_0"]
    return row["state"] if row["state"] == "unknown" or is_shown else "open"


def _agreement(found: Mapping[str, _Measured]) -> list[dict[str, Any]]:
    """How far two judges agree where both judged the same items of the same models.

    Two metrics are two judges' word on the same when their own names are the same and their tasks'
    are not, all their values are 0 or 1, and they have the same items. What one of the two judges
    could not judge is left out of kappa, and counted.
    """
    names = dict.fromkeys(name for parts in found.values() for name in parts)
    rows = []
    for first, second in combinations(names, 2):
        if first.rpartition("/")[2] != second.rpartition("/")[2]:
            continue
        verdicts: tuple[dict[str, bool | str | None], ...] = ({}, {})
        for arm, parts in found.items():
            for seed, one, other in _both(parts, first, second):
                for side, part in zip(verdicts, (one, other), strict=True):
                    side.update(_verdicts(part, parts, arm, seed))
        if verdicts[0]:
            rows.append(_agreed(first, second, *verdicts))
    return rows


def _both(
    parts: _Measured, first: str, second: str
) -> Iterator[tuple[int, Measurement, Measurement]]:
    for seed, one in parts.get(first, {}).items():
        other = parts.get(second, {}).get(seed)
        if other is None or other.values.keys() != one.values.keys():
            continue
        if {*one.values.values(), *other.values.values()} <= {0.0, 1.0}:
            yield seed, one, other


def _verdicts(
    part: Measurement, parts: _Measured, arm: str, seed: int
) -> dict[str, bool | str | None]:
    """What a judge said of each item; None of those that its task counts as unjudged."""
    task = part.metric.rpartition("/")[0]
    own = part.metric.rpartition("/")[2]
    names = ("over_refusal_unjudged_rate",) if own.startswith("over_refusal") else ()
    paths = [f"{task}/{name}" if task else name for name in (*names, "unjudged_rate")]
    beside = next((parts[path][seed] for path in paths if seed in parts.get(path, {})), None)
    unjudged = {key for key, value in beside.values.items() if value} if beside else set()
    return {
        f"{arm}\0{seed}\0{key}": None if key in unjudged else bool(value)
        for key, value in part.values.items()
    }


def _agreed(first: str, second: str, *verdicts: Mapping[str, bool | str | None]) -> dict[str, Any]:
    found = agreement(*verdicts)
    kappa: Estimate | None = found.kappa
    return {
        "first": first,
        "second": second,
        "n": found.n,
        "num_judged_by_both": found.both,
        "num_agreed": found.agreed,
        "kappa": kappa.model_dump() if kappa else None,
        "problem": found.problem,
    }
