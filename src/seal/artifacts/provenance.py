"""Where an artifact comes from: what decides its content, and where it was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from seal.artifacts.atomic import write_json
from seal.artifacts.paths import StrPath

PACKAGES = (
    "seal", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "numpy",
)  # fmt: skip


RECORD = "provenance.json"


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """The origin of one artifact.

    Attributes:
        identity: All that decides its content: stage, settings, hashes of the inputs. JSON only.
            Two artifacts of equal identity are interchangeable; this is what reuse compares.
        environment: What was noted besides: versions, hardware, commit, seconds, peak memory.
        files: Relative path -> SHA-256 of what was made; empty where that was not noted.
    """

    identity: dict[str, Any]
    environment: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)


def environment() -> dict[str, Any]:
    """Versions, hardware, commit of the working folder and the date, for the record."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_commit": _git_commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def save_provenance(provenance: Provenance, folder: StrPath) -> None:
    """Write `provenance.json`."""
    folder = Path(folder)
    record: dict[str, Any] = {
        "identity": provenance.identity,
        "environment": provenance.environment,
    }
    if provenance.files:
        record["files"] = provenance.files
    write_json(folder / RECORD, record)


def load_provenance(folder: StrPath) -> Provenance:
    """Read `provenance.json`.

    Raises:
        ValueError: If it is missing or broken.
    """
    folder = Path(folder)
    path = folder / "provenance.json"
    try:
        record = json.loads(path.read_text("utf-8"))
        return Provenance(
            dict(record["identity"]), dict(record["environment"]), dict(record.get("files", {}))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no readable provenance.json ({error}), so it cannot be told what made "
            "it. Delete the folder to make it again, or give another run_dir."
        ) from error


def file_hash(path: StrPath) -> str:
    """SHA-256 of a file's bytes, in hex."""
    path = Path(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: StrPath) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below a folder, logs and records left out."""
    folder = Path(folder)
    records = {"provenance.json", "metrics.jsonl"}
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): file_hash(file) for file in files if file.name not in records
    }


def made_files(folder: StrPath) -> dict[str, str]:
    """Relative path -> SHA-256 of every file of an artifact, logs included, but the record."""
    folder = Path(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): file_hash(file)
        for file in files
        if file != folder / RECORD
    }


def check_files(folder: StrPath) -> None:
    """Refuse a finished artifact of which a file is not as it was made.

    Raises:
        ValueError: If a file was changed or damaged, or is missing; naming it.
    """
    folder = Path(folder)
    for name, expected in load_provenance(folder).files.items():
        path = folder / name
        try:
            problem = "" if unchanged_hash(path) == expected else "was changed"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            raise ValueError(
                f"{path} {problem}; {RECORD} in {folder} says what was made there. Put the file "
                "back as it was, or delete the folder to make it again."
            )


def content_hash(parts: Iterable[str]) -> str:
    """SHA-256 over texts, independent of their order."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def unchanged_hash(path: StrPath) -> str:
    """`file_hash`, read again only where the file has changed: stages ask several times."""
    path = Path(path)
    return _unchanged_hash(path, *_state(path))


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=1024)
def _unchanged_hash(path: Path, size: int, modified: int, inode: int) -> str:  # noqa: ARG001
    """The hash of a file as long as it is the same."""
    return file_hash(path)


def differences(
    old: Any,  # noqa: ANN401 (any JSON value)
    new: Any,  # noqa: ANN401
    where: str = "",
) -> list[str]:
    """Each place where two JSON values differ, as "key: old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(
                old.get(key, "(absent)"),
                new.get(key, "(absent)"),
                f"{where}.{key}" if where else key,
            )
        ]
    return [] if old == new else [f"{where}: {_short(old)} there, {_short(new)} now"]


def _short(value: Any) -> str:  # noqa: ANN401
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:57] + "..."


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
