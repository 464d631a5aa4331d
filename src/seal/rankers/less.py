"""LESS: similarity of a sample's Adam update with the gradients of targets (arXiv 2402.04333).

Paper -> here
    l(z; theta)       mean response NLL of a sample, `response_loss`
    theta_c, eta_c    the adapter after epoch c of the warm-up, and that epoch's mean learning rate
    Gamma(z; theta)   `adam_direction` of the sample's gradient and Adam's moments at theta_c
    Pi                `Projection`
    Inf_Adam(z, z')   sum_c eta_c cos(Pi Gamma(z; theta_c), Pi grad l(z'; theta_c)), the eta_c
                      scaled to sum 1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.tokenize import Encoded
from seal.models import LoraSpec
from seal.rankers.draws import draw_rows, drawn_share
from seal.rankers.gradients import Projection, SampleGradients, refuse_dropout
from seal.rankers.levels import Level, make_levels
from seal.rankers.ranker import Cost, Meaning, OptimizerSteps, Ranker, RankingTask, Sizes
from seal.rankers.warm_up import Schedule, train_epochs


class Less(Ranker):
    """LESS with the paper's defaults, but for dropout.

    The score is the similarity with the safe set, minus that with the harmful references, or their
    difference; higher = keep. It lies in [-1, 1], for `both` in [-2, 2].

    Columns: `safe_similarity`, `harmful_similarity`, as far as they are asked for.

    Attributes:
        targets: What samples should resemble ("safe"), must not resemble ("harmful"), or both.
        num_targets: Targets drawn from each set.
        warmup_fraction: Share of the pool that the adapter is trained on first.
        warmup_epochs: Passes over it; after each the gradients are taken.
        batch_size: Of that training.
        learning_rate: Of that training, the highest.
        warmup_ratio: Share of the steps over which the learning rate rises; then it falls to 0.
        betas: Of Adam; they are those of the Adam form too.
        max_grad_norm: For clipping, in that training.
        lora: The adapter. Dropout is lowered: 0.1 in the paper, and none here.
        dim: Dimensions after the random projection; an adapter with fewer parameters is not
            projected.
        micro_batch_size: Samples per pass; memory only, the results stay.
        seed: Of the draws, the order of samples, the adapter's initial values and the projection.
    """

    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "safe_similarity": Meaning("likeness of its gradient to those of the safe set"),
        "harmful_similarity": Meaning(
            "likeness of its gradient to those of the harmful references"
        ),
    }

    method: Literal["less"] = "less"
    targets: Literal["safe", "harmful", "both"] = "safe"
    num_targets: int = Field(default=64, ge=1)
    warmup_fraction: float = Field(default=0.05, gt=0, le=1)
    warmup_epochs: int = Field(default=4, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, gt=0)
    lora: LoraSpec = LoraSpec(
        r=128, alpha=512, target_modules=("q_proj", "k_proj", "v_proj", "o_proj")
    )
    dim: int = Field(default=8192, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Less:
        refuse_dropout(self.lora)
        return self

    @property
    def needs_harmful(self) -> bool:
        """Unless only the safe set is a target."""
        return self.targets != "safe"

    def rank(self, task: RankingTask) -> Ranking:
        """Warm up, and after each epoch compare the pool with the targets."""
        pool = sorted(task.pool, key=lambda row: row.id)
        targets = self._targets(task)
        totals = {name: np.zeros((len(pool), len(rows))) for name, rows in targets.items()}
        sum_rates = 0.0
        for checkpoint in self._checkpoints(task, pool):
            for name, similarity in self._similarities(task, checkpoint, pool, targets).items():
                totals[name] += checkpoint.rate * similarity
            sum_rates += checkpoint.rate
        columns = {
            f"{name}_similarity": best_task_mean(total / sum_rates, num_tasks=1)
            for name, total in totals.items()
        }
        none = np.zeros(len(pool))
        scores = columns.get("safe_similarity", none) - columns.get("harmful_similarity", none)
        return make_ranking(tuple(row.id for row in pool), scores, columns)

    def cost(self, sizes: Sizes) -> Cost:
        """The warm-up, and forward and backward passes over pool and targets after each epoch."""
        rows = sizes.pool * (1 + self.warmup_fraction)
        if self.targets != "harmful":
            rows += sizes.safe * drawn_share(self.num_targets, sizes.num_safe)
        if self.targets != "safe":
            rows += sizes.harmful * drawn_share(self.num_targets, sizes.num_harmful)
        return Cost(trained=self.warmup_epochs * rows)

    def optimizer_steps(self) -> OptimizerSteps:
        """As the estimate of its time measures them."""
        return OptimizerSteps(self.batch_size, self.micro_batch_size, lora=self.lora)

    def _targets(self, task: RankingTask) -> dict[str, list[Encoded]]:
        if self.needs_harmful and not task.harmful:
            raise ValueError(
                f"rank.targets={self.targets} needs harmful references; give some as harmful.path, "
                "or set rank.targets=safe."
            )
        wanted = ("safe", "harmful") if self.targets == "both" else (self.targets,)
        sets = {"safe": task.safe, "harmful": task.harmful}
        return {
            name: draw_rows(sets[name], self.num_targets, seed=self.seed, stream="targets")
            for name in wanted
        }

    def _checkpoints(self, task: RankingTask, pool: Sequence[Encoded]) -> Iterator[Checkpoint]:
        """The adapter after every epoch of the warm-up; it moves on with the iterator."""
        (level,) = make_levels(
            task.lm,
            num_levels=1,
            tuning="lora",
            lora=self.lora,
            learning_rate=self.learning_rate,
            betas=self.betas,
            max_grad_norm=self.max_grad_norm,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed,
        )
        count = max(1, round(self.warmup_fraction * len(pool)))
        rows = draw_rows(pool, count, seed=self.seed, stream="warm-up")
        schedule = Schedule(
            self.warmup_epochs, self.batch_size, self.learning_rate, self.warmup_ratio, self.seed
        )
        epochs = train_epochs(level, rows, schedule, task, "LESS: warm-up")
        for epoch, rate in enumerate(epochs):
            yield Checkpoint(level, epoch, rate)

    def _similarities(
        self,
        task: RankingTask,
        checkpoint: Checkpoint,
        pool: Sequence[Encoded],
        targets: dict[str, list[Encoded]],
    ) -> dict[str, Float[np.ndarray, "N M"]]:
        """Cosines of the pool's Adam directions with the gradients of the targets."""
        gradients = SampleGradients(checkpoint.level.lm, micro_batch_size=self.micro_batch_size)
        project = Projection(gradients.size, self.dim, self.seed)
        moments = checkpoint.moments()

        def direction(vectors: Tensor) -> Tensor:
            return functional.normalize(project(vectors), dim=1)

        each_epoch = len(pool) + sum(map(len, targets.values()))
        done = checkpoint.epoch * each_epoch

        def tell(num: int) -> None:
            nonlocal done
            done += num
            task.progress("LESS: gradients", done, each_epoch * self.warmup_epochs)

        sides = {
            name: torch.cat([direction(plain) for _, plain in gradients.chunks(rows, tell=tell)])
            for name, rows in targets.items()
        }
        result = {name: np.zeros((len(pool), len(rows))) for name, rows in targets.items()}
        for places, plain in gradients.chunks(pool, tell=tell):
            update = direction(adam_direction(plain, moments, self.betas))
            for name, side in sides.items():
                result[name][places] = (update @ side.T).double().cpu().numpy()
        return result


