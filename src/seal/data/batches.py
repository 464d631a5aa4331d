"""Batches of encoded samples, and the order in which samples are visited.

Dimension key: B samples of a batch; S its rows and T its columns: a row for each sample and as
many columns as the longest has tokens, or one row for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Shaped
from torch import Tensor

from seal.data.tokenize import Encoded


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples padded on the left, so that their responses end in the same column, or packed.

    Attributes:
        ids: Whose the samples are, in their order.
        input_ids: Tokens; the pad id left of a padded sample's first token.
        attention_mask: 1 on a sample's tokens, 0 on the padding. It does not tell packed samples
            apart; the position ids do.
        position_ids: 0 at a sample's first token, counting up; 0 on the padding.
        response_mask: Which tokens carry the loss.
        lengths: Tokens of each sample, where they lie one after the other in a single row; None
            where each is padded and has a row of its own.
    """

    ids: tuple[str, ...]
    input_ids: Int64[Tensor, "S T"]
    attention_mask: Int64[Tensor, "S T"]
    position_ids: Int64[Tensor, "S T"]
    response_mask: Bool[Tensor, "S T"]
    lengths: tuple[int, ...] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            position_ids=self.position_ids.to(device),
            response_mask=self.response_mask.to(device),
        )

    def by_sample(self, values: Shaped[Tensor, "S T"]) -> tuple[Shaped[Tensor, " _"], ...]:
        """Each sample's part of a tensor with a value per token; that of the padding with it."""
        return values.unbind() if self.lengths is None else values[0].split(self.lengths)


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


def pack(rows: Sequence[Encoded]) -> Batch:
    """One batch of the rows, in their order and without padding, on the CPU.

    Only a model that tells samples apart by their position ids may be given it; see `seal.packing`.

    Args:
        rows: At least one, and none empty.
    """
    assert rows
    lengths = tuple(len(row.input_ids) for row in rows)
    assert all(lengths)
    input_ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    response_mask = np.concatenate([row.response_mask for row in rows]).astype(bool)
    position_ids = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    return Batch(
        tuple(row.id for row in rows),
        torch.from_numpy(input_ids)[None],
        torch.ones(1, len(input_ids), dtype=torch.int64),
        torch.from_numpy(position_ids)[None],
        torch.from_numpy(response_mask)[None],
        lengths,
    )


def length_batches(
    rows: Sequence[Encoded],
    max_rows: int,
    max_tokens: int | None = None,
    *,
    is_packed: bool = False,
    is_even: bool = False,
) -> list[list[int]]:
    """Places of the rows in batches of similar length, the longest first.

    The longest batch comes first so that a run that does not fit in memory fails at once. Which
    rows share a batch depends on their lengths and ids only, never on their order.

    Args:
        rows: May be empty.
        max_rows: Rows per batch; the last batch may hold fewer.
        max_tokens: Tokens per batch, padding included; None sets no limit. A row that is longer
            has a batch of its own.
        is_packed: The batches will have no padding, because rows lie one after the other.
        is_even: They will have none, because all rows of a batch have as many tokens.

    Raises:
        ValueError: If `max_rows` is below 1.
    """
    if max_rows < 1:
        raise ValueError(f"a batch must hold at least 1 row; max_rows is {max_rows}. Raise it.")
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].input_ids), rows[i].id))
    batches: list[list[int]] = []
    num_tokens = width = 0
    for place in order:
        length = len(rows[place].input_ids)
        num_tokens += length if is_packed else width
        if (
            not batches
            or len(batches[-1]) == max_rows
            or (is_even and length != width)
            or (max_tokens is not None and num_tokens > max_tokens)
        ):
            batches.append([])
            num_tokens = width = length
        batches[-1].append(place)
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
