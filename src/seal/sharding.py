"""Weights dealt out over the processes of a launch, for models that no device holds alone.

`accelerate launch` with a configuration that says FSDP asks for it. Each process keeps a part of
every frozen weight and gathers a block's weights while they are used (torch's FSDP2). Adapters are
put on afterwards: they stay whole on each, and their gradients are added up as without shards.

Gathering takes all processes, so all must make equally many passes: see `equal_turns`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from seal.blocks import decoder_blocks
from seal.models import LanguageModel, ModelSpec, load_model
from seal.processes import processes

_Turn = TypeVar("_Turn")


def load_for_ranking(spec: ModelSpec) -> LanguageModel:
    """The model to rank with: whole, or in shards where the launch asks for them.

    Raises:
        ValueError: As `load_model` does, and if shards are asked for in another way than FSDP2's.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") != "true" or processes().size == 1:
        return load_model(spec)
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise ValueError(
            "the launch asks for FSDP in version 1, which cannot deal out weights that are not "
            "trained. Set fsdp_version: 2 in accelerate's configuration."
        )
    if spec.quantization is not None:
        raise ValueError(
            f"model.quantization={spec.quantization} cannot be dealt out over processes. Launch "
            "without FSDP, or leave model.quantization out."
        )
    lm = load_model(spec.model_copy(update={"device": "cpu"}))  # where it fits as a whole
    device = "cuda" if torch.cuda.is_available() and spec.device != "cpu" else "cpu"
    mesh = init_device_mesh(device, (processes().size,))
    lm.model.requires_grad_(False)
    for block in decoder_blocks(lm.model):
        fully_shard(block, mesh=mesh)
    fully_shard(lm.model, mesh=mesh)
    return lm


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are dealt out over several processes."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def refuse_sharded(model: nn.Module, what: str) -> None:
    """Refuse work that needs the weights whole.

    Raises:
        ValueError: If they are sharded.
    """
    if is_sharded(model):
        raise ValueError(
            f"{what} needs the whole model in each process. Launch without FSDP, or choose another "
            "ranker (docs/large-runs.md)."
        )


def equal_turns(model: nn.Module, turns: Sequence[_Turn]) -> list[_Turn | None]:
    """This process's turns; with a sharded model followed by None for each that others have more.

    A None stands for a pass whose result nobody needs.
    """
    padded: list[_Turn | None] = list(turns)
    if is_sharded(model):
        most = max(processes().gather(len(turns)))
        padded += [None] * (most - len(turns))
    return padded
