"""The ranking: a score for every sample of a pool, by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seal.artifacts.ids import Ids
from seal.artifacts.paths import StrPath
from seal.artifacts.token_scores import TokenScores, load_token_scores, save_token_scores

# In a file's metadata, where its method says so.
_SCALE, _LOG_ODDS = b"seal_score_scale", b"log_odds"


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Scores of a pool's samples; higher = keep.

    Attributes:
        ids: Every ranked sample once, in ascending order of id.
        scores: float64 [N], aligned with `ids`, finite.
        columns: What else the method has to say about each sample, [N] each, aligned with `ids`.
        token_scores: Scores of the same samples' response tokens, from the methods that give some.
        is_log_odds: The method says that a score is the log-odds that the sample is good, so that
            sigmoid(-score) is the probability that it is not.
    """

    ids: Ids
    scores: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    token_scores: TokenScores | None = None
    is_log_odds: bool = False

    @property
    def ranks(self) -> np.ndarray:
        """int64 [N]: 1 for the highest score; equal scores are ordered by id, never by position."""
        order = self.order()
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks

    def best_first(self) -> Ids:
        """The ids from rank 1 on."""
        return self.ids.take(self.order())

    def by_id(self) -> dict[str, float]:
        """Id -> score, every id and score a Python object."""
        return dict(zip(self.ids, self.scores.tolist(), strict=True))

    def order(self) -> np.ndarray:
        """int64 [N]: places in `ids` from rank 1 on; equal scores are ordered by id."""
        # Stable, so that equal scores stay in the order of their ids, which ascend.
        return np.argsort(-self.scores, kind="stable")


def make_ranking(
    ids: Sequence[str],
    scores: np.ndarray,
    columns: dict[str, np.ndarray] | None = None,
    token_scores: TokenScores | None = None,
    *,
    is_log_odds: bool = False,
) -> Ranking:
    """A ranking from scores in any order.

    Raises:
        ValueError: If a score is not finite, naming the first ids.
    """
    named = Ids.of(ids)
    assert len(named) == len(scores)
    values = np.asarray(scores, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(named)} samples have a score that is not finite (first: "
            f"{', '.join(named.take(bad[:3]))}). Lower the learning rate, or look at these samples."
        )
    order = named.order()
    ascending = named.take(order)
    assert ascending.is_sorted()  # so that none occurs twice
    assert token_scores is None or ascending == tuple(sorted(token_scores.ids))
    return Ranking(
        ascending,
        values[order],
        {name: np.asarray(column)[order] for name, column in (columns or {}).items()},
        token_scores,
        is_log_odds,
    )


def save_ranking(ranking: Ranking, path: StrPath) -> None:
    """Write a ranking as Parquet with the columns id, score, rank, then the method's own.

    Token scores, where there are some, go into `tokens.parquet` beside it. That the scores are
    log-odds is noted in the file's metadata.
    """
    path = Path(path)
    first = {"id": ranking.ids.text(), "score": ranking.scores, "rank": ranking.ranks}
    table = pa.table({**first, **ranking.columns})
    if ranking.is_log_odds:
        table = table.replace_schema_metadata({_SCALE: _LOG_ODDS})
    pq.write_table(table, path)
    if ranking.token_scores is not None:
        save_token_scores(ranking.token_scores, tokens_path(path))


def tokens_path(path: StrPath) -> Path:
    """Where the token scores of a ranking's file lie."""
    path = Path(path)
    return path.with_name("tokens.parquet")


def load_ranking(path: StrPath, *, tokens: bool = False) -> Ranking:
    """Read a ranking that `save_ranking` wrote.

    Args:
        path: Its file.
        tokens: Also read the token scores, where there are some; they are far larger.

    Raises:
        ValueError: If the file is not a ranking, or the token scores beside it are another's.
    """
    path = Path(path)
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
    beside = tokens_path(path)
    token_scores = load_token_scores(beside) if tokens and beside.exists() else None
    ids = Ids(table["id"])
    if token_scores is not None and set(token_scores.ids) != set(ids):
        raise ValueError(
            f"{beside} has scores of other samples than {path.name} beside it. Rank the pool again."
        )
    return make_ranking(
        ids,
        table["score"].to_numpy(),
        {name: table[name].to_numpy() for name in extra},
        token_scores,
        is_log_odds=(table.schema.metadata or {}).get(_SCALE) == _LOG_ODDS,
    )


def _problem(table: pa.Table) -> str:
    """What is wrong with the ids and scores of a table that has both, or ""."""
    ids, scores = table["id"], table["score"]
    is_text = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
    if not is_text or not (pa.types.is_floating(scores.type) or pa.types.is_integer(scores.type)):
        return f"ids are {ids.type} and scores {scores.type}"
    if ids.null_count:
        return "an id is missing"
    if not len(ids):
        return "it has no rows"
    num_different = Ids(ids).num_different()
    if num_different < len(ids):
        return f"{len(ids)} rows, but {num_different} different ids"
    return ""
