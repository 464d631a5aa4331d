"""The parameters of the two levels, theta and theta_hat, and one descent step on them.

With LoRA both are adapters on the same frozen base, so that theta_hat costs an adapter and not a
model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn

from seal.data.tokenize import Encoded
from seal.losses import sample_nll, token_nll
from seal.microbatches import MicroBatches, default_tokens
from seal.models import LanguageModel, LoraSpec, add_lora
from seal.packing import is_packed
from seal.padding import needs_even_rows
from seal.processes import processes
from seal.sharding import equal_turns, is_sharded, refuse_sharded

Tuning = Literal["lora", "full"]

NOT_FINITE = "Lower rank.learning_rate, or use model.dtype=float32 if these samples are in order."


class StepResult(NamedTuple):
    """What one descent step saw.

    Attributes:
        losses: l(theta; z) of each row before the step, nats per token, on the CPU in fp32.
        grad_norm: Norm of the gradient before clipping.
        problem: What is not finite and of which samples; "" if all is well.
        bad: The samples whose loss is not finite.
    """

    losses: Float[Tensor, " R"]
    grad_norm: float
    problem: str
    bad: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One parameter vector with its optimiser.

    In a launch of several processes all have the same parameters: the rows of a step are dealt out
    among them, and losses and gradients added up.

    Attributes:
        lm: The model whose parameters these are.
        activate: Makes the model compute, and differentiate, with these parameters.
        parameters: The trained ones, by name; of equal names in a run that is gone on with.
        optimizer: Over `parameters`, in their order.
        micro_batches: The passes of a step; they change memory, not results.
        max_grad_norm: The gradient is scaled down to this norm.
    """

    lm: LanguageModel
    activate: Callable[[], None]
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    micro_batches: MicroBatches
    max_grad_norm: float

    def descend(self, rows: Sequence[Encoded], shares: Float[Tensor, " R"]) -> StepResult:
        """One optimiser step on sum_r shares_r l(theta; z_r).

        Raises:
            ValueError: If a loss or the gradient is not finite, naming the samples.
        """
        result = self.differentiate(rows, shares)
        if result.problem:
            raise ValueError(f"{result.problem}. {NOT_FINITE}")
        self.optimizer.step()
        return result

    def differentiate(self, rows: Sequence[Encoded], shares: Float[Tensor, " R"]) -> StepResult:
        """The clipped gradient of sum_r shares_r l(theta; z_r), which `optimizer` finds.

        Rows with share 0 are only scored: no backward pass is spent on them.
        """
        self.activate()
        losses = self.micro_batches.fitted(rows, lambda: self._accumulate(rows, shares))
        trained = list(self.parameters.values())
        processes().add([weight.grad for weight in trained if weight.grad is not None])
        processes().add([losses])
        norm = float(nn.utils.clip_grad_norm_(trained, self.max_grad_norm))
        losses = losses.cpu()
        bad = [row.id for row, loss in zip(rows, losses, strict=True) if not loss.isfinite()]
        return StepResult(losses, norm, _problem(rows, bad, norm), tuple(bad))

    def rehearse(self, rows: Sequence[Encoded]) -> None:
        """Make a step's first pass, and forget it: what does not fit in memory is found now."""
        rows = [rows[i] for i in self.micro_batches.of(rows)[0]]
        self.differentiate(rows, torch.full((len(rows),), 1 / len(rows)))
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Parameters and the optimiser's state, by name: what a run is gone on with."""
        state: dict[str, Tensor] = {
            f"parameter.{name}": weight for name, weight in self.parameters.items()
        }
        for name, weight in self.parameters.items():
            for key, value in self.optimizer.state[weight].items():
                state[f"{key}.{name}"] = torch.as_tensor(value)
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name, weight in self.parameters.items():
            weight.copy_(state[f"parameter.{name}"])
            kept = self.optimizer.state[weight]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state.get(f"{key}.{name}")
                if value is not None:  # before the first step there is none
                    # Adam keeps the count of steps on the CPU.
                    kept[key] = value.clone() if key == "step" else value.to(weight.device)

    def _accumulate(self, rows: Sequence[Encoded], shares: Float[Tensor, " R"]) -> Tensor:
        """Losses of this process's rows, 0 for the others; their gradient is left in place."""
        for weight in self.parameters.values():
            weight.grad = torch.zeros_like(weight)
        losses = torch.zeros(len(rows), device=self.lm.device)
        for places, needs_gradient in self._passes(rows, shares):
            # A pass that only others have: the shortest row, for nothing.
            chosen = [rows[i] for i in places or self._shortest(rows)]
            batch = self.micro_batches.batch(chosen, self.lm.pad_id).to(self.lm.device)
            with torch.set_grad_enabled(needs_gradient):
                batch_losses = sample_nll(token_nll(self.lm.model, batch))
            if needs_gradient:
                share = shares[places].to(self.lm.device) if places else 0.0
                (share * batch_losses).sum().backward()
            if places:
                losses[places] = batch_losses.detach().float()
        return losses

    def _passes(
        self, rows: Sequence[Encoded], shares: Float[Tensor, " R"]
    ) -> Iterator[tuple[list[int] | None, bool]]:
        """Places of rows of similar length, and whether they need a gradient: never mixed."""
        for needs_gradient in (True, False):
            places = [i for i in range(len(rows)) if bool(shares[i] != 0) == needs_gradient]
            # Dealt out in the order of their lengths, so that all processes have as much to do.
            places.sort(key=lambda i: (-len(rows[i].input_ids), rows[i].id))
            mine = processes().share_of(places)
            passes = self.micro_batches.of([rows[i] for i in mine])
            for turn in equal_turns(self.lm.model, passes):
                yield None if turn is None else [mine[i] for i in turn], needs_gradient

    def _shortest(self, rows: Sequence[Encoded]) -> list[int]:
        return [min(range(len(rows)), key=lambda i: len(rows[i].input_ids))]


