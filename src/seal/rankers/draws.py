"""Drawing rows of a large set: a function of a seed and of ids, never of the order of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from seal.data.tokenize import Encoded


def draw_rows(rows: Sequence[Encoded], count: int, *, seed: int, stream: str = "") -> list[Encoded]:
    """At most `count` rows, in ascending order of id.

    A row that is drawn stays drawn when others go.

    Args:
        rows: In any order.
        count: At least 1.
        seed: Names the draw.
        stream: What the draw is for; streams are independent of each other.
    """
    drawn = sorted(rows, key=lambda row: draw_key(row.id, seed, stream))
    return sorted(drawn[:count], key=lambda row: row.id)


def draw_key(key: str, seed: int, stream: str = "") -> str:
    """What ids are drawn in the order of: 64 hex digits."""
    name = f"{seed}:{stream}" if stream else f"{seed}"
    return hashlib.sha256(f"{name}:{key}".encode()).hexdigest()


def drawn_share(count: int, num: int) -> float:
    """Share of `num` rows that `draw_rows` takes; 0 of no rows."""
    return min(count, num) / max(num, 1)
