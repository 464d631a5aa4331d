"""Dual-model IFD: hard for the small model, solvable for the large one (arXiv 2411.14497)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from seal.artifacts.ranking import Ranking, make_ranking
from seal.models import ModelSpec
from seal.rankers.ifd import Form, IfdTable, measure_ifd
from seal.rankers.ranker import Cost, Ranker, RankingTask, Sizes
from seal.rankers.second_model import opened, refuse_one_model, second_identity

_LEAST = 1e-8  # of an IFD before its logarithm


class DualIfd(Ranker):
    """Score = IFD under the small model - IFD under the large one.

    High = the prompt helps the large model and not the small one: something to learn that can be
    learned. Low = noise for both, or nothing to learn. A measure of quality, not of safety.

    Columns of the ranking: `small_ifd`, `large_ifd`, and `is_measured`: under both models (see
    `Ifd`). What is not has the score 0.

    Attributes:
        small: The model to be trained; null takes the run's own.
        large: The stronger one, likewise. Not both may be the run's own model as it is.
        small_adapter: A folder with a PEFT adapter to lay over `small`.
        large_adapter: Likewise over `large`.
        form: Of the IFD: "ppl" (the paper) or "loss". Models with different tokenizers can only be
            compared with "loss", a ratio of two losses of the same tokens, which has no unit.
        log: The difference of the logarithms, which a few large IFDs cannot dominate.
    """

    READS_ONCE: ClassVar[bool] = True

    method: Literal["dual_ifd"] = "dual_ifd"
    small: ModelSpec | None = None
    large: ModelSpec | None = None
    small_adapter: Path | None = None
    large_adapter: Path | None = None
    form: Form = "ppl"
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> DualIfd:
        given = (self.small, self.large, self.small_adapter, self.large_adapter)
        refuse_one_model(("small", "large"), given)
        return self

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool in two passes of each model.

        Raises:
            ValueError: If a model cannot be loaded or cannot read a sample, or its tokenizer is
                another and `form` is not "loss".
        """
        small = self._measure(task, "small", self.small, self.small_adapter)
        large = self._measure(task, "large", self.large, self.large_adapter)
        is_measured = small.is_measured & large.is_measured
        return make_ranking(
            tuple(row.id for row in task.pool),
            np.where(is_measured, gap(small.ifd, large.ifd, log=self.log), 0.0),
            {"small_ifd": small.ifd, "large_ifd": large.ifd, "is_measured": is_measured},
        )

    def reads(self) -> dict[str, Any]:
        """The files of both models and adapters, as far as they are not the run's own."""
        return {
            **second_identity("small", self.small, self.small_adapter),
            **second_identity("large", self.large, self.large_adapter),
        }

    def cost(self, sizes: Sizes) -> Cost:
        """At most four forward passes over the pool, all counted at the run's model's size."""
        return Cost(forward=4 * sizes.pool)

    def _measure(
        self, task: RankingTask, role: str, spec: ModelSpec | None, adapter: Path | None
    ) -> IfdTable:
        with opened(task, role, spec, adapter) as model:
            if not model.same_tokens and self.form != "loss":
                raise ValueError(
                    f"rank.form={self.form}: the tokenizer of rank.{role} cuts the pool's text "
                    "into other tokens than the run's, and perplexities of different tokens cannot "
                    "be compared. Set rank.form=loss."
                )
            return measure_ifd(task.tables, model.lm, model.rows, self.form)


def gap(small: np.ndarray, large: np.ndarray, *, log: bool) -> np.ndarray:
    """float64 [N]: the IFDs of the small model minus those of the large one, or of their logs."""
    if log:
        return np.log(np.maximum(small, _LEAST)) - np.log(np.maximum(large, _LEAST))
    return small - large
