"""The state of a training under way: all that a trainer's next step depends on, without pickle.

transformers' own checkpoints hold pickled files and are written in place. This is the same state
as tensors, which `Checkpoints` keeps as safetensors, and as JSON. Weights and the optimiser's state
go by the names of the parameters, so that one file serves any number of processes; what FSDP has
sharded is gathered first.
"""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import Trainer, TrainerState

from seal.processes import processes

_WEIGHT = "parameter"


class TrainingState(NamedTuple):
    """The state after a whole number of steps.

    Attributes:
        tensors: Trained weights, and what the optimiser keeps of each, as "kind.name".
        facts: The rest, as JSON.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether no step is left to do."""
        return self.facts["trainer"]["global_step"] >= self.facts["trainer"]["max_steps"]


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def broken_weight(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with a value that is not finite; "" where there is none."""
    return next((name for name, value in tensors.items() if not is_finite(value)), "")


def is_finite(value: Tensor) -> bool:
    """Whether all values are; of a sharded tensor, those of this process."""
    local = value.to_local() if isinstance(value, DTensor) else value
    return bool(local.isfinite().all())


@torch.no_grad()
def state_of(trainer: Trainer) -> TrainingState:
    """What a trainer between two steps would need to go on; to be called by all processes.

    What is not sharded is not copied: the next step changes it.
    """
    model, optimizer = _parts(trainer)
    tensors: dict[str, Tensor] = {}
    numbers = []
    for name, weight in trained_weights(model).items():
        tensors[f"{_WEIGHT}.{name}"] = whole(weight)
        for kind, value in optimizer.state.get(weight, {}).items():
            key = f"{kind}.{name}"
            if not isinstance(value, Tensor):
                numbers.append(key)
            tensors[key] = whole(torch.as_tensor(value))
    trainer.store_flos()
    scaler = trainer.accelerator.scaler
    facts = {
        # The log has a file of its own.
        "trainer": {**dataclasses.asdict(trainer.state), "log_history": []},
        "numbers": numbers,
        "rates": [group["lr"] for group in optimizer.param_groups],
        "schedule": cast(Any, trainer.lr_scheduler).state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "counts": _counts(trainer),
        "random": processes().gather(_random_state()),
    }
    return TrainingState(tensors, facts)


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the trained weights of a state into a model."""
    for name, weight in trained_weights(model).items():
        weight.copy_(_placed(tensors[f"{_WEIGHT}.{name}"], weight))


def load_state_into(trainer: Trainer, state: TrainingState) -> None:
    """Take over a state, all but the random one; once the trainer has made its optimiser."""
    model, optimizer = _parts(trainer)
    load_weights(model, state.tensors)
    weights = trained_weights(model)
    kept: dict[str, dict[str, Any]] = {name: {} for name in weights}
    for key, value in state.tensors.items():
        kind, _, name = key.partition(".")
        if kind != _WEIGHT:
            is_number = key in state.facts["numbers"]
            kept[name][kind] = value.item() if is_number else _placed(value, weights[name])
    places = [weight for group in optimizer.param_groups for weight in group["params"]]
    place_of = {id(weight): place for place, weight in enumerate(places)}
    groups = optimizer.state_dict()["param_groups"]
    for group, rate in zip(groups, state.facts["rates"], strict=True):
        group["lr"] = rate
    states = {place_of[id(weights[name])]: values for name, values in kept.items() if values}
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    cast(Any, trainer.lr_scheduler).load_state_dict(state.facts["schedule"])
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state.facts["scaler"])
    _set_counts(trainer, state.facts["counts"])


def load_random_state(state: TrainingState) -> bool:
    """Take over this process's random state; false if the launch had other processes then."""
    saved = state.facts["random"]
    if len(saved) != processes().size:
        return False
    own = saved[processes().rank]
    kind, values, gauss = own["python"]
    random.setstate((kind, tuple(values), gauss))
    name, words, *rest = own["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(_as_tensor(own["torch"]))
    if own["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_as_tensor(own["cuda"]))
    return True


def trainer_state(state: TrainingState) -> TrainerState:
    """The trainer's own account of where it is, as its `resume_from_checkpoint` reads it."""
    return TrainerState(**state.facts["trainer"])


def mean_loss(trainer: Trainer, num_steps: int) -> float:
    """The mean of the losses that a trainer has added up for its log, over so many steps."""
    return cast(Any, trainer)._total_loss_scalar / max(num_steps, 1)


def _parts(trainer: Trainer) -> tuple[nn.Module, Optimizer]:
    assert isinstance(trainer.model, nn.Module)
    assert trainer.optimizer is not None, "the trainer has not begun"
    return trainer.model, cast(Optimizer, trainer.optimizer)


def _random_state() -> dict[str, Any]:
    kind, values, gauss = random.getstate()
    name, words, *rest = cast(tuple[Any, ...], np.random.get_state())
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": [kind, list(values), gauss],
        "numpy": [name, words.tolist(), *rest],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": bytes(torch.cuda.get_rng_state().tolist()).hex() if on_gpu else None,
    }


def _as_tensor(state: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)


def _counts(trainer: Any) -> dict[str, Any]:  # noqa: ANN401 (attributes that are not public)
    """What the trainers of transformers and TRL add up for their log between two entries.

    Neither saves them, so that a log that goes on would begin to count anew. They change no weight.
    """
    return {
        "loss": processes().gather(trainer._tr_loss.item()),
        "total_loss": trainer._total_loss_scalar,
        "last_logged": trainer._globalstep_last_logged,
        "num_tokens": trainer._total_train_tokens,
        "metrics": dict(trainer._metrics["train"]),
    }


def _set_counts(trainer: Any, counts: Mapping[str, Any]) -> None:  # noqa: ANN401
    losses = counts["loss"]
    # Of other processes than before, each takes the mean, which is what is logged.
    own = losses[processes().rank] if len(losses) == processes().size else sum(losses) / len(losses)
    trainer._tr_loss.fill_(own)
    trainer._total_loss_scalar = counts["total_loss"]
    trainer._globalstep_last_logged = counts["last_logged"]
    trainer._total_train_tokens = counts["num_tokens"]
    trainer._metrics["train"] = defaultdict(list, counts["metrics"])


def whole(value: Tensor) -> Tensor:
    """A tensor that may be sharded, gathered; then all processes must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _placed(value: Tensor, weight: nn.Parameter) -> Tensor:
    """A whole tensor as the weight's process holds it: sharded alike, if it is of that shape."""
    if isinstance(weight, DTensor) and value.shape == weight.shape:
        value = value.detach().to(weight.device)
        return distribute_tensor(value, weight.device_mesh, weight.placements)
    return value
