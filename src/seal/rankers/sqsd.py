"""SQSD: does a sample pull towards a danger adapter or a safety adapter? (arXiv 2605.04572).

Paper -> here
    V_m = B A           update that an adapter makes to module m: `Factors` (the scale alpha / r
                        cancels in a cosine)
    dV_m                -(g_B A + B g_A): first-order change of V_m in a step on a sample
    proj                sum_m cos(dV_m, V_m): `update_cosine`, summed
    SQSD                proj_danger - proj_safety; column `sqsd`, high = risk
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import Field, model_validator
from torch import Tensor

from seal.artifacts.ranking import Ranking, make_ranking
from seal.models import LanguageModel, LoraSpec, add_lora
from seal.rankers.gradients import Part, SampleGradients, refuse_dropout
from seal.rankers.levels import Level, make_levels
from seal.rankers.ranker import Cost, OptimizerSteps, Ranker, RankingTask, Sizes, require_harmful
from seal.rankers.warm_up import Schedule, train_epochs

_START = "start"  # name of the untrained adapter


class Sqsd(Ranker):
    """Score = -SQSD = pull towards the safety adapter minus pull towards the danger adapter.

    Higher = keep; each pull lies in [-M, M] with M adapted modules. Both adapters are made here by
    short training, on the harmful references and on the safe set, from equal initial values.

    Columns: `sqsd` (minus the score), `danger`, `safety`.

    Attributes:
        danger_state: Where a sample's gradient is compared with the danger adapter: at the aligned
            model ("aligned"), or with the danger adapter in place ("danger").
        safety_scaling: What the safety adapter's update is multiplied by where the gradient is
            compared with it, instead of alpha / r; null keeps alpha / r.
        lora: The adapters.
        epochs: Passes over each set.
        batch_size: Samples per step.
        learning_rate: Of Adam, constant.
        betas: Of that Adam.
        max_grad_norm: For clipping, in that training.
        micro_batch_size: Samples per pass; memory only, the results stay.
        seed: Of the order of samples and the adapters' initial values.
    """

    method: Literal["sqsd"] = "sqsd"
    danger_state: Literal["aligned", "danger"] = "aligned"
    safety_scaling: float | None = Field(default=1.0, gt=0)
    lora: LoraSpec = LoraSpec(r=8, alpha=16, target_modules="all-linear")
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=5e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, gt=0)
    micro_batch_size: int = Field(default=8, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Sqsd:
        refuse_dropout(self.lora)
        return self

    @property
    def needs_harmful(self) -> bool:
        """Always."""
        return True

    def rank(self, task: RankingTask) -> Ranking:
        """Train both adapters, then compare every pool sample with each."""
        require_harmful(task, self.method)
        danger, safety = self._adapters(task)
        model = danger.lm.model
        assert isinstance(model, PeftModel)
        unsafe, safe = _factors(danger), _factors(safety)

        if self.danger_state == "aligned":
            add_lora(model, self.lora, seed=self.seed, name=_START).eval()
            model.set_adapter(_START)
        else:
            danger.activate()
        pull_unsafe = self._pulls(task, danger.lm, unsafe, "danger")
        safety.activate()
        if self.safety_scaling is not None:
            _set_scaling(model, self.safety_scaling)
        pull_safe = self._pulls(task, safety.lm, safe, "safety")
        sqsd = pull_unsafe - pull_safe
        return make_ranking(
            tuple(row.id for row in task.pool),
            -sqsd,
            {"sqsd": sqsd, "danger": pull_unsafe, "safety": pull_safe},
        )

    def cost(self, sizes: Sizes) -> Cost:
        """Training on both sets, and two forward and backward passes over the pool."""
        return Cost(trained=self.epochs * (sizes.safe + sizes.harmful) + 2 * sizes.pool)

    def optimizer_steps(self) -> OptimizerSteps:
        """As the estimate of its time measures them."""
        return OptimizerSteps(self.batch_size, self.micro_batch_size, lora=self.lora)

    def _adapters(self, task: RankingTask) -> list[Level]:
        """The danger and the safety adapter, trained."""
        levels = make_levels(
            task.lm,
            num_levels=2,
            tuning="lora",
            lora=self.lora,
            learning_rate=self.learning_rate,
            betas=self.betas,
            max_grad_norm=self.max_grad_norm,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed,
        )
        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, None, self.seed)
        sets = (("danger adapter", task.harmful), ("safety adapter", task.safe))
        for level, (name, rows) in zip(levels, sets, strict=True):
            for _ in train_epochs(level, rows, schedule, task, f"SQSD: {name}"):
                pass  # all epochs; only the end counts
        return levels

    def _pulls(
        self, task: RankingTask, lm: LanguageModel, directions: Sequence[Factors], name: str
    ) -> Float[np.ndarray, " N"]:
        """sum_m cos(dV_m, V_m) of every pool sample, at the adapter that is active."""
        gradients = SampleGradients(lm, micro_batch_size=self.micro_batch_size)
        pairs = _pairs(gradients.parts)
        pulls = np.zeros(len(task.pool))
        done = 0
        for places, each in gradients.each(task.pool):
            total = torch.zeros(len(places), dtype=torch.float64, device=each.device)
            for (part_a, part_b), direction in zip(pairs, directions, strict=True):
                state = Factors(part_a.layer.weight.detach(), part_b.layer.weight.detach())
                step = Factors(
                    each[:, part_a.start : part_a.end].unflatten(1, state.a.shape),
                    each[:, part_b.start : part_b.end].unflatten(1, state.b.shape),
                )
                total += update_cosine(step, state, direction)
            pulls[places] = total.cpu().numpy()
            done += len(places)
            task.progress(f"ranking with SQSD: {name}", done, len(task.pool))
        return pulls


class Factors(NamedTuple):
    """LoRA's matrices of one module, their gradients, or those of a batch of samples.

    Attributes:
        a: [..., r, d_in].
        b: [..., d_out, r].
    """

    a: Tensor
    b: Tensor


def update_cosine(gradient: Factors, state: Factors, direction: Factors) -> Float[Tensor, " B"]:
    """cos(dV, V) with dV = -(g_B A + B g_A) and V the direction's B A, in float64.

    Written dV = -X Y with X = [g_B, B] and Y = [A; g_A], no matrix of the module's size is made.
    It is 0 where dV or V is.

    Args:
        gradient: g_A and g_B of B samples.
        state: A and B where the gradients were taken.
        direction: The adapter that V is of.
    """
    size = len(gradient.a)
    x = torch.cat([gradient.b, state.b.expand(size, -1, -1)], dim=2).double()
    y = torch.cat([state.a.expand(size, -1, -1), gradient.a], dim=1).double()
    a, b = direction.a.double(), direction.b.double()
    dot = -((x.mT @ b) * (y @ a.mT)).sum(dim=(1, 2))
    step_square = ((x.mT @ x) * (y @ y.mT)).sum(dim=(1, 2)).clamp(min=0)
    direction_square = ((b.mT @ b) * (a @ a.mT)).sum().clamp(min=0)
    norms = step_square.sqrt() * direction_square.sqrt()
    return torch.where(norms > 0, dot / norms.clamp(min=1e-300), 0.0)


def _factors(level: Level) -> list[Factors]:
    """A copy of an adapter's matrices, module by module."""
    level.activate()
    parts = SampleGradients(level.lm, micro_batch_size=1).parts
    return [
        Factors(a.layer.weight.detach().clone(), b.layer.weight.detach().clone())
        for a, b in _pairs(parts)
    ]


def _pairs(parts: Sequence[Part]) -> list[tuple[Part, Part]]:
    """A and B of every module, in the model's order."""
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    assert all(a.name.split(".lora_A.")[0] == b.name.split(".lora_B.")[0] for a, b in pairs)
    return pairs


def _set_scaling(model: PeftModel, scaling: float) -> None:
    """Multiply the active adapter's update by this instead of alpha / r."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name in module.active_adapters:
                module.scaling[name] = scaling
