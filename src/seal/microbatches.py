"""How many rows go through a model at once: by their tokens, and fewer where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from seal.data.batches import Batch, collate, length_batches, pack
from seal.data.tokenize import Encoded

logger = logging.getLogger(__name__)

# Tokens of a pass, padding included where there is any. On a CPU larger passes fall out of the
# caches (docs/LOG.md); the number for other devices has not been measured.
TOKENS_ON_CPU = 2_048
TOKENS_ELSEWHERE = 16_384

_ON_CPU = ("DefaultCPUAllocator", "can't allocate memory")  # what a plain RuntimeError says there

_Result = TypeVar("_Result")


def default_tokens(device: torch.device) -> int:
    """How many tokens go through a model at once, where nothing is said."""
    return TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ELSEWHERE


class MicroBatches:
    """A limit to the rows of a pass. It changes memory and speed; results only by rounding.

    Attributes:
        max_tokens: Rows times the tokens of the longest, or the rows' own tokens where they are
            packed; a single row may have more. None sets no limit.
        max_rows: Likewise.
        retries: Whether to go on with smaller passes where memory runs out: not where other
            processes wait in the middle of one.
        is_packed: Whether the rows of a pass are packed, not padded.
        is_even: Whether they must have equally many tokens (see `seal.padding`).
    """

    def __init__(
        self,
        max_tokens: int | None,
        max_rows: int | None = None,
        *,
        retries: bool = True,
        is_packed: bool = False,
        is_even: bool = False,
    ) -> None:
        self.max_tokens = max_tokens
        self.max_rows = max_rows
        self.retries = retries
        self.is_packed = is_packed
        self.is_even = is_even and not is_packed

    def of(self, rows: Sequence[Encoded]) -> list[list[int]]:
        """Places of the rows, pass by pass; see `length_batches`."""
        most = self.max_rows or len(rows) or 1
        return length_batches(
            rows, most, self.max_tokens, is_packed=self.is_packed, is_even=self.is_even
        )

    def batch(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """The rows of a pass, on the CPU."""
        return pack(rows) if self.is_packed else collate(rows, pad_id)

    def fitted(self, rows: Sequence[Encoded], work: Callable[[], _Result]) -> _Result:
        """Do work on rows; where memory runs out, halve the limit and do all of it again.

        Args:
            rows: What the work is on.
            work: Asks `of` for its passes, and leaves nothing behind when it fails.

        Raises:
            ValueError: If memory runs out with one row at a time.
        """
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not self.retries or not is_out_of_memory(error):
                    raise
                self._halve(rows, error)

    def _halve(self, rows: Sequence[Encoded], error: Exception) -> None:
        largest = max(len(places) for places in self.of(rows))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if largest == 1:
            longest = max(rows, key=lambda row: len(row.input_ids))
            raise ValueError(
                f"memory runs out with a single sample at a time; the longest, {longest.id}, has "
                f"{len(longest.input_ids)} tokens ({str(error).splitlines()[0]}). Lower "
                "tokenization.max_length, load the model in a smaller dtype, or use a larger GPU."
            ) from error
        self.max_rows = max(1, largest // 2)
        logger.warning(
            "memory ran out with %d samples at a time; going on with %d, results stay the same",
            largest, self.max_rows,
        )  # fmt: skip


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that a device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in _ON_CPU)
