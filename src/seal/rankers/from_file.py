"""A ranking made elsewhere: by another run, another model, another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from seal.artifacts.provenance import file_hash
from seal.artifacts.ranking import Ranking, load_ranking, make_ranking, tokens_path
from seal.rankers.ranker import Cost, Ranker, RankingTask, Sizes


class FromFile(Ranker):
    """Score = the score that the file has for the sample's id; higher = keep.

    Ids are hashes of a sample's content, so that a ranking made with one model is one for every
    other model on the same pool. Scores of samples that are not in the pool are not read.

    Columns of the ranking: those of the file; with `missing: last` also `is_scored`, and NaN where
    the file has no such sample. Token scores are taken over if the file has every sample.

    Attributes:
        path: A ranking.parquet, or the folder of a run, whose ranking is taken.
        missing: What becomes of samples that the file does not score: an "error", or they all come
            "last", in the order of their ids.
    """

    READS_ONCE: ClassVar[bool] = True
    SCORES_NEW_ROWS: ClassVar[bool] = False

    method: Literal["from_file"] = "from_file"
    path: Path
    missing: Literal["error", "last"] = "error"

    def rank(self, task: RankingTask) -> Ranking:
        """Look the pool up.

        Raises:
            ValueError: If the file is no ranking, scores none of the pool, or not all of it and
                `missing` is "error".
        """
        found = self._load()
        wanted = {row.id for row in task.pool}
        ids = tuple(sorted(wanted.intersection(found.ids)))
        absent = tuple(sorted(wanted.difference(found.ids)))
        task.log(
            {
                "num_taken": len(ids),
                "num_missing": len(absent),
                "num_ignored": len(found.ids) - len(ids),
            }
        )
        if absent and (self.missing == "error" or not ids):
            raise ValueError(self._not_scored(absent, len(wanted)))
        taken = _take(found, ids)
        return taken if self.missing == "error" else _with_last(taken, absent)

    def cost(self, sizes: Sizes) -> Cost:  # noqa: ARG002
        """No token passes through the model."""
        return Cost()

    def reads(self) -> dict[str, Any]:
        """The ranking's bytes, and those of its token scores if it has some."""
        file = self._file()
        tokens = tokens_path(file)
        beside = {"path_tokens": file_hash(tokens)} if tokens.exists() else {}
        return {"path": file_hash(file), **beside}

    def _file(self) -> Path:
        file = self.path / "rank" / "ranking.parquet" if self.path.is_dir() else self.path
        if not file.is_file():
            raise ValueError(
                f"rank.path={self.path}: {file} is not a file. Give a ranking.parquet, or the "
                "folder of a run whose pool is ranked."
            )
        return file

    def _load(self) -> Ranking:
        try:
            return load_ranking(self._file(), tokens=True)
        except ValueError as error:
            raise ValueError(f"rank.path={self.path}: {error}") from error

    def _not_scored(self, absent: tuple[str, ...], num_pool: int) -> str:
        what = f"rank.path={self.path}: {len(absent)} of {num_pool} samples have no score there"
        if len(absent) == num_pool:
            return (
                f"{what} (first: {absent[0]}). It is a ranking of another pool: ids are hashes of "
                "what a sample says. Rank this pool, or give the pool of that ranking as pool.path."
            )
        return (
            f"{what} (first: {absent[0]}). A model with a shorter context or another tokenizer "
            "leaves out rows that it cannot read whole; a run lists them in rank/excluded.jsonl. "
            "Set rank.missing=last to rank them below all others, or rank the pool again."
        )


def _take(ranking: Ranking, ids: tuple[str, ...]) -> Ranking:
    """The ranking of some of its samples; with their token scores, if there are some."""
    place_of = {key: place for place, key in enumerate(ranking.ids)}
    places = np.array([place_of[key] for key in ids], dtype=np.int64)
    columns = {name: column[places] for name, column in ranking.columns.items()}
    tokens = ranking.token_scores.take(ids) if ranking.token_scores else None
    scores = ranking.scores[places]
    return make_ranking(ids, scores, columns, tokens, is_log_odds=ranking.is_log_odds)


def _with_last(ranking: Ranking, absent: tuple[str, ...]) -> Ranking:
    """The ranking with other samples below all of its own, all at one score."""
    columns = {name: _extended(column, len(absent)) for name, column in ranking.columns.items()}
    columns["is_scored"] = np.repeat([True, False], [len(ranking.ids), len(absent)])
    below = np.full(len(absent), _below(ranking.scores))
    return make_ranking(
        (*ranking.ids, *absent),
        np.concatenate([ranking.scores, below]),
        columns,
        None if absent else ranking.token_scores,
        is_log_odds=ranking.is_log_odds and not absent,
    )


def _below(scores: np.ndarray) -> float:
    """A score below all of these, by as much as they lie apart."""
    lowest = scores.min()
    return min(lowest - np.ptp(scores), np.nextafter(lowest, -np.inf))


def _extended(column: np.ndarray, num: int) -> np.ndarray:
    """A column with so many more places, which say that nothing is known."""
    if not num:
        return column
    if column.dtype.kind in "fiub":
        return np.append(column.astype(np.float64), np.full(num, np.nan))
    return np.append(column.astype(object), np.full(num, None))
