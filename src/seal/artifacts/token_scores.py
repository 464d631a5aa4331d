"""Token scores: a score for every response token of a pool, by characters of the user's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, Int64

from seal.artifacts.paths import StrPath

_ROWS_PER_GROUP = 4096  # samples that Parquet writes at a time
_COLUMNS = {
    "turn": pa.int32(), "start": pa.int32(), "end": pa.int32(), "score": pa.float32(),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """Scores of the response tokens of samples, all in one array each; higher = keep.

    Attributes:
        ids: Every sample once, in ascending order of id.
        counts: How many tokens each sample has; they lie one sample after the other.
        turn: Place of each token's turn in the sample's completion.
        start: First of its characters in that turn's content, as the user wrote it.
        end: One after its last character; equal to `start` where it has none (an end of turn).
        score: Finite.
    """

    ids: tuple[str, ...]
    counts: Int64[np.ndarray, " N"]
    turn: Int32[np.ndarray, " R"]
    start: Int32[np.ndarray, " R"]
    end: Int32[np.ndarray, " R"]
    score: Float32[np.ndarray, " R"]

    @property
    def rows(self) -> Int64[np.ndarray, " R"]:
        """The place in `ids` of each token's sample."""
        return np.repeat(np.arange(len(self.ids)), self.counts)

    def take(self, ids: Sequence[str]) -> TokenScores:
        """Those of some of the samples."""
        wanted = set(ids)
        chosen = np.array([key in wanted for key in self.ids], dtype=bool)
        assert chosen.sum() == len(wanted)
        tokens = np.repeat(chosen, self.counts)
        return TokenScores(
            tuple(sorted(wanted)),
            self.counts[chosen],
            self.turn[tokens],
            self.start[tokens],
            self.end[tokens],
            self.score[tokens],
        )


def make_token_scores(
    ids: Sequence[str], places: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> TokenScores:
    """Token scores of samples in any order.

    Args:
        ids: The samples; at least one.
        places: int32 [R, 3] of each: turn, start and end of its response tokens.
        scores: [R] of each; higher = keep.

    Raises:
        ValueError: If a score is not finite, naming the first ids.
    """
    assert len(set(ids)) == len(ids) == len(places) == len(scores)
    assert all(len(place) == len(score) for place, score in zip(places, scores, strict=True))
    bad = [key for key, score in zip(ids, scores, strict=True) if not np.isfinite(score).all()]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(ids)} samples have a token whose score is not finite (first: "
            f"{', '.join(bad[:3])}). Lower the learning rate, or look at these samples."
        )
    order = sorted(range(len(ids)), key=lambda place: ids[place])
    turn, start, end = np.concatenate([places[place] for place in order]).astype(np.int32).T
    return TokenScores(
        tuple(ids[place] for place in order),
        np.array([len(scores[place]) for place in order], dtype=np.int64),
        np.ascontiguousarray(turn),
        np.ascontiguousarray(start),
        np.ascontiguousarray(end),
        np.concatenate([scores[place] for place in order]).astype(np.float32),
    )


def save_token_scores(scores: TokenScores, path: StrPath) -> None:
    """Write token scores as Parquet: id, and one list per sample for each other column."""
    path = Path(path)
    offsets = pa.array(np.concatenate([[0], np.cumsum(scores.counts)]), pa.int64())
    values = (scores.turn, scores.start, scores.end, scores.score)
    lists = [pa.LargeListArray.from_arrays(offsets, pa.array(column)) for column in values]
    table = pa.table({"id": list(scores.ids), **dict(zip(_COLUMNS, lists, strict=True))})
    pq.write_table(table, path, row_group_size=_ROWS_PER_GROUP)


def load_token_scores(path: StrPath) -> TokenScores:
    """Read token scores that `save_token_scores` wrote.

    Raises:
        ValueError: If the file does not hold token scores.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
        ids = tuple(table["id"].to_pylist())
        lengths = {name: _lengths(table[name]) for name in _COLUMNS}
        flat = {name: _flat(table[name]) for name in _COLUMNS}
    except (OSError, KeyError, AttributeError, pa.ArrowException) as error:
        raise ValueError(_unreadable(path, str(error))) from error
    counts = lengths["score"]
    if list(ids) != sorted(set(ids)) or any((found != counts).any() for found in lengths.values()):
        raise ValueError(_unreadable(path, "ids or lists are not in order"))
    wrong = [name for name, kind in _COLUMNS.items() if flat[name].dtype != kind.to_pandas_dtype()]
    if wrong or not np.isfinite(flat["score"]).all():
        raise ValueError(_unreadable(path, f"wrong values in {', '.join(wrong) or 'score'}"))
    return TokenScores(ids, counts, flat["turn"], flat["start"], flat["end"], flat["score"])


def _unreadable(path: Path, reason: str) -> str:
    return f"{path}: not readable token scores ({reason}). Rank the pool again."


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    counts = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.int64), *counts]).astype(np.int64)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type.value_type.to_pandas_dtype()
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, kind), *parts])
