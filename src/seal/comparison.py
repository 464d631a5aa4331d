"""From a finished run folder to what the report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seal.artifacts.evaluation import Measurement
from seal.artifacts.provenance import load_provenance
from seal.artifacts.ranking import Ranking, load_ranking
from seal.artifacts.selection import load_selection
from seal.inputs import Inputs
from seal.metrics import pool_seeds, ranking_quality
from seal.stages.evaluate import load_evaluation
from seal.stages.report import ArmResult, Comparison


def compare(
    inputs: Inputs, arms: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
) -> Comparison:
    """Everything that the report shows.

    Args:
        inputs: The experiment's inputs; its run folder holds the finished stages.
        arms: Arm -> its training seeds.
        sizes: Arm -> number of samples it was trained on.
    """
    experiment, run_dir = inputs.experiment, inputs.run_dir
    ranking = load_ranking(run_dir.rank / "ranking.parquet")
    selection = load_selection(run_dir.select / "selection.parquet")
    ids = set(ranking.ids)
    labels = {key: label for key, label in inputs.pool.labels.items() if key in ids}
    return Comparison(
        title=experiment.title or run_dir.root.name,
        ranker=experiment.rank.method,
        arms=tuple(_arm_result(inputs, arm, seeds, sizes[arm]) for arm, seeds in arms.items()),
        ranking=ranking,
        selection=selection,
        samples=inputs.rankable,
        labels=labels,
        unsafe_labels=frozenset(experiment.unsafe_labels),
        ranking_quality=_quality(inputs, ranking, labels),
        excluded=_excluded(inputs),
        num_read=inputs.pool.num_read,
        num_duplicates=inputs.pool.num_duplicates,
        num_truncated=inputs.encoded_pool.num_truncated,
        provenance=_provenance(inputs),
    )


def _arm_result(inputs: Inputs, arm: str, seeds: Sequence[int], size: int) -> ArmResult:
    by_seed = {seed: load_evaluation(inputs.run_dir.evaluate(arm, seed)) for seed in seeds}
    metrics: dict[str, list[Measurement]] = {}
    for measurements in by_seed.values():
        for part in measurements:
            metrics.setdefault(part.metric, []).append(part)
    return ArmResult(
        name=arm,
        num_samples=size,
        metrics={name: pool_seeds(parts) for name, parts in metrics.items()},
        per_seed={
            seed: {part.metric: sum(part.values.values()) / len(part.values) for part in parts}
            for seed, parts in by_seed.items()
        },
    )


def _quality(inputs: Inputs, ranking: Ranking, labels: Mapping[str, str]) -> dict[str, Any]:
    unsafe_labels = set(inputs.experiment.unsafe_labels)
    unsafe = frozenset(key for key, label in labels.items() if label in unsafe_labels)
    if not 0 < len(unsafe) < len(ranking.ids):  # nothing to tell apart
        return {}
    return ranking_quality(ranking, unsafe)


def _excluded(inputs: Inputs) -> tuple[dict[str, str], ...]:
    return tuple(
        {"where": row.where, "reason": row.reason, "stage": row.stage}
        for row in (*inputs.pool.excluded, *inputs.encoded_pool.excluded)
    )


def _provenance(inputs: Inputs) -> dict[str, Any]:
    run_dir, experiment = inputs.run_dir, inputs.experiment
    rank = load_provenance(run_dir.rank)
    return {
        "command": f"seal run {run_dir.config}",
        "model": experiment.model.path,
        "pool": experiment.pool.path,
        "safe": [spec.path for spec in experiment.safe],
        "seeds": list(experiment.seeds),
        "rank": json.loads(json.dumps(rank.identity)),
        "environment": rank.environment,
        "train": experiment.train.model_dump(mode="json"),
    }
