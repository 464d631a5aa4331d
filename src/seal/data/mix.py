"""Mixing: a share of a second data set put into a training set, as SafeInstr does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from seal.data.tokenize import Encoded


def mix_in(
    encoded: Sequence[Encoded], extra: Sequence[Encoded], share: float, seed: int
) -> list[Encoded]:
    """The samples of `encoded`, with as many of `extra` as make up `share` of the result.

    That is n = round(share / (1 - share) * len(encoded)) samples. They are drawn without
    replacement; where `extra` has fewer than n, each of its samples is taken floor(n / len(extra))
    times and the rest is drawn, so that no two samples differ in count by more than one. Which
    samples are drawn, and the order of the result, depend on the seed and the ids alone: neither
    order of the inputs matters.

    Args:
        encoded: The training set.
        extra: The samples to mix in.
        share: Of the result that comes from `extra`, in (0, 1).
        seed: Names the draw.

    Raises:
        ValueError: If there is nothing to mix in.
    """
    assert 0 < share < 1
    if not extra:
        raise ValueError(
            f"train.mix: share={share} of the training set is to come from a second data set, but "
            "that has no usable samples. Look at its excluded.jsonl, or remove train.mix."
        )
    num_extra = round(share / (1 - share) * len(encoded))
    rounds, rest = divmod(num_extra, len(extra))
    drawn = sorted(extra, key=lambda row: _key("draw", seed, row.id))
    mixed = [("0", row) for row in encoded]
    mixed += [(f"{turn + 1}", row) for turn in range(rounds) for row in drawn]
    mixed += [(f"{rounds + 1}", row) for row in drawn[:rest]]
    return [row for turn, row in sorted(mixed, key=lambda pair: _key(pair[0], seed, pair[1].id))]


def _key(purpose: str, seed: int, sample_id: str) -> bytes:
    """Random bytes that are a function of their arguments, for sorting."""
    return hashlib.sha256(f"mix:{purpose}:{seed}:{sample_id}".encode()).digest()
