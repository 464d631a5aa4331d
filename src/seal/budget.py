"""The budget of one call: stop before the piece of work that would exceed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class BudgetSpent(Exception):  # noqa: N818 (no error: what is finished stays, and can be gone on with)
    """The next piece of work does not fit; the message says what is done and how to go on."""


class Budget:
    """How much time a call may take, and has taken since this was made.

    Attributes:
        seconds: In all; None sets no limit.
    """

    def __init__(
        self, seconds: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start = clock()
        self._made: list[str] = []
        self._estimates: dict[str, Mapping[str, float | None]] = {}

    def check(self, cell: str, estimate: Callable[[str], Mapping[str, float | None]]) -> None:
        """Refuse a piece of work that would end too late; otherwise it counts as made.

        Args:
            cell: Its folder below the run's, such as "train/all/seed-0".
            estimate: From a kind of cell ("train") to the seconds of each such cell. Called once
                per kind, and not without a limit. Of what has no estimate, only the time already
                spent counts.

        Raises:
            BudgetSpent: If it would not fit.
        """
        if self.seconds is None:
            return
        kind = cell.split("/")[0]
        if kind not in self._estimates and self._elapsed() <= self.seconds:
            self._estimates[kind] = estimate(kind)  # takes time itself
        needed = self._estimates.get(kind, {}).get(cell)
        if self._elapsed() + (needed or 0.0) > self.seconds:
            raise BudgetSpent(self._message(cell, needed))
        self._made.append(cell)

    def _elapsed(self) -> float:
        return self._clock() - self._start

    def _message(self, cell: str, needed: float | None) -> str:
        length = "" if needed is None else f", which is estimated to take {needed:.0f} s"
        made = ", ".join(self._made) or "nothing"
        go_on = "What is finished is kept: run the same command again to go on."
        if needed is not None and needed > (self.seconds or 0.0):
            go_on = "It exceeds the budget on its own: raise budget.seconds to go on."
        return (
            f"budget.seconds={self.seconds:g}: stopped before {cell}{length}; "
            f"{self._elapsed():.0f} s are spent. Made by this call: {made}. {go_on}"
        )
