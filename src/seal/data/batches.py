"""Batches of encoded samples, and the order in which samples are visited.

Dimension key: B samples of a batch, T tokens of the longest of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from seal.data.tokenize import Encoded


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples padded on the left, so that their responses end in the same column.

    Attributes:
        ids: Whose the rows are.
        input_ids: Tokens; the pad id left of a sample's first token.
        attention_mask: 1 on a sample's tokens, 0 on the padding.
        position_ids: 0 at a sample's first token, counting up; 0 on the padding.
        response_mask: Which tokens carry the loss.
    """

    ids: tuple[str, ...]
    input_ids: Int64[Tensor, "B T"]
    attention_mask: Int64[Tensor, "B T"]
    position_ids: Int64[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.ids,
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.position_ids.to(device),
            self.response_mask.to(device),
        )


def collate(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """One batch of the rows, in their order, on the CPU.

    Args:
        rows: At least one.
        pad_id: Fills the padding; it is never attended to nor scored.
    """
    assert rows
    shape = (len(rows), max(len(row.input_ids) for row in rows))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    response_mask = np.zeros(shape, dtype=bool)
    for place, row in enumerate(rows):
        start = shape[1] - len(row.input_ids)
        input_ids[place, start:] = row.input_ids
        attention_mask[place, start:] = 1
        response_mask[place, start:] = row.response_mask
    position_ids = np.maximum(attention_mask.cumsum(axis=1) - 1, 0)
    return Batch(
        tuple(row.id for row in rows),
        torch.from_numpy(input_ids),
        torch.from_numpy(attention_mask),
        torch.from_numpy(position_ids),
        torch.from_numpy(response_mask),
    )


def length_batches(
    rows: Sequence[Encoded], max_rows: int, max_tokens: int | None = None
) -> list[list[int]]:
    """Places of the rows in batches of similar length, the longest first.

    The longest batch comes first so that a run that does not fit in memory fails at once. Which
    rows share a batch depends on their lengths and ids only, never on their order.

    Args:
        rows: May be empty.
        max_rows: Rows per batch; the last batch may hold fewer.
        max_tokens: Tokens per batch, padding included; None sets no limit. A row that is longer
            has a batch of its own.

    Raises:
        ValueError: If `max_rows` is below 1.
    """
    if max_rows < 1:
        raise ValueError(f"a batch must hold at least 1 row; max_rows is {max_rows}. Raise it.")
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].input_ids), rows[i].id))
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = len(rows[order[start]].input_ids)
        most = max_rows if max_tokens is None else min(max_rows, max(1, max_tokens // longest))
        batches.append(order[start : start + most])
        start += most
    return batches


def longest_rows(rows: Sequence[Encoded], num: int) -> list[Encoded]:
    """The rows with the most tokens, at most `num` of them."""
    return sorted(rows, key=lambda row: (-len(row.input_ids), row.id))[:num]


def epoch_order(num: int, *, seed: int, stream: str, epoch: int) -> Int[np.ndarray, " num"]:
    """A permutation of 0 .. num - 1 that is a pure function of the arguments.

    Nothing is carried from epoch to epoch, so a resumed run needs no generator state. Keys are raw
    Philox words: NumPy keeps those equal across versions, which it does not promise of
    `permutation`.

    Args:
        num: How many samples.
        seed: The run's seed.
        stream: What the order is for ("pool", "safe"); streams are independent of each other.
        epoch: Counted from 0.
    """
    digest = hashlib.sha256(f"{seed}:{epoch}:{stream}".encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    keys = np.asarray(generator.random_raw(num), dtype=np.uint64)
    return np.argsort(keys, kind="stable").astype(np.int64)
