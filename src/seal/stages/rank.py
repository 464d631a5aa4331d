"""Rank: score every sample of a pool."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seal.artifacts.ids import Joined, ids_of
from seal.artifacts.paths import StrPath
from seal.artifacts.ranking import Ranking, make_ranking, save_ranking
from seal.data.tokenize import Encoded
from seal.generation import check_context
from seal.rankers.ranker import Ranker, RankingTask


def rank(
    ranker: Ranker, task: RankingTask, folder: StrPath, reference: Collection[str] = ()
) -> Ranking:
    """Score the samples of a pool with a ranker.

    Writes `ranking.parquet` and, step by step, `metrics.jsonl` into an existing folder; with
    reference rows also `reference.parquet`, a ranking of their own.

    Args:
        ranker: The method with its hyperparameters.
        task: Model and data; the ranker may change the model, so use it for nothing else. Its `log`
            is told each entry of metrics.jsonl.
        folder: Where to write.
        reference: Ids of those rows of `task.pool` that are not of the pool: held-out safe rows,
            which the ranker scores without telling them from the others.

    Returns:
        A score for every other sample of the pool; higher = keep.

    Raises:
        ValueError: If a sample is longer than the model's context, pool and safe set are the same
            samples, which leaves nothing to tell apart, or the method meets a loss that is not
            finite.
    """
    folder = Path(folder)
    _check_distinct(task.pool, task.safe)
    check_context(task.lm, Joined(Joined(task.pool, task.safe), task.harmful))
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:

        def log(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            task.log(record)

        ranking = ranker.rank(replace(task, log=log))
    assert ranking.ids == ids_of(task.pool).ascending()
    if reference:
        save_ranking(_part(ranking, reference), folder / "reference.parquet")
        ranking = _part(ranking, reference, others=True, tokens=True)
    save_ranking(ranking, folder / "ranking.parquet")
    return ranking


def _part(
    ranking: Ranking, ids: Collection[str], *, others: bool = False, tokens: bool = False
) -> Ranking:
    """The ranking of some of its samples, or of all others, with or without their token scores."""
    places = np.flatnonzero(ranking.ids.is_in(tuple(ids)) != others)
    columns = {name: column[places] for name, column in ranking.columns.items()}
    kept = ranking.ids.take(places)
    token_scores = ranking.token_scores.take(kept) if tokens and ranking.token_scores else None
    scores = ranking.scores[places]
    return make_ranking(kept, scores, columns, token_scores, is_log_odds=ranking.is_log_odds)


def _check_distinct(pool: Sequence[Encoded], safe: Sequence[Encoded]) -> None:
    if len(pool) == len(safe) and ids_of(pool).ascending() == ids_of(safe).ascending():
        raise ValueError(
            f"pool and safe set hold the same {len(pool)} samples, so there is nothing to tell "
            "apart. Give a safe set of trusted samples as safe.path, and the set to choose from "
            "as pool.path."
        )
