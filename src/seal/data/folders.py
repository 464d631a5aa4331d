"""Folders that are one data set: Parquet in parts, and what `datasets` saved to disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seal.artifacts.provenance import content_hash, file_hash

_PARQUET = ".parquet"
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_NUM_SHOWN = 5


def part_files(folder: Path) -> list[Path]:
    """The Parquet files that make up a folder, in the order of their names; empty if it is none.

    Other folders that hold Parquet files may be several data sets (train and test), so that these
    are not put together: only what is called NAME.parquet, or has parts as Spark and pandas name
    them.
    """
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part[0] in "._" for part in file.relative_to(folder).parts)
    ]
    is_named = folder.suffix.lower() == _PARQUET
    if not files or not all(_is_part(file, folder, is_named=is_named) for file in files):
        return []
    return files


def _is_part(file: Path, folder: Path, *, is_named: bool) -> bool:
    around = file.relative_to(folder).parts[:-1]
    has_columns = bool(around) and all("=" in part for part in around)
    is_parquet = file.suffix.lower() == _PARQUET
    return is_parquet and (is_named or has_columns or file.name.startswith("part-"))


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` saved it: one data set, or one for each of several splits."""
    return (folder / _SAVED).is_file() or (folder / _SAVED_SPLITS).is_file()


def load_saved(folder: Path, path: str, split: str) -> tuple[Any, str]:
    """A data set that was saved, and what its rows are named by.

    Args:
        folder: Of `save_to_disk`.
        path: What it is called in messages.
        split: Which one, where there are several; "train" where nobody asked.

    Raises:
        ValueError: If there is no such split, a split is asked for and there are none, or the
            folder cannot be read.
    """
    import datasets  # noqa: PLC0415 (a second)

    chosen, name = folder, path
    if (folder / _SAVED_SPLITS).is_file():
        splits = _splits(folder, path)
        if split not in splits:
            raise ValueError(
                f"{path}: there is no split {split!r} in this folder. Set split to one of "
                f"{', '.join(splits)}."
            )
        chosen, name = folder / split, f"{path}[{split}]"
    elif split != "train":
        raise ValueError(f"{path}: split={split!r}, and this folder has no splits. Remove it.")
    try:
        return datasets.load_from_disk(str(chosen)), name
    except Exception as error:  # whatever a damaged folder raises: OSError, KeyError, ArrowInvalid
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: this folder cannot be read as a data set that was saved with save_to_disk: "
            f"{type(error).__name__}: {said}. Save it again."
        ) from error


def _splits(folder: Path, path: str) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / _SAVED_SPLITS).read_text())["splits"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: {_SAVED_SPLITS} cannot be read. Save the data again.") from error


def describe_folder(folder: Path) -> str:
    """What a folder that is no data set holds, and the way out, for a message."""
    names = [file.name + "/" * file.is_dir() for file in sorted(folder.iterdir())]
    more = len(names) - _NUM_SHOWN
    held = ", ".join(f"{name!a}" for name in names[:_NUM_SHOWN]) or "nothing"
    held += f" and {more} more" if more > 0 else ""
    return (
        f"a folder that holds {held}. A folder is read where it is called NAME.parquet and holds "
        "Parquet files alone, or where save_to_disk of `datasets` made it. Give a file in it, or "
        "name it so"
    )


def files_behind(path: str) -> list[Path]:
    """The files that a path stands for: itself, or all in a folder; none for a name on the Hub."""
    found = Path(path)
    if found.is_dir():
        return sorted(file for file in found.rglob("*") if file.is_file())
    return [found] if found.is_file() else []


def source_hash(path: str) -> str | None:
    """SHA-256 of a file, or over the names and contents in a folder; None for a name on the Hub."""
    found, files = Path(path), files_behind(path)
    if found.is_dir():
        return content_hash(_named_hashes(found, files))
    return file_hash(found) if files else None


def _named_hashes(folder: Path, files: Iterable[Path]) -> list[str]:
    return [f"{file.relative_to(folder).as_posix()} {file_hash(file)}" for file in files]
