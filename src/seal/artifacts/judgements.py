"""Judgements on disk: one line each, there for good as soon as it is made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seal.artifacts.atomic import make_parent, write_json
from seal.artifacts.checked_lines import checked_line, checked_records

SCHEMA = 2  # of a line; 2 added the values of answers
_READABLE = (1, 2)


class JudgementFile:
    """What one judge said, by the content that it was shown.

    A line is written in one piece and forced to the disk before `add` returns, so a killed run
    loses nothing that was paid for. Several processes may write at once: each line is one append.
    What a crash or a full disk left of a line is passed over, and the next line starts on its own;
    a line that was changed is refused.

    Attributes:
        path: The file, `<name>-<start of the identity's hash>.jsonl`; beside it lies a `.json` that
            says who the judge is.
    """

    def __init__(self, root: Path, name: str, identity: Mapping[str, Any]) -> None:
        """The file of a judge below `root`; nothing is written before the first judgement.

        Args:
            root: The folder of all judgements.
            name: What the judge is called.
            identity: All that decides a judgement but what is judged, as JSON.
        """
        self._identity = _canonical(identity)
        self.path = root / f"{name}-{_digest(self._identity)[:12]}.jsonl"
        self._rows: dict[str, dict[str, Any]] | None = None

    def key(self, *texts: str) -> str:
        """What a judgement is remembered under: the hash of the judge's identity and the texts."""
        return _digest(_canonical([self._identity, *texts]))

    def find(self, key: str) -> dict[str, Any] | None:
        """The judgement under a key; None if there is none.

        Raises:
            ValueError: If a line of the file was changed since it was written.
        """
        if self._rows is None:
            self._rows = _read(self.path)
        return self._rows.get(key)

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Write a judgement down for good.

        Raises:
            ValueError: If nothing can be written there.
        """
        if not self.path.exists():
            make_parent(self.path)
            write_json(self.path.with_suffix(".json"), json.loads(self._identity))
        line = checked_line({"key": key, "schema": SCHEMA, **row})
        try:
            _append(self.path, line.encode("ascii"))
        except OSError as error:
            raise ValueError(
                f"cannot write a judgement into {self.path} ({error.strerror}). Those before it "
                "are kept: make room, and run again."
            ) from error
        if self._rows is not None:
            self._rows[key] = dict(row)


def _append(path: Path, line: bytes) -> None:
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        # Close off what a crash left of a line. If another process is in the middle of its write,
        # this only makes a blank line.
        is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        whole = b"\n" + line if is_torn else line
        if os.write(handle, whole) != len(whole):  # a second write could land behind another's
            raise OSError(0, "only part of the line was written; the disk may be full")
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return rows
    for place, row in checked_records(path, path.read_bytes()):
        # Lines of the first version have no number.
        if (schema := row.pop("schema", 1)) not in _READABLE:
            raise ValueError(
                f"{path}:{place}: this judgement is of version {schema!a}, and this version of "
                f"seal reads {' and '.join(map(str, _READABLE))}. Delete the file to have all "
                "of it judged again, or use the version of seal that wrote it."
            )
        rows.setdefault(row.pop("key"), row)
    return rows


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
