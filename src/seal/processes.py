"""The processes of one launch, and the few things that they do together.

`accelerate launch` and `torchrun` start the same command several times. All processes run the same
code on the same data and come to the same results; work is dealt out among them where it is heavy,
and the first of them alone writes. One process is a launch of one, in which all of this is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_Item = TypeVar("_Item")

# How long one waits for another, which may read a large set or ask a server meanwhile. One that
# ends makes its launcher end all, so this is only for one that hangs.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Processes:
    """Who this process is. Every method is to be called by all processes, in the same order.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share_of(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This process's share: every item is in the share of exactly one."""
        return items[self.rank :: self.size]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; dtypes and devices must agree."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, value: _Item) -> list[_Item]:
        """What each process has, in the order of their numbers."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def first_says(self, value: _Item) -> _Item:
        """What the first process has."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def first_does(self, work: Callable[[], _Item]) -> _Item:
        """What work gives that is the first process's alone: writing, asking others.

        Raises:
            ValueError: In all of them, if the work raised one.
        """
        if self.size == 1:
            return work()
        value: Any = None
        error: ValueError | None = None
        if self.is_first:
            try:
                value = work()
            except ValueError as raised:
                error = raised
        value, problem = self.first_says((value, None if error is None else str(error)))
        if problem is not None:
            raise error or ValueError(problem)
        return value

    def any(self, flag: bool) -> bool:
        """Whether it is so for at least one of them."""
        return flag if self.size == 1 else any(self.gather(flag))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


@cache
def processes() -> Processes:
    """The processes of this launch; joins them at the first call.

    Raises:
        ValueError: If the environment speaks of several, but they do not come together.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and not dist.is_initialized():
        return Processes()
    # It reads what its own launcher and torchrun leave in the environment, as TRL's trainer does.
    from accelerate import PartialState  # noqa: PLC0415 (seconds, which one process need not wait)

    on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"
    try:
        state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"WORLD_SIZE={size}, but the processes do not come together ({error}). Start them with "
            "accelerate launch or torchrun, or unset WORLD_SIZE."
        ) from error
    return Processes(state.process_index, state.num_processes)


def refuse_several(what: str) -> None:
    """Refuse work that is for a single process.

    Raises:
        ValueError: If several were launched.
    """
    if processes().size > 1:
        raise ValueError(
            f"{what} runs in one process, but {processes().size} were launched. Start it without "
            "accelerate launch or torchrun."
        )


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))
