"""Random scores: what "fewer samples" alone does. The floor for every other ranker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from seal.artifacts.ids import ids_of
from seal.artifacts.ranking import Ranking, make_ranking
from seal.rankers.ranker import Cost, Ranker, RankingTask, Sizes


class Random(Ranker):
    """Scores drawn uniformly from [0, 1).

    A score depends on the seed and the sample's id alone, so that neither the order of the pool nor
    what else is in it can change it.

    Attributes:
        seed: Names the draw.
    """

    READS_ONCE: ClassVar[bool] = True
    SCORE: ClassVar[str] = "drawn at random, so it says nothing about the sample"

    method: Literal["random"] = "random"
    seed: int = 0

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool without looking at it."""
        return self.score(ids_of(task.pool))

    def cost(self, sizes: Sizes) -> Cost:  # noqa: ARG002
        """No token passes through the model."""
        return Cost()

    def score(self, ids: Sequence[str]) -> Ranking:
        """The ranking of samples of which only the ids are known."""
        scores = (_uniform(self.seed, key) for key in ids)
        return make_ranking(ids, np.fromiter(scores, dtype=np.float64, count=len(ids)))


def _uniform(seed: int, key: str) -> float:
    """A number in [0, 1) that is a function of a seed and a text."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
