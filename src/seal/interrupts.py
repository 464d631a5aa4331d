"""Signals that ask work to stop: at once, or where its state is worth keeping, at its next step.

The command line's signal handler calls `ask`. Work that can save its state does so inside `polled`,
where being asked only raises a flag; everywhere else it is a KeyboardInterrupt, as Ctrl-C is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class _State:
    polling = 0  # how many blocks are open
    asked = False


_state = _State()


def ask() -> None:
    """Ask the work to stop.

    Raises:
        KeyboardInterrupt: At once, unless the work polls.
    """
    if not _state.polling:
        raise KeyboardInterrupt
    _state.asked = True


def asked() -> bool:
    """Whether the work has been asked to stop, and has not done so yet."""
    return _state.asked


def stop() -> None:
    """Do what was asked for, now that the state is saved.

    Raises:
        KeyboardInterrupt: Always.
    """
    _state.asked = False
    raise KeyboardInterrupt


@contextmanager
def polled() -> Iterator[None]:
    """Work that looks at `asked` after each of its steps, and calls `stop`.

    Raises:
        KeyboardInterrupt: At the end of the block, if it was asked to stop and has not.
    """
    _state.polling += 1
    try:
        yield
    except BaseException:
        _state.asked = False  # the work ends as it is
        raise
    finally:
        _state.polling -= 1
    if _state.asked and not _state.polling:
        stop()
