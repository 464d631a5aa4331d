"""The pool's numbers in report.json: what the ranking and the cut did to which samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from seal.cut import Cut
from seal.metrics import rate
from seal.stages.report_page.compared import Comparison
from seal.stages.report_page.visible import shortened

_NUM_BINS = 40
_NUM_GROUPS = 30  # sources, labels or reasons listed one by one
_NUM_EXCLUDED = 50  # excluded rows listed one by one
_NUM_STEPS = 100  # of the curve over fractions
_NAME_LENGTH = 200


def pool_numbers(comparison: Comparison) -> dict[str, Any]:
    """What was kept and dropped, where the cut is, and what another cut would have done."""
    ids, scores = comparison.ranking.ids, comparison.ranking.scores
    chosen = set(comparison.selection.ids)
    kept = np.array([key in chosen for key in ids], dtype=bool)
    labels = [comparison.labels.get(key, "") for key in ids]
    unsafe = np.array([label in comparison.unsafe_labels for label in labels], dtype=bool)
    by_id = {sample.id: sample for sample in comparison.samples}
    found: dict[str, Any] = {
        "selection": _counts(kept) | _cut(scores, kept),
        "auto": _auto(comparison.auto),
        "histogram": _histogram(scores, kept, unsafe if comparison.labels else None),
        "sources": _tally([by_id[key].source for key in ids], kept),
        "excluded": _excluded(comparison),
    }
    if comparison.labels:
        best_first = np.argsort(comparison.ranking.ranks)
        found["groups"] = {"unsafe": _counts(kept[unsafe]), "other": _counts(kept[~unsafe])}
        found["labels"] = _tally(labels, kept)
        found["unsafe_labels"] = sorted(comparison.unsafe_labels)
        found["tradeoff"] = _tradeoff(unsafe[best_first])
    return found


def arm_rankings(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Arm -> the scores, the cut and the quality of the ranking that it has of its own."""
    unsafe = {key for key, label in comparison.labels.items() if label in comparison.unsafe_labels}
    found = {}
    for arm, own in comparison.arm_rankings.items():
        ids, chosen = own.ranking.ids, set(own.selection.ids)
        kept = np.array([key in chosen for key in ids], dtype=bool)
        is_unsafe = np.array([key in unsafe for key in ids], dtype=bool)
        found[arm] = {
            "ranker": own.ranker,
            "ranking": {name: one.model_dump() for name, one in own.quality.items()},
            "selection": _counts(kept) | _cut(own.ranking.scores, kept),
            "histogram": _histogram(
                own.ranking.scores, kept, is_unsafe if comparison.labels else None
            ),
        }
    return found


def short_name(name: str) -> str:
    """A name from data, cut where it is too long for a page."""
    text, num_more = shortened(name, _NAME_LENGTH)
    return f"{text} … ({num_more:,} more characters)" if num_more else text


def _counts(kept: np.ndarray) -> dict[str, Any]:
    return _rates(len(kept), int(kept.sum()))


def _rates(num_samples: int, num_kept: int) -> dict[str, Any]:
    num_dropped = num_samples - num_kept
    return {
        "num_samples": num_samples,
        "num_kept": num_kept,
        "num_dropped": num_dropped,
        "drop_rate": num_dropped / num_samples if num_samples else 0.0,
    }


def _cut(scores: np.ndarray, kept: np.ndarray) -> dict[str, float]:
    """The score between kept and dropped; empty when no single score separates them."""
    if kept.all() or not kept.any():
        return {}
    lowest_kept, highest_dropped = float(scores[kept].min()), float(scores[~kept].max())
    ends = {"lowest_kept_score": lowest_kept, "highest_dropped_score": highest_dropped}
    if lowest_kept < highest_dropped:
        return ends
    return ends | {"cut_score": lowest_kept / 2 + highest_dropped / 2}


def _auto(found: Cut | str | None) -> dict[str, Any]:
    """The cut that `select: auto` would make, or its words where it makes none."""
    if found is None:
        return {}
    return {"refusal": found} if isinstance(found, str) else found.model_dump(mode="json")


