"""The run folder: where each artifact lies, and when one may be reused."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from seal.artifacts.atomic import new_folder
from seal.artifacts.memory import peak_memory_bytes
from seal.artifacts.provenance import (
    RECORD,
    Provenance,
    check_files,
    differences,
    environment,
    load_provenance,
    made_files,
    save_provenance,
)
from seal.processes import Processes, processes

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folders of a run.

    Attributes:
        root: The run's folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; `seal run` on it replays the run."""
        return self.root / "config.yaml"

    @property
    def rank(self) -> Path:
        """Holds ranking.parquet."""
        return self.root / "rank"

    @property
    def tables(self) -> Path:
        """Holds the loss tables and what else a forward pass said, by content."""
        return self.root / "tables"

    def checkpoints_of(self, folder: Path) -> Path:
        """Holds the state of an artifact while it is made."""
        return self.root / "checkpoints" / folder.relative_to(self.root)

    @property
    def data(self) -> Path:
        """Holds the samples and tokens of large sets, by content, as memory-mapped files."""
        return self.root / "data"

    @property
    def select(self) -> Path:
        """Holds selection.parquet and selected.jsonl of the ranking's own choice."""
        return self.root / "select"

    def arm_rank(self, arm: str) -> Path:
        """Holds ranking.parquet of an arm that has a ranker of its own."""
        return self.root / "arms" / arm / "rank"

    def arm_select(self, arm: str) -> Path:
        """Holds selection.parquet of an arm that has a ranker or a selection of its own."""
        return self.root / "arms" / arm / "select"

    def train(self, arm: str, seed: int) -> Path:
        """Holds the adapter or model of one arm and training seed."""
        return self.root / "train" / arm / f"seed-{seed}"

    def merge(self, arm: str, seed: int) -> Path:
        """Holds model/, the adapter of one arm and training seed worked into the base."""
        return self.root / "merge" / arm / f"seed-{seed}"

    def evaluate(self, arm: str, seed: int) -> Path:
        """Holds what was measured on one arm and training seed."""
        return self.root / "evaluate" / arm / f"seed-{seed}"

    def pairwise(self, arm: str, seed: int, task: str, against: str) -> Path:
        """Holds which of two arms' answers were preferred, and the win rate."""
        return self.root / "pairwise" / arm / f"seed-{seed}" / f"{task}-against-{against}"

    @property
    def responses(self) -> Path:
        """Holds every answer of every model, as it was given; evaluations read them."""
        return self.root / "responses"

    @property
    def judgements(self) -> Path:
        """Holds what judges said, by judge; every arm and seed shares it."""
        return self.root / "judgements"

    @property
    def bench(self) -> Path:
        """Holds bench.md, bench.json, bench.svg and a folder for each ranker that is compared."""
        return self.root / "bench"

    @property
    def report(self) -> Path:
        """Holds index.html and report.json."""
        return self.root / "report"

    def like(self, folder: Path) -> list[Path]:
        """The other finished artifacts of this run that are of the same kind."""
        patterns = {
            "rank": ("rank", "arms/*/rank"),
            "select": ("select", "arms/*/select"),
        }.get(folder.name, (f"{folder.relative_to(self.root).parts[0]}/*/seed-*",))
        found = {path for pattern in patterns for path in self.root.glob(pattern)}
        return sorted(path for path in found - {folder} if not path.name.startswith("."))


def rebuild(folder: Path, build: Callable[[Path], object]) -> None:
    """Make a folder that follows from others; what was there goes when the new one is complete."""
    fresh = folder.with_name(f".{folder.name}.new")

    def build_alone() -> None:
        shutil.rmtree(fresh, ignore_errors=True)
        with new_folder(fresh) as temporary:
            build(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)

    processes().first_does(build_alone)


