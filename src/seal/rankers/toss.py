"""TOSS: token by token, what a harmful reference finds likelier than a useful one (2603.01185).

Paper -> here
    D_h, D_u            task.harmful; the safe set, or the pool (`utility`)
    theta_h, theta_u    two adapters, each trained from the aligned model on its own set
    S_t                 risk: l_t(theta_u) - l_t(theta_h), nats, of one response token
    d                   `select.mask_fraction`: what share of all tokens is masked
    T, k (TOSS-Pro)     `rounds`, `grow`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from seal.artifacts.loss_table import LossTable
from seal.artifacts.ranking import Ranking, make_ranking
from seal.artifacts.token_scores import make_token_scores
from seal.data.spans import response_places
from seal.data.tokenize import Encoded
from seal.models import LoraSpec
from seal.rankers.levels import Level, make_levels
from seal.rankers.ranker import (
    Cost,
    Meaning,
    OptimizerSteps,
    Ranker,
    RankingTask,
    Sizes,
    require_harmful,
)
from seal.rankers.warm_up import Schedule, train_epochs

_BETAS = (0.9, 0.95)  # as in SEAL, of which the published code is a fork
_MAX_GRAD_NORM = 1.0


class Toss(Ranker):
    """Score = minus the risk of a sample's response tokens; needs harmful references.

    The risk of a token is S_t = l_t(theta_u) - l_t(theta_h): how much likelier, in nats, a model
    that was tuned on harmful samples finds it than one that was tuned on useful ones. The ranking
    also carries -S_t of every token (higher = keep), for `select.mask_fraction`.

    Columns of the ranking: `risk_mean` and `risk_top_decile` (of S_t, nats; higher = riskier), and
    the mean losses `utility_loss` and `harmful_loss` under the two references.

    Attributes:
        utility: What theta_u is trained on: the "safe" set, or the "pool" itself.
        aggregate: From tokens to a sample: the "mean" of S_t, or its mean over the riskiest tenth
            of the tokens (at least one), "top_decile".
        rounds: 1 is TOSS. With more (TOSS-Pro), theta_h is trained again, from the aligned model,
            on a harmful set that the riskiest pool samples of the round before have joined.
        grow: How many join it per round; one with a riskier token first.
        epochs: Passes over the set of a reference.
        batch_size: Samples per step.
        learning_rate: Of Adam, constant.
        lora: The adapters.
        micro_batch_size: Most samples per pass; None: what the device takes well. Memory only, the
            results stay.
        seed: Of the order of samples and the adapters' initial values, the same for both.
    """

    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "risk_mean": Meaning(
            "tuning on harmful samples makes the answer likelier than tuning on others",
            "tuning on harmful samples makes the answer less likely than tuning on others",
            "nats per token",
        ),
        "risk_top_decile": Meaning("the same over the riskiest tenth of the tokens", unit="nats"),
    }

    method: Literal["toss"] = "toss"
    utility: Literal["safe", "pool"] = "safe"
    aggregate: Literal["mean", "top_decile"] = "mean"
    rounds: int = Field(default=1, ge=1)
    grow: int = Field(default=100, ge=1)
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    lora: LoraSpec = LoraSpec()
    micro_batch_size: int | None = Field(default=None, ge=1)
    seed: int = 0

    @field_validator("lora")
    @classmethod
    def _no_dropout(cls, lora: LoraSpec) -> LoraSpec:
        if lora.dropout > 0:
            raise ValueError(
                f"dropout={lora.dropout} has no effect on the references, which are trained "
                "without. Set it to 0 here; the train stage has a lora of its own."
            )
        return lora

    @property
    def needs_harmful(self) -> bool:
        """Always."""
        return True

    def rank(self, task: RankingTask) -> Ranking:
        """Train the references, and score every token of the pool under each."""
        require_harmful(task, self.method)
        pool = sorted(task.pool, key=lambda row: row.id)
        # First of all: what is wrong with the text shows before anything is trained.
        places = list(response_places(task.lm.encoder, pool, task.samples))
        utility, harmful = self._references(task, pool)
        risks = [token_risk(utility, harmful, place) for place in range(len(pool))]
        columns = {
            "risk_mean": np.array([risk.mean() for risk in risks]),
            "risk_top_decile": np.array([top_decile(risk) for risk in risks]),
            "utility_loss": utility.mean,
            "harmful_loss": harmful.mean,
        }
        ids = tuple(row.id for row in pool)
        return make_ranking(
            ids,
            -columns[f"risk_{self.aggregate}"],
            columns,
            make_token_scores(ids, places, [-risk for risk in risks]),
        )

    def cost(self, sizes: Sizes) -> Cost:
        """Both references' training, and a forward pass over the pool under each."""
        utility = sizes.pool if self.utility == "pool" else sizes.safe
        joined = [min(r * self.grow, sizes.num_pool) for r in range(self.rounds)]
        harmful = sum(sizes.harmful + num * sizes.pool / sizes.num_pool for num in joined)
        return Cost(
            forward=sizes.pool * (1 + self.rounds), trained=self.epochs * (utility + harmful)
        )

    def optimizer_steps(self) -> OptimizerSteps:
        """As the estimate of its time measures them."""
        return OptimizerSteps(self.batch_size, self.micro_batch_size, lora=self.lora)

    def _references(
        self, task: RankingTask, pool: Sequence[Encoded]
    ) -> tuple[LossTable, LossTable]:
        """The losses of the pool under theta_u, and under theta_h of the last round."""
        (level,) = make_levels(
            task.lm,
            num_levels=1,
            tuning="lora",
            lora=self.lora,
            learning_rate=self.learning_rate,
            betas=_BETAS,
            max_grad_norm=_MAX_GRAD_NORM,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed,
        )
        start = [parameter.detach().clone() for parameter in level.parameters.values()]

        def losses(rows: Sequence[Encoded], name: str) -> LossTable:
            _begin_again(level, start)
            schedule = Schedule(
                self.epochs, self.batch_size, self.learning_rate, warmup_ratio=None, seed=self.seed
            )
            for _ in train_epochs(level, rows, schedule, task, f"TOSS: {name} reference"):
                pass
            return task.tables.losses(level.lm, pool, what=f"scoring under the {name} reference")

        utility = losses(pool if self.utility == "pool" else task.safe, "utility")
        harmful = losses(task.harmful, "harmful")
        joined: list[int] = []
        for _ in range(1, self.rounds):
            joined += riskiest(utility, harmful, joined, self.grow)
            harmful = losses([*task.harmful, *(pool[place] for place in joined)], "harmful")
        return utility, harmful


