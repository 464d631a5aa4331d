"""Rank: score every sample of a pool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seal.artifacts.ranking import Ranking, save_ranking
from seal.data.tokenize import Encoded
from seal.generation import check_context
from seal.rankers.ranker import Ranker, RankingTask


def rank(ranker: Ranker, task: RankingTask, folder: Path) -> Ranking:
    """Score the samples of a pool with a ranker.

    Writes `ranking.parquet` and, step by step, `metrics.jsonl` into an existing folder.

    Args:
        ranker: The method with its hyperparameters.
        task: Model and data; the ranker may change the model, so use it for nothing else.
        folder: Where to write.

    Returns:
        A score for every sample of the pool; higher = keep.

    Raises:
        ValueError: If a sample is longer than the model's context, pool and safe set are the same
            samples, which leaves nothing to tell apart, or the method meets a loss that is not
            finite.
    """
    _check_distinct(task.pool, task.safe)
    check_context(task.lm, [*task.pool, *task.safe, *task.harmful])
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:

        def log(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")

        ranking = ranker.rank(replace(task, log=log))
    assert set(ranking.ids) == {row.id for row in task.pool}
    save_ranking(ranking, folder / "ranking.parquet")
    return ranking


def _check_distinct(pool: Sequence[Encoded], safe: Sequence[Encoded]) -> None:
    if {row.id for row in pool} == {row.id for row in safe}:
        raise ValueError(
            f"pool and safe set hold the same {len(pool)} samples, so there is nothing to tell "
            "apart. Give a safe set of trusted samples as safe.path, and the set to choose from "
            "as pool.path."
        )
