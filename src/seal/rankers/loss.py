"""Loss under the given model: the cheapest informed ranker, and the one SEAL has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from seal.artifacts.ids import ids_of
from seal.artifacts.ranking import Ranking, make_ranking
from seal.rankers.ranker import Cost, Meaning, Ranker, RankingTask, Sizes


class Loss(Ranker):
    """Score = -l(theta_0; z): minus the mean response NLL under the model itself, nats per token.

    High = the aligned model would have said it anyway. One forward pass; needs no safe set. It
    cannot tell a hard sample from an unsafe one.
    """

    READS_ONCE: ClassVar[bool] = True
    SCORE: ClassVar[str] = "minus the loss of its answer under the aligned model, nats per token"
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "loss": Meaning("loss of the answer under the aligned model", unit="nats per token"),
    }

    method: Literal["loss"] = "loss"

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool in one pass."""
        losses = task.tables.losses(task.lm, task.pool).mean
        return make_ranking(ids_of(task.pool), -losses, {"loss": losses})

    def cost(self, sizes: Sizes) -> Cost:
        """One forward pass over the pool."""
        return Cost(forward=sizes.pool)
