"""How long-running work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many units are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def renamed(progress: Progress, name: str) -> Progress:
    """The same listener, told `name: what` instead of `what`."""

    def tell(what: str, done: int, total: int) -> None:
        progress(f"{name}: {what}", done, total)

    return tell