def token_risk(utility: LossTable, harmful: LossTable, place: int) -> np.ndarray:
    """float64 [T]: S_t of a row's response tokens, nats; higher = riskier."""
    return utility.tokens(place).astype(np.float64) - harmful.tokens(place)


def top_decile(risk: np.ndarray) -> float:
    """The mean of the highest tenth of the values, of at least one."""
    num = -(-len(risk) // 10)
    return float(np.sort(risk)[-num:].mean())


def riskiest(utility: LossTable, harmful: LossTable, joined: Sequence[int], num: int) -> list[int]:
    """The first `num` new rows that a walk over all tokens, from the riskiest on, comes upon.

    Args:
        utility: Losses under theta_u.
        harmful: Losses under theta_h, of the same rows; equal risks go by their order.
        joined: Places of rows that are no longer new.
        num: How many; fewer where there are not as many left.
    """
    highest = np.array(
        [token_risk(utility, harmful, place).max() for place in range(len(utility.ids))]
    )
    order = np.argsort(-highest, kind="stable").tolist()
    taken = set(joined)
    return [place for place in order if place not in taken][:num]


def _begin_again(level: Level, start: Sequence[torch.Tensor]) -> None:
    """The aligned model once more: the adapter's first values, and an optimiser without a past."""
    level.activate()
    with torch.no_grad():
        for parameter, value in zip(level.parameters.values(), start, strict=True):
            parameter.copy_(value)
    level.optimizer.state.clear()