def make_levels(
    lm: LanguageModel,
    *,
    num_levels: int,
    tuning: Tuning,
    lora: LoraSpec,
    learning_rate: float,
    betas: tuple[float, float],
    max_grad_norm: float,
    micro_batch_size: int | None,
    seed: int,
) -> list[Level]:
    """Equal parameter vectors that start at the aligned model: theta, then theta_hat.

    Args:
        lm: The aligned model.
        num_levels: 1 (theta) or 2.
        tuning: "lora": one adapter per level on the frozen base. "full": every weight; the second
            level is a copy of the model.
        lora: The adapters, with tuning="lora".
        learning_rate: Of Adam.
        betas: Of Adam.
        max_grad_norm: For clipping.
        micro_batch_size: Most rows per pass; None leaves it to their tokens.
        seed: Initial values of the adapters.

    Raises:
        ValueError: If all weights of a half-precision model are to be tuned: steps of the usual
            size would be rounded away.
    """
    is_lora = tuning == "lora"
    if not is_lora:
        refuse_sharded(lm.model, "rank.tuning=full")
    models = _adapters(lm, lora, num_levels, seed) if is_lora else _copies(lm, num_levels)
    levels = []
    for model, activate in models:
        activate()
        named = model.model.named_parameters()
        parameters = {name: weight for name, weight in named if weight.requires_grad}
        optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate, betas=betas)
        micro_batches = MicroBatches(
            default_tokens(model.device),
            micro_batch_size,
            retries=not is_sharded(model.model),
            is_packed=is_packed(model.model),
            is_even=needs_even_rows(model.model),
        )
        levels.append(Level(model, activate, parameters, optimizer, micro_batches, max_grad_norm))
    return levels


def take_off_adapters(level: Level) -> None:
    """Leave the aligned model as it was before `make_levels` put adapters on it.

    With tuning="full" it was changed itself, and stays so.
    """
    if isinstance(level.lm.model, PeftModel):
        level.lm.model.unload()


def _adapters(
    lm: LanguageModel, lora: LoraSpec, num_levels: int, seed: int
) -> list[tuple[LanguageModel, Callable[[], None]]]:
    names = ["theta", "theta_hat"][:num_levels]
    model = add_lora(lm.model, lora, seed=seed, name=names[0])
    for name in names[1:]:
        add_lora(model, lora, seed=seed, name=name)  # the same seed: equal initial values
    model.eval()
    shared = LanguageModel(model, lm.tokenizer, lm.encoder, lm.pad_id)
    # PEFT's set_adapter also moves requires_grad: what is not active cannot be trained by accident.
    return [(shared, lambda name=name: model.set_adapter(name)) for name in names]


def _copies(lm: LanguageModel, num_levels: int) -> list[tuple[LanguageModel, Callable[[], None]]]:
    dtype = next(lm.model.parameters()).dtype
    if dtype != torch.float32:
        raise ValueError(
            f"rank.tuning=full needs float32 weights, this model has {dtype}: steps of the usual "
            "size are rounded away in half precision. Set model.dtype=float32, or rank.tuning=lora."
        )
    lm.model.requires_grad_(True)
    models = [lm.model] + [copy.deepcopy(lm.model) for _ in range(num_levels - 1)]
    return [
        (LanguageModel(model, lm.tokenizer, lm.encoder, lm.pad_id), lambda: None)
        for model in models
    ]


def _problem(rows: Sequence[Encoded], bad: Sequence[str], norm: float) -> str:
    if bad:
        return f"the loss of {len(bad)} samples is not finite: {', '.join(bad[:5])}"
    if not math.isfinite(norm):
        names = ", ".join(row.id for row in rows[:5])
        return f"the gradient is {norm} on a step over the samples {names}, ..."
    return ""
