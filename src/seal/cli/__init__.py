"""The command line: one command per verb; each parses, calls and prints.

Nothing heavy is imported before a command runs, so that --help is there at once.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from seal import interrupts
from seal.budget import BudgetSpent
from seal.cli import judges, stages, tools
from seal.cli.app import BAD_INPUT, BUG, DONE, INTERRUPTED, app, complain, say

__all__ = ["judges", "main", "stages", "tools"]

_TYPER_INTERRUPTED = 130
# Ctrl-C; what ends a process politely; what SLURM sends before it takes a machine away.
_SIGNALS = (signal.SIGINT, signal.SIGTERM) + ((signal.SIGUSR1,) if sys.platform != "win32" else ())
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# The Hub's client tells of every connection that it tries anew; where there is no network, our own
# message at the end says it all. What a server answers (503, a rate limit) stays.
_RETRIES = re.compile(r"'.*' thrown while requesting |Retrying in [0-9.]+s \[Retry ", re.DOTALL)
_HUB_CLIENT = "huggingface_hub.utils._http"
_THEIRS = (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's own) and return its exit code."""
    # TRL counts its uses for its makers; nobody here is told of a run without being asked.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    logging.getLogger(_HUB_CLIENT).addFilter(_is_no_retry)
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # of what a shell starts in the background
                signal.signal(number, _interrupt)
        app(args=arguments, prog_name="seal")
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        return _interrupted() if stop.code == _TYPER_INTERRUPTED else stop.code
    except KeyboardInterrupt:
        return _interrupted()
    except BudgetSpent as stop:
        complain(str(stop))
        return INTERRUPTED
    except Exception as error:  # the outermost place: it is told, or shown as a bug
        return _failed(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return DONE


def _is_no_retry(record: logging.LogRecord) -> bool:
    return _RETRIES.match(record.getMessage()) is None


def _show_version(wanted: bool) -> None:
    if wanted:
        import seal

        say(f"seal {seal.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    pass


def _failed(error: Exception) -> int:
    """Tell what went wrong; returns the exit code."""
    # safetensors has an exception of its own, without a number.
    no_space = "No space left on device" in str(error) or (
        isinstance(error, OSError) and error.errno in _NO_SPACE
    )
    theirs = no_space or isinstance(error, _THEIRS)
    if not theirs or os.environ.get("SEAL_TRACEBACK"):
        complain("".join(traceback.format_exception(error)).rstrip("\n"))
    if not theirs:
        complain("This is a bug in seal. Please report it with the lines above.")
        return BUG
    if no_space:
        complain(f"The disk is full ({error}). Free some space, then run the same command again.")
    elif isinstance(error, OSError) and error.filename is not None:
        complain(f"{error.filename}: {error.strerror}.")
    else:
        complain(str(error) or type(error).__name__)
    return BAD_INPUT


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's signature)
    """End the work tidily, once; a second signal, of whatever kind, ends the process at once."""
    for other in _SIGNALS:
        if signal.getsignal(other) is _interrupt:
            signal.signal(other, signal.SIG_DFL)
    interrupts.ask()


def _interrupted() -> int:
    if os.environ.get("RANK", "0") == "0":  # all are interrupted together
        complain("Interrupted. Run the same command again to go on.")
    return INTERRUPTED
