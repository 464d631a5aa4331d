"""Report a comparison: one static page for people and one JSON file for machines.

`report.json` holds every number and every text of `index.html`; the page is a function of it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seal.artifacts.evaluation import Estimate
from seal.artifacts.ranking import Ranking
from seal.artifacts.selection import Selection
from seal.data.sample import Message, Sample
from seal.stages.report_page.headline import headline
from seal.stages.report_page.metrics import describe
from seal.stages.report_page.page import render
from seal.stages.report_page.visible import plain_json, shortened

_NUM_BINS = 40
_NUM_ENDS = 20  # samples shown at the top and at the bottom of the ranking
_NUM_AT_CUT = 10  # samples shown on either side of the cut
_NUM_GROUPS = 30  # sources, labels or reasons listed one by one
_NUM_EXCLUDED = 50  # excluded rows listed one by one
_TEXT_LENGTH = 600
_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True, eq=False)
class ArmResult:
    """What was measured on one model.

    Attributes:
        name: "base" (the model before), "all" (trained on all data), "random" (trained on a random
            subset of the size of the selection), "selected", or "oracle" (trained on all that is
            not labelled unsafe).
        num_samples: How many samples it was trained on; 0 for the base.
        metrics: Metric -> estimate.
        per_seed: Training seed -> metric -> value.
    """

    name: str
    num_samples: int
    metrics: dict[str, Estimate]
    per_seed: dict[int, dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Everything a report is about: a ranking, a selection and the models trained with them.

    Attributes:
        title: The page's title, in the user's words.
        ranker: The method that ranked, e.g. "seal".
        arms: The models side by side; their names are distinct.
        ranking: The scores of the pool; higher = keep.
        selection: The kept samples.
        samples: The ranked pool, in any order.
        labels: Sample id -> label; empty when the pool has none.
        unsafe_labels: Which of the labels count as unsafe.
        ranking_quality: Metric -> estimate against the labels; empty without labels.
        excluded: One entry per row that was left out: "where" (file:line), "reason" and "stage"
            ("read" or "tokenize").
        num_read: Rows read, the excluded ones included.
        num_duplicates: Samples whose content had occurred before.
        num_truncated: Samples that were cut to the longest length.
        provenance: Nested JSON: model, hashes, versions, seed, hardware, seconds, command.
    """

    title: str
    ranker: str
    arms: tuple[ArmResult, ...]
    ranking: Ranking
    selection: Selection
    samples: tuple[Sample, ...]
    labels: dict[str, str]
    unsafe_labels: frozenset[str]
    ranking_quality: dict[str, Estimate]
    excluded: tuple[dict[str, str], ...]
    num_read: int
    num_duplicates: int
    num_truncated: int
    provenance: dict[str, Any]


def report(comparison: Comparison, folder: Path) -> Path:
    """Write `report.json` and `index.html` into an existing folder; returns the page's path.

    Raises:
        ValueError: If ranking, selection and samples are not of the same pool, or if two arms share
            a name.
    """
    document = _document(comparison)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    page = folder / "index.html"
    page.write_text(render(document), encoding="utf-8")
    return page


def _document(comparison: Comparison) -> dict[str, Any]:
    """The content of report.json."""
    _check(comparison)
    ids, scores = comparison.ranking.ids, comparison.ranking.scores
    chosen = set(comparison.selection.ids)
    kept = np.array([key in chosen for key in ids], dtype=bool)
    by_id = {sample.id: sample for sample in comparison.samples}
    labels = [comparison.labels.get(key, "") for key in ids]
    unsafe = np.array([label in comparison.unsafe_labels for label in labels], dtype=bool)
    document: dict[str, Any] = {
        "title": comparison.title,
        "ranker": comparison.ranker,
        **_measured(comparison),
        "selection": _counts(kept) | _cut(scores, kept),
        "histogram": _histogram(scores, kept, unsafe if comparison.labels else None),
        "sources": _tally([by_id[key].source for key in ids], kept),
        "samples": _shown(comparison, by_id, chosen),
        "excluded": _excluded(comparison),
        "provenance": comparison.provenance,
    }
    if comparison.labels:
        document["groups"] = {"unsafe": _counts(kept[unsafe]), "other": _counts(kept[~unsafe])}
        document["labels"] = _tally(labels, kept)
        document["unsafe_labels"] = sorted(comparison.unsafe_labels)
    clean = plain_json(document)
    return {"title": clean["title"], "headline": headline(clean)} | clean


def _check(comparison: Comparison) -> None:
    ranked = set(comparison.ranking.ids)
    if not ranked:
        raise ValueError("the ranking is empty: there is nothing to report. Rank a pool first.")
    for what, ids in (
        ("the pool", {sample.id for sample in comparison.samples}),
        ("the selection", set(comparison.selection.ids)),
        ("the labels", set(comparison.labels)),
    ):
        foreign = sorted(ids - ranked)
        if foreign:
            raise ValueError(
                f"{len(foreign)} of {len(ids)} samples of {what} are not in the ranking (first: "
                f"{foreign[0]}). They are of different pools; report the ranking of this pool."
            )
    if len(comparison.samples) != len(ranked):
        raise ValueError(
            f"the ranking has {len(ranked)} samples and the pool {len(comparison.samples)}. They "
            "are of different pools; report the ranking of this pool."
        )
    twice = [name for name, n in Counter(arm.name for arm in comparison.arms).items() if n > 1]
    if twice:
        raise ValueError(f'two arms are named "{twice[0]}"; give each arm a name of its own.')


