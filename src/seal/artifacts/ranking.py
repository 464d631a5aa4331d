"""The ranking: a score for every sample of a pool, by id."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Scores of a pool's samples; higher = keep.

    Attributes:
        ids: Every ranked sample once, in ascending order of id.
        scores: float64 [N], aligned with `ids`, finite.
        columns: What else the method has to say about each sample, [N] each, aligned with `ids`.
    """

    ids: tuple[str, ...]
    scores: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def ranks(self) -> np.ndarray:
        """int64 [N]: 1 for the highest score; equal scores are ordered by id, never by position."""
        order = np.lexsort((np.array(self.ids), -self.scores))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks

    def best_first(self) -> list[str]:
        """The ids from rank 1 on."""
        order = np.argsort(self.ranks)
        return [self.ids[place] for place in order]

    def by_id(self) -> dict[str, float]:
        """Id -> score."""
        return dict(zip(self.ids, self.scores.tolist(), strict=True))


def make_ranking(
    ids: tuple[str, ...], scores: np.ndarray, columns: dict[str, np.ndarray] | None = None
) -> Ranking:
    """A ranking from scores in any order.

    Raises:
        ValueError: If a score is not finite, naming the first ids.
    """
    assert len(set(ids)) == len(ids) == len(scores)
    values = np.asarray(scores, dtype=np.float64)
    bad = [key for key, fine in zip(ids, np.isfinite(values), strict=True) if not fine]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(ids)} samples have a score that is not finite (first: "
            f"{', '.join(bad[:3])}). Lower the learning rate, or look at these samples."
        )
    order = np.argsort(np.array(ids))
    return Ranking(
        tuple(ids[place] for place in order),
        values[order],
        {name: np.asarray(column)[order] for name, column in (columns or {}).items()},
    )


def save_ranking(ranking: Ranking, path: Path) -> None:
    """Write a ranking as Parquet with the columns id, score, rank, then the method's own."""
    table = {"id": list(ranking.ids), "score": ranking.scores, "rank": ranking.ranks}
    pq.write_table(pa.table({**table, **ranking.columns}), path)


def load_ranking(path: Path) -> Ranking:
    """Read a ranking that `save_ranking` wrote.

    Raises:
        ValueError: If the file is not a ranking.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"{path}: not a readable ranking ({error}). Rank the pool again."
        ) from error
    missing = {"id", "score", "rank"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{path}: a ranking has the columns id, score and rank; {', '.join(sorted(missing))} "
            f"is missing, there are {', '.join(table.column_names)}. Rank the pool again."
        )
    problem = _problem(table)
    if problem:
        raise ValueError(f"{path}: not a readable ranking ({problem}). Rank the pool again.")
    extra = [name for name in table.column_names if name not in {"id", "score", "rank"}]
    return make_ranking(
        tuple(table["id"].to_pylist()),
        table["score"].to_numpy(),
        {name: table[name].to_numpy() for name in extra},
    )


def _problem(table: pa.Table) -> str:
    """What is wrong with the ids and scores of a table that has both, or ""."""
    ids, scores = table["id"], table["score"]
    is_text = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
    if not is_text or not (pa.types.is_floating(scores.type) or pa.types.is_integer(scores.type)):
        return f"ids are {ids.type} and scores {scores.type}"
    if ids.null_count:
        return "an id is missing"
    num_different = len(ids.unique())
    if num_different < len(ids):
        return f"{len(ids)} rows, but {num_different} different ids"
    return ""
