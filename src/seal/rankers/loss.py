"""Loss under the given model: the cheapest informed ranker, and the one SEAL has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.batches import collate, length_batches
from seal.data.tokenize import Encoded
from seal.losses import mean_nll
from seal.models import LanguageModel
from seal.progress import Progress
from seal.rankers.ranker import Ranker, RankingTask


class Loss(Ranker):
    """Score = -l(theta_0; z): minus the mean response NLL under the model itself, nats per token.

    High = the aligned model would have said it anyway. One forward pass; needs no safe set. It
    cannot tell a hard sample from an unsafe one.

    Attributes:
        batch_size: Samples per forward pass.
    """

    method: Literal["loss"] = "loss"
    batch_size: int = 16

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool in one pass."""
        losses = pool_losses(task.lm, task.pool, self.batch_size, task.progress, "scoring the pool")
        return make_ranking(tuple(row.id for row in task.pool), -losses, {"loss": losses})


def pool_losses(
    lm: LanguageModel, rows: Sequence[Encoded], batch_size: int, progress: Progress, what: str
) -> np.ndarray:
    """l(theta; z) of every row: float64 [N], nats per token, in the order of the rows."""
    losses = np.full(len(rows), np.nan)
    done = 0
    for indices in length_batches(rows, batch_size):
        batch = collate([rows[i] for i in indices], lm.pad_id).to(lm.device)
        losses[indices] = mean_nll(lm.model, batch).cpu().double().numpy()
        done += len(indices)
        progress(what, done, len(rows))
    return losses
