"""Density ratio of a stronger over a weaker aligned model (CDR, Dr.SoW; arXiv 2411.02481)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from seal.artifacts.loss_table import LossTable
from seal.artifacts.ranking import Ranking, make_ranking
from seal.models import ModelSpec
from seal.rankers.ranker import Cost, Ranker, RankingTask, Sizes
from seal.rankers.second_model import opened, refuse_one_model, second_identity

Unit = Literal["token", "response", "byte"]


class DensityRatio(Ranker):
    """Score = log p_strong(response | prompt) - log p_weak(response | prompt), in nats.

    High = what alignment made likelier. For safety, give as `strong` a model that is safer than
    `weak` and otherwise as like it as can be: the run's own model against its base, or the run's
    model with a safety adapter against the run's model without.

    A model whose tokenizer is the run's reads the run's own tokens; another one encodes the samples
    again, with its own template, and only losses per byte can be compared.

    Columns of the ranking: `strong_loss` and `weak_loss`, nats per token, response or byte.

    Attributes:
        strong: The better aligned model; null takes the run's own.
        weak: The other one, likewise. Not both may be the run's own model as it is.
        strong_adapter: A folder with a PEFT adapter to lay over `strong`.
        weak_adapter: Likewise over `weak`.
        per: "token" (the mean), "response" (the sum, as in the paper) or "byte" of the response.
    """

    READS_ONCE: ClassVar[bool] = True

    method: Literal["density_ratio"] = "density_ratio"
    strong: ModelSpec | None = None
    weak: ModelSpec | None = None
    strong_adapter: Path | None = None
    weak_adapter: Path | None = None
    per: Unit = "token"

    @model_validator(mode="after")
    def _check(self) -> DensityRatio:
        given = (self.strong, self.weak, self.strong_adapter, self.weak_adapter)
        refuse_one_model(("strong", "weak"), given)
        return self

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool in one pass of each model.

        Raises:
            ValueError: If a model cannot be loaded or cannot read a sample, or its tokenizer is
                another and `per` is not "byte".
        """
        strong = self._losses(task, "strong", self.strong, self.strong_adapter)
        weak = self._losses(task, "weak", self.weak, self.weak_adapter)
        ids = tuple(row.id for row in task.pool)
        return make_ranking(ids, weak - strong, {"strong_loss": strong, "weak_loss": weak})

    def reads(self) -> dict[str, Any]:
        """The files of both models and adapters, as far as they are not the run's own."""
        return {
            **second_identity("strong", self.strong, self.strong_adapter),
            **second_identity("weak", self.weak, self.weak_adapter),
        }

    def cost(self, sizes: Sizes) -> Cost:
        """One forward pass of each model over the pool, both counted at the run's model's size."""
        return Cost(forward=2 * sizes.pool)

    def _losses(
        self, task: RankingTask, role: str, spec: ModelSpec | None, adapter: Path | None
    ) -> np.ndarray:
        """The loss of each row under one of the models, in the unit asked for."""
        with opened(task, role, spec, adapter) as model:
            if not model.same_tokens and self.per != "byte":
                raise ValueError(
                    f"rank.per={self.per}: the tokenizer of rank.{role} cuts the pool's text into "
                    "other tokens than the run's, and losses of different tokens cannot be "
                    "compared. Set rank.per=byte."
                )
            table = task.tables.losses(model.lm, model.rows, what=f"scoring with the {role} model")
        return in_unit(table, self.per)


def in_unit(table: LossTable, per: Unit) -> np.ndarray:
    """float64 [N]: the losses of a table per token, per response or per byte; nats."""
    if per == "token":
        return table.mean
    return table.sum if per == "response" else table.per_byte