@dataclass(frozen=True, slots=True)
class Moments:
    """Adam's running means over all parameters, flat, as its steps left them.

    Attributes:
        first: Of the gradient.
        second: Of its square.
    """

    first: Float[Tensor, " P"]
    second: Float[Tensor, " P"]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The adapter after an epoch.

    Attributes:
        level: The adapter and its Adam.
        epoch: Counted from 0.
        rate: eta_c, the epoch's mean learning rate.
    """

    level: Level
    epoch: int
    rate: float

    def moments(self) -> Moments:
        """Adam's moments, in the order of the parameters (and of their gradients)."""
        states = [self.level.optimizer.state[p] for p in self.level.parameters.values()]
        first, second = (
            torch.cat([state[name].flatten().float() for state in states])
            for name in ("exp_avg", "exp_avg_sq")
        )
        return Moments(first, second)


def adam_direction(
    gradients: Float[Tensor, "B P"], moments: Moments, betas: tuple[float, float]
) -> Float[Tensor, "B P"]:
    """Gamma: the Adam update that a sample's gradient alone would make, up to its rate.

    As in the released code there is no bias correction, and 1e-8 is added under the root: next to
    gradients below 1e-4 it is no small number.
    """
    first = betas[0] * moments.first + (1 - betas[0]) * gradients
    second = betas[1] * moments.second + (1 - betas[1]) * gradients.square()
    return first / (second + 1e-8).sqrt()


def best_task_mean(
    similarities: Float[np.ndarray, "N M"], *, num_tasks: int
) -> Float[np.ndarray, " N"]:
    """The mean over the targets of a task, then the maximum over tasks.

    Args:
        similarities: Of each sample with each target; the targets of a task are consecutive.
        num_tasks: Tasks, with the same number of targets each. A safe set is one.
    """
    return similarities.reshape(len(similarities), num_tasks, -1).mean(axis=2).max(axis=1)