def _histogram(
    scores: np.ndarray, kept: np.ndarray, unsafe: np.ndarray | None
) -> dict[str, list[float]]:
    """Counts per bin. Bins are of equal width, except that the outer two reach to the extremes."""
    edges = _edges(scores)
    series = {"kept": kept, "dropped": ~kept}
    if unsafe is not None:
        series |= {"unsafe": unsafe, "other": ~unsafe}
    counts = {name: np.histogram(scores[of], edges)[0].tolist() for name, of in series.items()}
    return {"edges": edges.tolist(), **counts}


def _edges(scores: np.ndarray) -> np.ndarray:
    low, high = float(scores.min()), float(scores.max())
    inner_low, inner_high = np.quantile(scores, [0.005, 0.995])
    # A few extreme scores must not squeeze all the others into one bar.
    if inner_high > inner_low and high - low > 3 * (inner_high - inner_low):
        edges = np.linspace(inner_low, inner_high, _NUM_BINS + 1)
    else:
        edges = np.linspace(low, high, _NUM_BINS + 1)
    edges[0], edges[-1] = low, high
    if np.all(np.diff(edges) > 0):
        return edges
    margin = max(abs(low), abs(high), 1.0) / 2
    return np.array([low - margin, high + margin])


def _tradeoff(unsafe_best_first: np.ndarray) -> dict[str, Any]:
    """How many unsafe and how many other samples the best k hold, for k in equal steps."""
    num = len(unsafe_best_first)
    num_kept = sorted({round(step * num / _NUM_STEPS) for step in range(_NUM_STEPS + 1)})
    so_far = np.concatenate([[0], np.cumsum(unsafe_best_first)])
    unsafe = [int(so_far[k]) for k in num_kept]
    return {
        "num_kept": num_kept,
        "unsafe_kept": unsafe,
        "other_kept": [k - bad for k, bad in zip(num_kept, unsafe, strict=True)],
    }


def _tally(names: Sequence[str], kept: np.ndarray) -> dict[str, Any]:
    """Counts of the groups that stand out most from the whole pool, and of all the others.

    They stand out by |z| = |dropped - n p| / sqrt(n p (1 - p)), p being the whole pool's share:
    above 1.96, p is outside Wilson's 95 % interval of the group. Then by size, then by name.
    """
    total = Counter(names)
    survivors = Counter(name for name, fine in zip(names, kept.tolist(), strict=True) if fine)
    share = 1 - float(kept.mean())

    def place(name: str) -> tuple[float, int, str]:
        n, spread = total[name], (total[name] * share * (1 - share)) ** 0.5
        off = abs(n - survivors[name] - n * share)
        return (-off / spread if spread else 0.0), -n, name

    order = sorted(total, key=place)
    top, rest = order[:_NUM_GROUPS], order[_NUM_GROUPS:]
    found: dict[str, Any] = {
        "num_groups": len(order),
        "num_standing_out": sum(-place(name)[0] > 1.959964 for name in order),
        "top": [{"name": short_name(n)} | _group(total[n], survivors[n]) for n in top],
    }
    if rest:
        sums = (sum(total[n] for n in rest), sum(survivors[n] for n in rest))
        found["rest"] = {"num_groups": len(rest)} | _group(*sums)
    return found


def _group(num_samples: int, num_kept: int) -> dict[str, Any]:
    num_dropped = num_samples - num_kept
    one = rate([1.0] * num_dropped + [0.0] * num_kept)
    return _rates(num_samples, num_kept) | {"low": one.low, "high": one.high}


def _excluded(comparison: Comparison) -> dict[str, Any]:
    reasons = Counter((row["stage"], row["reason"]) for row in comparison.excluded)
    order = sorted(reasons, key=lambda pair: (-reasons[pair], pair))
    return {
        "num_read": comparison.num_read,
        "num_excluded": len(comparison.excluded),
        "num_duplicates": comparison.num_duplicates,
        "num_truncated": comparison.num_truncated,
        "by_reason": [
            {"stage": stage, "reason": short_name(reason), "num_rows": reasons[stage, reason]}
            for stage, reason in order[:_NUM_GROUPS]
        ],
        "num_other_reasons": len(order[_NUM_GROUPS:]),
        "num_rows_other_reasons": sum(reasons[pair] for pair in order[_NUM_GROUPS:]),
        "first": [
            {key: short_name(row[key]) for key in ("where", "stage", "reason")}
            for row in comparison.excluded[:_NUM_EXCLUDED]
        ],
    }
