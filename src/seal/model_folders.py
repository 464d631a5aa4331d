"""What a model's path stands for: a folder's own files, or an adapter's and those of its base.

PEFT saves an adapter without the model that it lies on. Of such a folder transformers loads both,
without a word; a hash of its files alone would say nothing about the base.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.utils.hub import cached_file, extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from seal.artifacts.provenance import unchanged_hash

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"
_WHOLE = ("model.safetensors", _INDEX)
_KINDS = {".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"}
_TEMPLATES = "additional_chat_templates"
_ON_HUB = ("adapter_*", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A LoRA adapter that stands where a model is asked for.

    Attributes:
        path: The folder.
        settings: What its adapter_config.json says.
        base: Folder or Hub name of the model that it lies on.
        base_revision: Of the base on the Hub.
    """

    path: Path
    settings: dict[str, Any]
    base: str
    base_revision: str | None


def adapter_folder(path: str, revision: str | None = None) -> AdapterFolder | None:
    """The adapter at a path, with the base that it names; None where the path is a model's.

    Args:
        path: A folder, or the name of a model or an adapter on the Hub.
        revision: On the Hub.

    Raises:
        ValueError: If there is an adapter that cannot be used as a model: not LoRA, pickled, beside
            the weights of a whole model, on another adapter, or without a base.
    """
    folder = Path(path) if Path(path).is_dir() else _fetched(path, revision)
    if folder is None or not (folder / CONFIG).is_file():
        return None
    try:
        settings = dict(json.loads((folder / CONFIG).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"model.path={path}: {CONFIG} is no readable JSON object ({error}). Save the adapter "
            "again."
        ) from error
    _check_adapter(path, folder, settings)
    base = _base(path, folder, settings)
    if (Path(base) / CONFIG).is_file():
        raise ValueError(
            f"model.path={path}: this adapter lies on {base}, which is an adapter, too. Merge that "
            f"one first (seal merge-adapter {base} OUT), and name OUT as base_model_name_or_path "
            f"in {folder / CONFIG}."
        )
    return AdapterFolder(folder, settings, base, settings.get("revision"))


def model_identity(path: str, revision: str | None) -> dict[str, Any]:
    """What a model is; changes with any byte of the files that it is loaded from.

    The hashes of a local folder's files, and of those of its base where it holds an adapter; for a
    model on the Hub its name, revision and commit.

    Raises:
        ValueError: If a file cannot be read, or an adapter cannot be used as a model.
    """
    adapter = adapter_folder(path, revision)
    if adapter is not None:
        return {
            "files": _hashes(adapter.path),
            "base": model_identity(adapter.base, adapter.base_revision),
        }
    if Path(path).is_dir():
        return {"files": _hashes(Path(path))}
    commit = hub_commit(path, revision)
    return {"path": path, "revision": revision, **({"commit": commit} if commit else {})}


@cache
def hub_commit(path: str, revision: str | None) -> str | None:
    """The commit that a revision on the Hub stands for in this process; None if it is not known."""
    try:
        found = cached_file(path, "config.json", revision=revision)
    except (OSError, ValueError):  # no such model, or no network: loading says it better
        return None
    return extract_commit_hash(found, None)


@cache
def _fetched(path: str, revision: str | None) -> Path | None:
    """Where an adapter on the Hub lies once it is here; None for all else."""
    try:
        if find_adapter_config_file(path, revision=revision) is None:
            return None
        return Path(snapshot_download(path, revision=revision, allow_patterns=[*_ON_HUB]))
    except (OSError, ValueError):  # not a name of the Hub, or no network: loading says it better
        return None


def _check_adapter(path: str, folder: Path, settings: dict[str, Any]) -> None:
    whole = [name for name in _WHOLE if (folder / name).is_file()]
    if whole:
        raise ValueError(
            f"model.path={path} holds both a whole model ({whole[0]}) and an adapter ({CONFIG}), "
            "so it cannot be told which is meant. Keep them in two folders."
        )
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(
            f"model.path={path} holds an adapter of the kind {kind}; as a model to start from only "
            "LoRA adapters are read. Make a whole model of it first (with PEFT: "
            "merge_and_unload), and give that folder."
        )
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"model.path={path}: there is a {CONFIG}, but no {WEIGHTS}; pickled weights "
            "(adapter_model.bin) are not read. Save the adapter again as safetensors."
        )


def _base(path: str, folder: Path, settings: dict[str, Any]) -> str:
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ValueError(
            f"model.path={path}: {CONFIG} does not say which model the adapter lies on. Write its "
            "folder or Hub name there, as base_model_name_or_path."
        )
    beside = folder / named
    # As PEFT reads it; else beside the adapter, for folders that are moved together.
    if not Path(named).is_dir() and not Path(named).is_absolute() and beside.is_dir():
        return str(beside)
    return named


def _hashes(folder: Path) -> dict[str, str]:
    files = {file.name: file for file in folder.iterdir() if file.suffix in _KINDS}
    files |= {name: folder / name for name in _shards(folder)}
    templates = folder / _TEMPLATES
    files |= {f"{_TEMPLATES}/{file.name}": file for file in templates.glob("*.jinja")}
    return {name: _hash(files[name]) for name in sorted(files) if not files[name].is_dir()}


def _shards(folder: Path) -> Iterable[str]:
    """Names of the files that an index sends to, which may lie in folders below."""
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        return {str(name) for name in index["weight_map"].values()}
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / _INDEX} is no index of weights ({error}). Put the file back as it was."
        ) from error


def _hash(path: Path) -> str:
    try:
        return unchanged_hash(path)
    except OSError as error:
        link = f", a link to {path.readlink()}" if path.is_symlink() else ""
        raise ValueError(
            f"model: {path}{link} cannot be read ({error.strerror}). Put the file back, or "
            "download the model again."
        ) from error
