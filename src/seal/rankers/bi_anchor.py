"""Bi-directional anchoring on representations: nearness to harmful samples (arXiv 2404.01099).

Paper -> here
    h(z)                hidden_states[-1] at the sample's last token: after the final norm
    c_ij                cosine of h of pool sample i with h of anchor j
    score_i             risk: mean of the `avg` largest c_ij over the harmful anchors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.tokenize import Encoded
from seal.rankers.draws import draw_rows, drawn_share
from seal.rankers.ranker import Cost, Meaning, Ranker, RankingTask, Sizes, require_harmful
from seal.rankers.representations import (
    cosines,
    final_states,
    top_mean,
)


class BiAnchor(Ranker):
    """Score = -(similarity to harmful samples - safe_weight * similarity to safe samples).

    A similarity is the mean of the `avg` largest cosines between the sample's last hidden state
    and those of the anchors, in [-1, 1]; higher score = keep. Columns of the ranking: `risk` (minus
    the score), `harmful_similarity`, and, where it counts, `safe_similarity`.

    Attributes:
        avg: How many of the nearest anchors count, on each side; 1 is the nearest alone.
        safe_weight: Of the similarity to the safe set; 0 is the released code, which looks at
            harmful anchors only, 1 weighs both directions alike.
        max_anchors: Most anchors of each kind; more are thinned out.
        seed: Names the draw of the anchors.
    """

    READS_ONCE: ClassVar[bool] = True
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "harmful_similarity": Meaning("cosine with the harmful anchors, mean of the nearest"),
        "safe_similarity": Meaning("cosine with the safe anchors, mean of the nearest"),
    }

    method: Literal["bi_anchor"] = "bi_anchor"
    avg: int = Field(default=1, ge=1)
    safe_weight: float = Field(default=0.0, ge=0)
    max_anchors: int = Field(default=100, ge=1)
    seed: int = 0

    @property
    def needs_harmful(self) -> bool:
        """Always."""
        return True

    def rank(self, task: RankingTask) -> Ranking:
        """Read the anchors and the pool, and compare.

        Raises:
            ValueError: If there are no harmful references, or fewer anchors than `avg`.
        """
        kinds = {"harmful": require_harmful(task, self.method)}
        if self.safe_weight > 0:
            kinds["safe"] = task.safe
        drawn = {
            kind: draw_rows(rows, self.max_anchors, seed=self.seed) for kind, rows in kinds.items()
        }
        self._check_avg(drawn)
        pool = sorted(task.pool, key=lambda row: row.id)
        states = final_states(task, pool, what="reading the pool")
        similarity = {}
        for kind, rows in drawn.items():
            anchors = final_states(task, rows, what=f"reading the {kind} anchors")
            similarity[f"{kind}_similarity"] = top_mean(cosines(states, anchors), self.avg)
        risk = similarity["harmful_similarity"]
        if self.safe_weight > 0:
            risk = risk - self.safe_weight * similarity["safe_similarity"]
        return make_ranking(tuple(row.id for row in pool), -risk, {"risk": risk, **similarity})

    def cost(self, sizes: Sizes) -> Cost:
        """One forward pass over the pool and the anchors that are used."""
        harmful = sizes.harmful * drawn_share(self.max_anchors, sizes.num_harmful)
        safe = sizes.safe * drawn_share(self.max_anchors, sizes.num_safe)
        return Cost(forward=sizes.pool + harmful + safe * (self.safe_weight > 0))

    def _check_avg(self, drawn: dict[str, list[Encoded]]) -> None:
        for kind, rows in drawn.items():
            if len(rows) < self.avg:
                raise ValueError(
                    f"rank.avg={self.avg}: there are only {len(rows)} {kind} anchors. Lower it, or "
                    f"give more {kind} samples (rank.max_anchors={self.max_anchors})."
                )
