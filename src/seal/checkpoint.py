"""Checkpoints: the state of a piece of work, saved whole or not at all, for the very same work.

    root/identity.json                  all that decides the work
    root/step-000000120/manifest.json   hashes of the files beside it; written last
    root/step-000000120/...             what the work writes

A checkpoint is made under another name and renamed, so a crash at any byte leaves the one before it
as it was. One that is damaged is passed over, with a warning, for the one before it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seal.artifacts.atomic import make_parent, write_json
from seal.artifacts.provenance import differences, file_hash
from seal.artifacts.settings import Settings
from seal.processes import processes

logger = logging.getLogger(__name__)

_IDENTITY, _MANIFEST = "identity.json", "manifest.json"
_STEPS = "step-*"
_TENSORS, _FACTS = "state.safetensors", "state.json"
_ROOM = 1.2  # of the last checkpoint's size, that must be free before the next


class CheckpointSettings(Settings):
    """How often work under way saves its state; changes no result.

    Attributes:
        seconds: Between two checkpoints of a ranking or a training; 0 saves after every step.
        keep: How many are kept: the newest, and those to fall back on.
    """

    seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    keep: int = Field(default=2, ge=1)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole one.

    Attributes:
        step: How many steps were done.
        folder: Holds what the work wrote.
    """

    step: int
    folder: Path


class Checkpoints:
    """The checkpoints of one piece of work.

    Attributes:
        root: Their folder.
        settings: How often, and how many.
    """

    def __init__(
        self,
        root: Path,
        identity: Mapping[str, Any],
        settings: CheckpointSettings = CheckpointSettings(),  # noqa: B008 (frozen)
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The checkpoints in a folder, which need not be there.

        Args:
            root: The folder.
            identity: All that decides the work, as JSON.
            settings: How often, and how many are kept.
            clock: Seconds; going backwards only delays a checkpoint.

        Raises:
            ValueError: If the folder holds checkpoints of other work, with each difference.
        """
        self.root = root
        self.settings = settings
        self._identity = json.loads(json.dumps(identity, allow_nan=False))  # tuples become lists
        self._clock = clock
        self._saved_at = clock()
        self._check_identity()

    def part(self, name: str) -> Checkpoints:
        """Checkpoints of a part of the work, in a folder of their own."""
        own = {**self._identity, "part": name}
        found = Checkpoints(self.root / name, own, self.settings, clock=self._clock)
        if processes().is_first:  # other work must not take the folder for its own
            write_json(self.root / _IDENTITY, self._identity)
        return found

    def due(self) -> bool:
        """Whether it is time for a checkpoint; all processes of a launch are told the same."""
        return processes().any(self._clock() - self._saved_at >= self.settings.seconds)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Make a checkpoint, and drop those that are older than the `keep` newest.

        Args:
            step: How many steps are done.
            write: Fills the folder it is given.

        Raises:
            ValueError: If there is no room, or the folder cannot be written to. The checkpoints
                before stay.
        """
        processes().first_does(lambda: self._save(step, write))
        self._saved_at = self._clock()

    def save_state(
        self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Make a checkpoint of tensors, by name, and of what else is JSON."""

        def write(folder: Path) -> None:
            save_file({name: _plain(value) for name, value in tensors.items()}, folder / _TENSORS)
            write_json(folder / _FACTS, dict(facts))

        self.save(step, write)

    def latest(self) -> Checkpoint | None:
        """The newest one that is as it was written; None where there is none."""
        for folder in reversed(self._folders()):
            problem = _damage(folder)
            if not problem:
                return Checkpoint(int(folder.name.removeprefix("step-")), folder)
            logger.warning("%s: damaged (%s); the checkpoint before it is taken", folder, problem)
        return None

    def _check_identity(self) -> None:
        if not any(self.root.rglob(_STEPS)):  # its own, or of its parts
            return
        path = self.root / _IDENTITY
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path}: not readable ({error}), so it cannot be told of what work this is the "
                f"state. Delete {self.root} to begin anew."
            ) from error
        lines = differences(found, self._identity)
        if lines:
            shown = "\n  ".join(lines[:8])
            raise ValueError(
                f"{self.root} holds the state of unfinished work on something else:\n  {shown}\n"
                "Put these back to go on with it, or delete the folder to begin anew."
            )

    def _save(self, step: int, write: Callable[[Path], None]) -> None:
        folder = self.root / f"step-{step:09d}"
        if folder.exists():  # the damaged one that was passed over
            shutil.rmtree(folder)
        partial = self.root / f".{folder.name}.partial"
        make_parent(partial)
        shutil.rmtree(partial, ignore_errors=True)
        self._check_room()
        write_json(self.root / _IDENTITY, self._identity)
        try:
            partial.mkdir()
            write(partial)
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            hashes = {path.relative_to(partial).as_posix(): file_hash(path) for path in files}
            write_json(partial / _MANIFEST, {"step": step, "files": hashes})
            _flush([*files, partial / _MANIFEST, partial])
            partial.replace(folder)
            _flush([self.root])
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        # Those with a higher number are damaged, or the work would have gone on from there.
        whole = [path for path in self._folders() if path.name <= folder.name]
        kept = whole[-self.settings.keep :]
        for old in self._folders():
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.root.glob(_STEPS))

    def _check_room(self) -> None:
        before = self._folders()
        if not before:
            return
        needed = _ROOM * sum(path.stat().st_size for path in before[-1].rglob("*"))
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise ValueError(
                f"{self.root}: {free / 1e6:.0f} MB are free, and the next checkpoint may take "
                f"{needed / 1e6:.0f} MB. The last one is kept: make room, and run the same command "
                "again to go on from there."
            )


def load_state(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        facts = json.loads((checkpoint.folder / _FACTS).read_text("utf-8"))
        return load_file(checkpoint.folder / _TENSORS), facts
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{checkpoint.folder}: not a state that can be gone on with ({error}). Delete it to go "
            "on from the one before."
        ) from error


def _plain(value: Tensor) -> Tensor:
    """On the CPU, with memory of its own: what safetensors writes."""
    return value.detach().cpu().contiguous().clone()


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint, or ""."""
    try:
        files = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        changed = [name for name, known in files.items() if file_hash(folder / name) != known]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) or type(error).__name__
    return f"{changed[0]} was changed" if changed else ""


def _flush(paths: list[Path]) -> None:
    """Have files and folders reach the disk, in this order."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def drop_checkpoints(folder: Path) -> None:
    """Remove what was kept while a cell was made, and the folders above that are empty now."""
    if processes().is_first and folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            os.removedirs(folder.parent)
