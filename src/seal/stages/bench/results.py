"""What the rankings of a benchmark come to: every number of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from seal.artifacts.evaluation import Estimate
from seal.artifacts.ranking import Ranking
from seal.metrics import auroc, average_precision, spearman, unsafe_kept_at_clean_fraction
from seal.rankers.loss import Loss
from seal.stages.bench.settings import DEFAULT_SAFE, Cell

_NUMBERS = ("auroc", "average_precision", "unsafe_kept_at_clean_fraction")


@dataclass(frozen=True, slots=True, eq=False)
class CellResult:
    """What became of one cell.

    Attributes:
        cell: Which one.
        ranking: None if it failed.
        labels: Id -> label, of at least the samples that were ranked.
        seconds: That loading the model and ranking took.
        cpu_seconds: That its threads worked in them.
        peak_memory_bytes: The most resident memory of its process.
        error: Why it failed; "" if it did not.
    """

    cell: Cell
    ranking: Ranking | None
    labels: Mapping[str, str]
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str = ""


def bench_document(
    results: Sequence[CellResult],
    *,
    title: str,
    pool: str,
    labels: Mapping[str, str],
    unsafe_labels: Collection[str],
) -> dict[str, Any]:
    """The content of bench.json; the other files are functions of it.

    Args:
        results: One per cell; a ranker's cells with the same attack and safe set differ in seed.
        title: In the user's words.
        pool: Where the pool came from.
        labels: Id -> label, of the whole pool as it was read.
        unsafe_labels: The labels that count as unsafe.

    Returns:
        JSON: `rows` (one per ranker and safe set, the highest AUROC first, those without a number
        last), `attacks` (one per ranker and attack), `agreement` (Spearman's correlation of the
        rankers' scores at their first seed), `cells`, `num_failed`, and what they were made from.
        A number that does not exist is null.
    """
    counts = Counter(labels.values())
    unsafe = sorted(counts.keys() & set(unsafe_labels))
    measured = [_Measured(result, frozenset(unsafe)) for result in results]
    plain = [one for one in measured if one.cell.attack is None]
    rows = [_row(group, _reference(plain)) for group in _groups(plain)]
    return {
        "title": title,
        "pool": pool,
        "num_samples": len(labels),
        "num_unsafe": sum(counts[label] for label in unsafe),
        "labels": dict(counts.most_common()),
        "unsafe_labels": unsafe,
        "rows": sorted(rows, key=lambda row: -row["auroc"]["value"] if row["auroc"] else 1.0),
        "attacks": _attacks(measured),
        "agreement": _agreement([one for one in plain if one.cell.safe_set == DEFAULT_SAFE]),
        "cells": [one.record() for one in measured],
        "num_failed": sum(1 for result in results if result.error),
    }


class _Measured:
    """The numbers of one cell; none if it failed."""

    def __init__(self, result: CellResult, unsafe: Collection[str]) -> None:
        self.result = result
        self.cell = result.cell
        self.estimates: dict[str, Estimate] = {}
        self.by_label: dict[str, Estimate] = {}
        if result.ranking is not None:
            self._measure(result.ranking, unsafe)

    def _measure(self, ranking: Ranking, unsafe: Collection[str]) -> None:
        labels = np.array([self.result.labels[key] for key in ranking.ids])
        is_unsafe = np.isin(labels, sorted(unsafe))
        self.estimates["auroc"] = auroc(ranking.scores, is_unsafe)
        if self.cell.attack is not None:
            return  # attacks are compared by this number alone
        self.estimates["average_precision"] = average_precision(ranking.scores, is_unsafe)
        self.estimates["unsafe_kept_at_clean_fraction"] = unsafe_kept_at_clean_fraction(
            ranking.ids, ranking.scores, is_unsafe
        )
        others = sorted(set(labels[~is_unsafe].tolist()))
        for label in others:
            both = is_unsafe | (labels == label)
            whole = len(others) == 1
            self.by_label[label] = (
                self.estimates["auroc"] if whole else auroc(ranking.scores[both], is_unsafe[both])
            )

    def record(self) -> dict[str, Any]:
        """What bench.json says about the cell."""
        cell, result = self.cell, self.result
        return {
            "ranker": cell.name,
            "method": cell.ranker.method,
            "seed": cell.seed,
            "attack": cell.attack,
            "safe_set": cell.safe_set,
            "with_harmful": cell.with_harmful,
            "folder": str(cell.folder),
            "error": result.error,
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
            **{name: value.model_dump() for name, value in self.estimates.items()},
        }


def _groups(measured: Sequence[_Measured]) -> list[list[_Measured]]:
    """The cells that differ in their seed only, in the order of the first of each."""
    found: dict[tuple[str, str | None, str], list[_Measured]] = {}
    for one in measured:
        key = (one.cell.name, one.cell.attack, one.cell.safe_set)
        found.setdefault(key, []).append(one)
    return list(found.values())


def _row(group: Sequence[_Measured], reference: CellResult | None) -> dict[str, Any]:
    cell = group[0].cell
    done = [one for one in group if one.result.ranking is not None]
    by_label = done[0].by_label if done else {}
    return {
        "ranker": cell.name,
        "method": cell.ranker.method,
        "safe_set": cell.safe_set,
        "with_harmful": cell.with_harmful,
        "seeds": [one.cell.seed for one in done],
        "status": _status(group),
        **{name: _pooled([one.estimates[name] for one in done]) for name in _NUMBERS},
        "auroc_by_label": {
            label: _pooled([one.by_label[label] for one in done]) for label in by_label
        },
        "stability": _stability([one.result.ranking for one in done]),
        **_resources([one.result for one in done], reference),
    }


def _pooled(estimates: Sequence[Estimate]) -> dict[str, Any] | None:
    """The mean over seeds of value and interval.

    The interval is over samples: seeds rank the same ones, so that several do not narrow it. The
    mean of the ends is at least as wide as the interval of the mean.
    """
    if not estimates:
        return None
    return Estimate(
        value=fmean(one.value for one in estimates),
        low=fmean(one.low for one in estimates),
        high=fmean(one.high for one in estimates),
        n=estimates[0].n,
    ).model_dump()


def _stability(rankings: Sequence[Ranking | None]) -> float | None:
    """Mean rank correlation over the pairs of seeds; None without a pair that has one."""
    found = [_correlation(one, other) for one, other in combinations(rankings, 2)]
    known = [value for value in found if value is not None]
    return fmean(known) if known else None


def _correlation(one: Ranking | None, other: Ranking | None) -> float | None:
    """Spearman's rank correlation; None where a ranking has no order, or there is no ranking."""
    if one is None or other is None or np.ptp(one.scores) == 0 or np.ptp(other.scores) == 0:
        return None
    assert one.ids == other.ids
    return spearman(one.scores, other.scores)


def _reference(plain: Sequence[_Measured]) -> CellResult | None:
    """The plain forward pass over the pool, by which time and memory are measured."""
    found = (one.result for one in plain if isinstance(one.cell.ranker, Loss))
    return next((result for result in found if result.ranking is not None), None)


def _resources(done: Sequence[CellResult], reference: CellResult | None) -> dict[str, Any]:
    seconds = _mean([result.seconds for result in done])
    cpu = _mean([result.cpu_seconds for result in done])
    peak = _mean([result.peak_memory_bytes for result in done])
    return {
        "seconds": seconds,
        "seconds_relative": _ratio(seconds, reference.seconds if reference else None),
        "cpu_seconds": cpu,
        "cpu_seconds_relative": _ratio(cpu, reference.cpu_seconds if reference else None),
        "peak_memory_bytes": peak,
        "peak_memory_relative": _ratio(peak, reference.peak_memory_bytes if reference else None),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


def _status(group: Sequence[_Measured]) -> str:
    """Whether it is done, or which seeds failed and why the first did."""
    failed = [one for one in group if one.result.error]
    if not failed:
        return "done"
    seeds = ", ".join(str(one.cell.seed) for one in failed)
    which = "" if len(failed) == len(group) else f" (seed {seeds})"
    return f"failed{which}: {failed[0].result.error}"


def _attacks(measured: Sequence[_Measured]) -> list[dict[str, Any]]:
    """One record per ranker and attack: AUROC there, and how far it is below the plain pool's."""
    groups = _groups([one for one in measured if one.cell.safe_set == DEFAULT_SAFE])
    plain = {group[0].cell.name: _auroc(group) for group in groups if not group[0].cell.attack}
    return [
        {
            "ranker": group[0].cell.name,
            "attack": group[0].cell.attack,
            "status": _status(group),
            "auroc": _auroc(group),
            "drop": _drop(plain.get(group[0].cell.name), _auroc(group)),
        }
        for group in groups
        if group[0].cell.attack
    ]


def _auroc(group: Sequence[_Measured]) -> dict[str, Any] | None:
    return _pooled([one.estimates["auroc"] for one in group if one.estimates])


def _drop(plain: dict[str, Any] | None, attacked: dict[str, Any] | None) -> float | None:
    return plain["value"] - attacked["value"] if plain and attacked else None


def _agreement(measured: Sequence[_Measured]) -> dict[str, Any]:
    """Rank correlations between the rankers, each at its first seed that is done."""
    first: dict[str, Ranking] = {}
    for one in measured:
        if one.result.ranking is not None:
            first.setdefault(one.cell.name, one.result.ranking)
    return {
        "rankers": list(first),
        "spearman": [
            [_correlation(one, other) for other in first.values()] for one in first.values()
        ],
    }