def is_current(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether `build_or_reuse` would find the very same artifact there."""
    try:
        return not differences(load_provenance(folder).identity, _as_on_disk(identity))
    except ValueError:  # there is none, or none that can be read
        return False


def is_running(folder: Path) -> bool:
    """Whether a process, on this machine, is making that artifact at this moment."""
    return any(_is_locked(path) for path in _partial(folder))


def twin_of(others: Iterable[Path], identity: dict[str, Any]) -> Path | None:
    """The first of some finished artifacts that is the very same, if any."""
    return next((folder for folder in others if is_current(folder, identity)), None)


def copy_of(twin: Path, name: str) -> Callable[[Path], Mapping[str, Any]]:
    """A way of building an artifact: link or copy the files of the very same one.

    Args:
        twin: A finished artifact of equal identity.
        name: What to call it in the notes of the new one.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        check_files(twin)
        shutil.copytree(
            twin,
            folder,
            copy_function=_link,
            ignore=lambda where, _: {RECORD} if Path(where) == twin else set(),
            dirs_exist_ok=True,
        )
        return {"copied_from": name}

    return build


def build_or_reuse(
    folder: Path,
    identity: dict[str, Any],
    build: Callable[[Path], Mapping[str, Any] | None],
    everyone: Processes | None = None,
) -> bool:
    """Make an artifact's folder, unless the very same is there already.

    Identity comes first, reuse second: a finished folder of equal identity is kept as it is, one of
    another identity is never touched, a missing one is built under a temporary name and renamed.
    What a killed process left of an earlier attempt is removed first.

    Args:
        folder: The artifact's folder.
        identity: All that decides its content, as JSON.
        build: Fills the (temporary) folder it is given; may return what to note besides.
        everyone: Those who build together, of whom the first one's files count; None: all.

    Returns:
        Whether it was built (true) or reused.

    Raises:
        ValueError: If the folder holds another artifact, naming each difference, or a file of it
            is not as it was made, or another process is making it at this moment.
    """
    plain = _as_on_disk(identity)
    is_there = _is_reusable(folder, plain)
    everyone = everyone or processes()
    everyone.wait()  # all have looked before one begins
    if is_there:
        return False
    start, worked = time.monotonic(), time.process_time()
    with ExitStack() as stack:
        temporary = everyone.first_does(lambda: _claim(folder, stack))
        if not everyone.is_first:  # what the others write is nobody's
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        besides = build(temporary) or {}
        noted = {
            **environment(),
            "seconds": round(max(0.0, time.monotonic() - start), 3),
            "cpu_seconds": round(max(0.0, time.process_time() - worked), 3),  # of all its threads
            "peak_memory_bytes": peak_memory_bytes(),  # of the process, up to now
            **({"num_processes": everyone.size} if everyone.size > 1 else {}),
            **besides,
        }
        save_provenance(Provenance(plain, noted, made_files(temporary)), temporary)
    everyone.wait()
    return True


def _is_reusable(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the very same artifact is there; see `build_or_reuse` for what it raises."""
    if not folder.exists():
        return False
    lines = differences(load_provenance(folder).identity, identity)
    if not lines:
        check_files(folder)
        return True
    shown = "\n  ".join(lines[:8]) + (f"\n  and {len(lines) - 8} more" if lines[8:] else "")
    raise ValueError(
        f"{folder} was made from something else:\n  {shown}\n"
        f"Delete {folder} to make it again, or give another run_dir."
    )


def build_or_wait(
    folder: Path, identity: dict[str, Any], build: Callable[[Path], Mapping[str, Any] | None]
) -> bool:
    """As `build_or_reuse`, but what another process is making is waited for, and then reused.

    Raises:
        ValueError: If the folder holds another artifact, or a file of it is not as it was made.
    """

    def build_when_free() -> bool:
        while True:
            try:
                return build_or_reuse(folder, identity, build, Processes())
            except _BusyError:
                time.sleep(_POLL_SECONDS)

    return processes().first_does(build_when_free)


class _BusyError(ValueError):
    """Another process is making the artifact, or has just made it."""


def _claim(folder: Path, stack: ExitStack) -> Path:
    """Begin an artifact, as the only process that makes it; returns its temporary folder."""
    above = next(path for path in folder.parents if path.exists())
    with _locked(above, wait=True):  # or two could look before either has begun
        _remove_abandoned(folder)
        if folder.exists():
            raise _BusyError(f"{folder} has just been made by another process. Start again.")
        running = [path for path in _partial(folder) if _is_locked(path)]
        if running:
            process = running[0].name.removeprefix(f".{folder.name}-").partition("-")[0]
            raise _BusyError(
                f"{folder} is being made by another process ({process}). Wait until it is done, or "
                "end it, and run the same command again; or give another run_dir."
            )
        temporary = stack.enter_context(new_folder(folder))
        stack.enter_context(_locked(temporary))
    return temporary


def _as_on_disk(identity: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(identity, allow_nan=False))  # tuples become lists


def _link(source: str, target: str) -> str:
    """One file under two names; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        return shutil.copy2(source, target)
    return target


def _partial(folder: Path) -> list[Path]:
    """The temporary folders of attempts at an artifact; see `new_folder`."""
    if not folder.parent.is_dir():
        return []
    start, end = f".{folder.name}-", ".partial"
    found = (path for path in folder.parent.iterdir() if path.is_dir())
    return [path for path in found if path.name.startswith(start) and path.name.endswith(end)]


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock on a folder, which ends with the process however that ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _try_lock(handle, wait=wait)  # a file system without locks is no obstacle
        yield
    finally:
        os.close(handle)


def _is_locked(folder: Path) -> bool | None:
    """Whether a process holds the folder's lock; None where that cannot be told."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # it has just got its name, or vanished
        return None
    try:
        taken = _try_lock(handle)
        return None if taken is None else not taken
    finally:
        os.close(handle)


def _try_lock(handle: int, *, wait: bool = False) -> bool | None:
    """Whether the lock could be taken; None where the file system has none."""
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(folder: Path) -> None:
    for path in _partial(folder):
        if _is_locked(path) is False:
            shutil.rmtree(path, ignore_errors=True)
