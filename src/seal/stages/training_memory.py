"""What fits into memory: the longest micro-batch is tried first, and smaller ones after it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import nn
from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

from seal.data.tokenize import Encoded
from seal.microbatches import is_out_of_memory
from seal.processes import processes
from seal.stages.trainer import WatchedTrainer
from seal.stages.training_state import trained_weights

logger = logging.getLogger(__name__)


class NoRoomError(Exception):
    """The longest micro-batch does not fit into memory, on one process at least."""


def may_run_out(device: torch.device) -> bool:
    """Whether the device refuses what it has no memory for."""
    return device.type != "cpu"  # which swaps before it fails


def rehearse(trainer: WatchedTrainer) -> None:
    """Loss and gradient of the longest micro-batch, and forget them.

    Raises:
        NoRoomError: If memory runs out, on all processes alike.
    """
    model, dataset = cast(nn.Module, trainer.model), cast(Dataset, trainer.train_dataset)
    rows = trainer.watch.rows
    number = trainer.args.per_device_train_batch_size
    longest = sorted(range(len(rows)), key=lambda place: -len(rows[place].input_ids))[:number]
    problem = ""
    gpus = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            batch = trainer.data_collator([dataset[place] for place in longest])
            batch = cast(dict[str, Any], send_to_device(batch, trainer.args.device))
            model.train()
            # What Adam will keep of each weight, from its first step on.
            weights = trained_weights(model).values()
            moments = [torch.empty_like(weight) for weight in weights for _ in range(2)]
            said = model(**batch, use_cache=False, fused_lm_head=True)
            trainer.accelerator.backward(-said.log_probs.sum())
            del moments, said, batch
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error).splitlines()[0]
    model.zero_grad()
    if processes().any(bool(problem)):
        raise NoRoomError(problem or "on another process")


def smaller(config: SFTConfig, rows: Sequence[Encoded], error: Exception) -> SFTConfig:
    """The same settings with fewer samples at a time, and as many per step.

    Raises:
        ValueError: If it is one at a time already.
    """
    before = config.per_device_train_batch_size
    if before == 1:
        longest = max(rows, key=lambda row: len(row.input_ids))
        raise ValueError(
            f"memory runs out with a single sample at a time; the longest, {longest.id}, has "
            f"{len(longest.input_ids)} tokens ({_first_line(error)}). Lower "
            "tokenization.max_length, train an adapter (train.tuning=lora), set model.dtype or "
            "model.quantization to something smaller, or shard the model over several GPUs."
        ) from error
    config = copy.copy(config)
    config.per_device_train_batch_size, config.gradient_accumulation_steps = _halved(config)
    logger.warning(
        "memory ran out with %d samples at a time; going on with %d, and results stay the same "
        "(per_device_train_batch_size=%d, gradient_accumulation_steps=%d)",
        before, config.per_device_train_batch_size,
        config.per_device_train_batch_size, config.gradient_accumulation_steps,
    )  # fmt: skip
    return config


def _halved(config: SFTConfig) -> tuple[int, int]:
    """Micro-batch and accumulation, of equal product, the former at most half of what it is."""
    before = config.per_device_train_batch_size
    after = max(number for number in range(1, before // 2 + 1) if before % number == 0)
    return after, config.gradient_accumulation_steps * (before // after)


def say_smaller(config: SFTConfig, error: Exception) -> str:
    """That one of several processes has no memory left, and the way out."""
    number = config.per_device_train_batch_size
    if number == 1:
        return f"memory runs out with a single sample per process ({_first_line(error)})."
    each, times = _halved(config)
    return (
        f"memory ran out with {number} samples per process ({_first_line(error)}). Set "
        f"train.args.per_device_train_batch_size={each} and gradient_accumulation_steps="
        f"{times * processes().size}: the results stay the same."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
