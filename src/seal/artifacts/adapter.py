"""The adapter: what training produced, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings

AdapterKind = Literal["lora", "full"]

RECORD = "adapter.json"
_FOLDERS: dict[AdapterKind, str] = {"lora": "adapter", "full": "model"}
_WEIGHTS: dict[AdapterKind, str] = {"lora": "adapter_config.json", "full": "config.json"}


@dataclass(frozen=True, slots=True)
class Adapter:
    """Trained weights in a folder.

    Attributes:
        path: A PEFT adapter (`kind` "lora") or a whole model (`kind` "full").
        kind: What is in the folder.
        base: The model that was trained, as its path was given.
        num_samples: Samples in the training set, mixed-in ones included.
        num_steps: Optimizer steps taken.
        seed: Of the initial adapter weights and of the order of the samples.
        num_tokens: Tokens that were read, prompts included, each as often as it was; None where
            an earlier version of seal trained, which did not write it down.
    """

    path: Path
    kind: AdapterKind
    base: str
    num_samples: int
    num_steps: int
    seed: int
    num_tokens: int | None = None


class _Record(Settings):
    """What `adapter.json` holds; where the weights are follows from `kind`."""

    kind: AdapterKind
    base: str
    num_samples: int
    num_steps: int
    seed: int
    num_tokens: int | None = None


def weights_folder(folder: StrPath, kind: AdapterKind) -> Path:
    """Where the weights of a training run lie: `adapter` or `model` in its folder."""
    folder = Path(folder)
    return folder / _FOLDERS[kind]


def save_adapter_record(adapter: Adapter, folder: StrPath) -> None:
    """Write `adapter.json` into a folder, beside the folder of the weights."""
    folder = Path(folder)
    record = _Record(
        kind=adapter.kind,
        base=adapter.base,
        num_samples=adapter.num_samples,
        num_steps=adapter.num_steps,
        seed=adapter.seed,
        num_tokens=adapter.num_tokens,
    )
    text = record.model_dump_json(indent=2) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8", newline="\n")


def load_adapter(folder: StrPath) -> Adapter:
    """Read what `save_adapter_record` wrote; the folder may have been moved since.

    Raises:
        ValueError: If the record is missing or broken, or the weights are not beside it.
    """
    folder = Path(folder)
    path = folder / RECORD
    try:
        record = _Record.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: no {RECORD} here, so this is not the folder of a finished training. Give "
            "the folder that `seal train` wrote, or train again."
        ) from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError(
            f"{path}: not a readable record of a training ({_first_problem(error)}). Train again."
        ) from error
    weights = weights_folder(folder, record.kind)
    if not (weights / _WEIGHTS[record.kind]).is_file():
        raise ValueError(
            f"{path} speaks of {record.kind} weights in {weights}, but there is no "
            f"{_WEIGHTS[record.kind]} there. Put the folder back, or train again."
        )
    return Adapter(
        path=weights,
        kind=record.kind,
        base=record.base,
        num_samples=record.num_samples,
        num_steps=record.num_steps,
        seed=record.seed,
        num_tokens=record.num_tokens,
    )


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error)