def _measured(comparison: Comparison) -> dict[str, Any]:
    """The metrics of every arm and of the ranking; what is not a number is set apart by name."""
    apart: list[str] = []
    arms = {arm.name: _estimates(arm.metrics, f"{arm.name}, ", apart) for arm in comparison.arms}
    per_seed = {
        arm.name: {
            str(seed): _finite(values, f"{arm.name}, seed {seed}, ", apart)
            for seed, values in sorted(arm.per_seed.items())
        }
        for arm in comparison.arms
    }
    ranking = _estimates(comparison.ranking_quality, "ranking, ", apart)
    names = dict.fromkeys(name for part in (*arms.values(), ranking) for name in part)
    metrics = (describe(name) for name in names)
    return {
        "metrics": {
            one.name: {"label": one.label, "unit": one.unit, "better": one.better}
            for one in metrics
        },
        "arms": arms,
        "arms_per_seed": per_seed,
        "num_samples": {arm.name: arm.num_samples for arm in comparison.arms},
        "ranking": ranking,
        "not_finite": apart,
    }


def _estimates(found: dict[str, Estimate], where: str, apart: list[str]) -> dict[str, Any]:
    fine = {
        name: one.model_dump()
        for name, one in found.items()
        if all(math.isfinite(value) for value in (one.value, one.low, one.high))
    }
    apart += [where + name for name in found if name not in fine]
    return fine


def _finite(found: dict[str, float], where: str, apart: list[str]) -> dict[str, float]:
    fine = {name: float(value) for name, value in found.items() if math.isfinite(value)}
    apart += [where + name for name in found if name not in fine]
    return fine


def _counts(kept: np.ndarray) -> dict[str, Any]:
    num_samples, num_kept = len(kept), int(kept.sum())
    return _rates(num_samples, num_kept)


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


def _tally(names: Sequence[str], kept: np.ndarray) -> dict[str, Any]:
    """Counts of the largest groups, by size and then name, and of all the others together."""
    total = Counter(names)
    survivors = Counter(name for name, fine in zip(names, kept.tolist(), strict=True) if fine)
    order = sorted(total, key=lambda name: (-total[name], name))
    top, rest = order[:_NUM_GROUPS], order[_NUM_GROUPS:]
    found: dict[str, Any] = {
        "top": [{"name": _cut_name(n)} | _rates(total[n], survivors[n]) for n in top]
    }
    if rest:
        sums = (sum(total[n] for n in rest), sum(survivors[n] for n in rest))
        found["rest"] = {"num_groups": len(rest)} | _rates(*sums)
    return found


def _shown(comparison: Comparison, by_id: dict[str, Sample], chosen: set[str]) -> dict[str, Any]:
    """The samples of the page: both ends of the ranking, and both sides of the cut."""
    best_first = comparison.ranking.best_first()
    scores = comparison.ranking.by_id()
    rank_of = {key: place for place, key in enumerate(best_first, start=1)}
    last_kept = [key for key in best_first if key in chosen][-_NUM_AT_CUT:]
    first_dropped = [key for key in best_first if key not in chosen][:_NUM_AT_CUT]
    start_of_bottom = max(_NUM_ENDS, len(best_first) - _NUM_ENDS)

    def entry(key: str) -> dict[str, Any]:
        sample = by_id[key]
        shown: dict[str, Any] = {
            "id": key,
            "rank": rank_of[key],
            "score": scores[key],
            "kept": key in chosen,
            "source": _cut_name(sample.source),
            "prompt": _text(sample.prompt, "user"),
            "response": _text(sample.completion, "assistant"),
        }
        if key in comparison.labels:
            label = comparison.labels[key]
            shown["label"] = _cut_name(label)
            shown["unsafe"] = label in comparison.unsafe_labels
        return shown

    return {
        "bottom": [entry(key) for key in reversed(best_first[start_of_bottom:])],
        "top": [entry(key) for key in best_first[:_NUM_ENDS]],
        "last_kept": [entry(key) for key in last_kept],
        "first_dropped": [entry(key) for key in first_dropped],
    }


def _text(turns: Iterable[Message], role: str) -> dict[str, Any]:
    """The start of some turns; roles are named unless there is one turn, of the usual role."""
    turns = list(turns)
    if len(turns) == 1 and turns[0].role == role:
        whole = turns[0].content
    else:
        whole = "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    text, num_more = shortened(whole, _TEXT_LENGTH)
    return {"text": text, "num_more": num_more}


def _excluded(comparison: Comparison) -> dict[str, Any]:
    reasons = Counter((row["stage"], row["reason"]) for row in comparison.excluded)
    order = sorted(reasons, key=lambda pair: (-reasons[pair], pair))
    return {
        "num_read": comparison.num_read,
        "num_excluded": len(comparison.excluded),
        "num_duplicates": comparison.num_duplicates,
        "num_truncated": comparison.num_truncated,
        "by_reason": [
            {"stage": stage, "reason": _cut_name(reason), "num_rows": reasons[stage, reason]}
            for stage, reason in order[:_NUM_GROUPS]
        ],
        "num_other_reasons": len(order[_NUM_GROUPS:]),
        "num_rows_other_reasons": sum(reasons[pair] for pair in order[_NUM_GROUPS:]),
        "first": [
            {key: _cut_name(row[key]) for key in ("where", "stage", "reason")}
            for row in comparison.excluded[:_NUM_EXCLUDED]
        ],
    }


def _cut_name(name: str) -> str:
    text, num_more = shortened(name, _NAME_LENGTH)
    return f"{text} … ({num_more:,} more characters)" if num_more else text
