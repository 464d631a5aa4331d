"""RDS+: nearness to target samples in a position-weighted mean representation (arXiv 2503.01807).

Paper -> here
    e(z)                sum_t t h_t / sum_t t over the tokens of the sample, t from 1, where h is
                        hidden_states[-1]: after the final norm
    targets             safe
    S                   `cosines` of pool and targets
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from seal.artifacts.ranking import Ranking, make_ranking
from seal.rankers.draws import draw_rows, drawn_share
from seal.rankers.ranker import Cost, Meaning, Ranker, RankingTask, Sizes
from seal.rankers.representations import cosines, final_states


class Rds(Ranker):
    """Score = nearness to the safe set, which is taken as an example of what is wanted.

    Higher = keep. Columns of the ranking: `similarity`, the cosine with the nearest target, in
    [-1, 1], and `nearest_target`, which one that is (its number among the targets used, by id).

    Attributes:
        pick: "max": the score is `similarity`. "round_robin": the score is minus the place in the
            order in which the paper picks for one task: the targets take turns, each takes the
            nearest sample that is left. A selection of any size then is what the paper selects.
        max_anchors: Most targets; more are thinned out.
        seed: Names the draw of the targets.
    """

    READS_ONCE: ClassVar[bool] = True
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "similarity": Meaning("cosine with the nearest target"),
    }
    HIDDEN_COLUMNS: ClassVar[frozenset[str]] = frozenset({"nearest_target"})

    method: Literal["rds"] = "rds"
    pick: Literal["max", "round_robin"] = "max"
    max_anchors: int = Field(default=100, ge=1)
    seed: int = 0

    def rank(self, task: RankingTask) -> Ranking:
        """Read the targets and the pool, and compare."""
        targets = draw_rows(task.safe, self.max_anchors, seed=self.seed)
        wanted = final_states(task, targets, "weighted_mean", what="reading the safe set")
        pool = sorted(task.pool, key=lambda row: row.id)
        states = final_states(task, pool, "weighted_mean", what="reading the pool")
        nearness = cosines(states, wanted)
        scores = nearness.max(axis=1)
        columns = {"similarity": scores, "nearest_target": nearness.argmax(axis=1)}
        if self.pick == "round_robin":
            scores = -pick_places(nearness).astype(np.float64)
        return make_ranking(tuple(row.id for row in pool), scores, columns)

    def cost(self, sizes: Sizes) -> Cost:
        """One forward pass over the pool and the targets that are used."""
        return Cost(forward=sizes.pool + sizes.safe * drawn_share(self.max_anchors, sizes.num_safe))


def pick_places(nearness: np.ndarray) -> np.ndarray:
    """int64 [N]: when each sample is picked, from 1 on, if the targets take turns.

    Args:
        nearness: [N, A], of sample and target. Of equal samples the first is taken.
    """
    num_samples, num_targets = nearness.shape
    wishes = np.argsort(-nearness, axis=0, kind="stable")  # of each target, the nearest first
    next_wish = [0] * num_targets
    places = np.zeros(num_samples, dtype=np.int64)
    for place in range(num_samples):
        target = place % num_targets
        while places[wishes[next_wish[target], target]]:
            next_wish[target] += 1
        places[wishes[next_wish[target], target]] = place + 1
    return places
