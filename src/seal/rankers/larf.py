"""LARF: which side of the refusal direction a sample lies on, in one block (arXiv 2507.18631).

Paper -> here
    x_i                 hidden state of the sample's last token after block `layer`
    u_j, s_j            the same of the unsafe anchors (`harmful`) and of the safe ones (`safe`)
    M_ij                cos(x_i, u_j) - cos(x_i, s_j)
    score_i             risk: mean of the `avg` largest M_ij
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.tokenize import Encoded
from seal.rankers.draws import draw_key, draw_rows, drawn_share
from seal.rankers.ranker import Cost, Ranker, RankingTask, Sizes, require_harmful
from seal.rankers.representations import (
    block_states,
    cosines,
    decoder_blocks,
    top_mean,
)


class Larf(Ranker):
    """Score = -(mean cosine with the unsafe anchors - mean cosine with the safe anchors).

    Cosines are of the last token's hidden states after one block, in [-1, 1]; the score is in
    [-2, 2], higher = keep. Columns of the ranking: `risk` (minus the score, the paper's number),
    `harmful_similarity` and `safe_similarity` (the two mean cosines).

    Attributes:
        layer: The block, counted from 0; its output is hidden_states[layer + 1] of transformers.
            "auto" takes the one that tells the two kinds of anchors apart best, which is not the
            paper's search.
        avg: Average only the largest of the differences between anchors that answer the same
            prompt; harmful and safe must then be such pairs. None: the difference of the means,
            which needs no pairs and is the same as averaging all.
        max_anchors: Most anchors of each kind; more are thinned out.
        seed: Names the draw of the anchors.
    """

    method: Literal["larf"] = "larf"
    layer: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    avg: int | None = Field(default=None, ge=1)
    max_anchors: int = Field(default=100, ge=1)
    seed: int = 0

    def rank(self, task: RankingTask) -> Ranking:
        """Read the anchors, choose the block, read the pool up to it.

        Raises:
            ValueError: If there are no harmful references, the model has no such block, or the
                anchors do not suffice for what is asked.
        """
        unsafe, safe = self._anchors(task)
        blocks = self._candidates(task, len(unsafe), len(safe))
        unsafe_states = block_states(task, unsafe, blocks, what="reading the unsafe anchors")
        safe_states = block_states(task, safe, blocks, what="reading the safe anchors")
        block = blocks[0]
        if self.layer == "auto":
            block = _most_telling_block(task, unsafe_states, safe_states)
        pool = sorted(task.pool, key=lambda row: row.id)
        states = block_states(task, pool, (block,), what="reading the pool")[block]
        towards_unsafe = cosines(states, unsafe_states[block])
        towards_safe = cosines(states, safe_states[block])
        columns = {
            "risk": larf_risk(towards_unsafe, towards_safe, self.avg),
            "harmful_similarity": towards_unsafe.mean(axis=1),
            "safe_similarity": towards_safe.mean(axis=1),
        }
        return make_ranking(tuple(row.id for row in pool), -columns["risk"], columns)

    def cost(self, sizes: Sizes) -> Cost:
        """One pass over pool and anchors, as if through the whole depth: an upper bound.

        The passes end at the block; which share of the depth that is only the model knows.
        """
        harmful = sizes.harmful * drawn_share(self.max_anchors, sizes.num_harmful)
        safe = sizes.safe * drawn_share(self.max_anchors, sizes.num_safe)
        return Cost(forward=sizes.pool + harmful + safe)

    def _anchors(self, task: RankingTask) -> tuple[list[Encoded], list[Encoded]]:
        """Unsafe and safe anchors; where `avg` is set, the j-th of both answer one prompt."""
        harmful = require_harmful(task, self.method)
        if self.avg is None:
            drawn = (
                draw_rows(rows, self.max_anchors, seed=self.seed) for rows in (harmful, task.safe)
            )
            return next(drawn), next(drawn)
        pairs = _pairs(harmful, task.safe)
        pairs = sorted(pairs, key=lambda pair: draw_key(pair[0].id, self.seed))[: self.max_anchors]
        if self.avg > len(pairs):
            raise ValueError(
                f"rank.avg={self.avg}: there are only {len(pairs)} pairs of anchors. Lower it, or "
                "leave it out to average all."
            )
        return [unsafe for unsafe, _ in pairs], [safe for _, safe in pairs]

    def _candidates(self, task: RankingTask, num_unsafe: int, num_safe: int) -> Sequence[int]:
        num_blocks = len(decoder_blocks(task.lm.model))
        if self.layer == "auto":
            if min(num_unsafe, num_safe) < 2:
                raise ValueError(
                    f"rank.layer=auto needs at least 2 harmful and 2 safe samples to compare the "
                    f"layers; there are {num_unsafe} and {num_safe}. Give more of them, or name "
                    "the layer."
                )
            return range(num_blocks)
        if self.layer >= num_blocks:
            raise ValueError(
                f"rank.layer={self.layer}: the model has {num_blocks} layers. Give one of 0 to "
                f"{num_blocks - 1}, or auto."
            )
        return (self.layer,)


def larf_risk(towards_unsafe: np.ndarray, towards_safe: np.ndarray, avg: int | None) -> np.ndarray:
    """The paper's score of each sample; higher = worse.

    Args:
        towards_unsafe: [N, A], cosines with the unsafe anchors.
        towards_safe: [N, A'], cosines with the safe anchors; for a number as `avg`, column j
            belongs with column j of the other.
        avg: How many of the differences count, the largest; None: the difference of the means.
    """
    if avg is None:
        return towards_unsafe.mean(axis=1) - towards_safe.mean(axis=1)
    return top_mean(towards_unsafe - towards_safe, avg)


def anchor_separation(unsafe: np.ndarray, safe: np.ndarray) -> float:
    """How far apart the risk of unsafe and of safe anchors lies, in standard deviations.

    Each anchor is scored as a pool sample would be, against all anchors but itself; then
    (mean_u - mean_s) / sqrt(var_u + var_s). Negative where unsafe anchors look safer.

    Args:
        unsafe: [A, D] with A >= 2.
        safe: [A', D] with A' >= 2.
    """
    across = cosines(unsafe, safe)
    of_unsafe = _mean_of_others(cosines(unsafe, unsafe)) - across.mean(axis=1)
    of_safe = across.mean(axis=0) - _mean_of_others(cosines(safe, safe))
    spread = np.sqrt(of_unsafe.var() + of_safe.var())
    # The floor is for anchors that are all alike, where rounding would decide.
    return float((of_unsafe.mean() - of_safe.mean()) / max(spread, 1e-6))


def _mean_of_others(own: np.ndarray) -> np.ndarray:
    """Mean cosine of each anchor with the others of its kind."""
    return (own.sum(axis=1) - own.diagonal()) / (len(own) - 1)


def _most_telling_block(
    task: RankingTask, unsafe: Mapping[int, np.ndarray], safe: Mapping[int, np.ndarray]
) -> int:
    """The block of the largest separation, the earliest of several; all are logged."""
    separation = {block: anchor_separation(unsafe[block], safe[block]) for block in unsafe}
    best = max(sorted(separation), key=separation.__getitem__)
    for block, value in separation.items():
        task.log({"layer": block, "separation": value, "is_chosen": block == best})
    return best


def _pairs(harmful: Sequence[Encoded], safe: Sequence[Encoded]) -> list[tuple[Encoded, Encoded]]:
    """Harmful and safe samples by prompt; several of one prompt by id."""
    unsafe_rows, safe_rows = (
        sorted(rows, key=lambda row: (_prompt(row), row.id)) for rows in (harmful, safe)
    )
    if list(map(_prompt, unsafe_rows)) != list(map(_prompt, safe_rows)):
        raise ValueError(
            f"rank.avg needs pairs: for every harmful sample a safe one with the same prompt. The "
            f"{len(harmful)} harmful and {len(safe)} safe samples are not such pairs. Give pairs, "
            "or leave rank.avg out to compare with the means."
        )
    return list(zip(unsafe_rows, safe_rows, strict=True))


def _prompt(row: Encoded) -> tuple[int, ...]:
    return tuple(row.input_ids[: int(row.response_mask.argmax())].tolist())
