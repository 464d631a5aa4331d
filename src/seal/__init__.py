"""Find the samples of a fine-tuning set that would cost an aligned language model its safety."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seal.artifacts.ranking import Ranking as Ranking
    from seal.artifacts.selection import Selection as Selection
    from seal.config.experiment import Experiment as Experiment
    from seal.config.experiment import load_experiment as load_experiment
    from seal.data.load import DataSpec as DataSpec
    from seal.data.load import load as load
    from seal.data.sample import Message as Message
    from seal.data.sample import Sample as Sample
    from seal.data.tokenize import Tokenization as Tokenization
    from seal.models import ModelSpec as ModelSpec
    from seal.pipeline import run as run
    from seal.rankers.loss import Loss as Loss
    from seal.rankers.random import Random as Random
    from seal.rankers.seal import Seal as Seal
    from seal.stages.evaluate import evaluate as evaluate
    from seal.stages.merge import merge as merge
    from seal.stages.rank import rank as rank
    from seal.stages.report import report as report
    from seal.stages.select import select as select
    from seal.stages.train import train as train

    __version__: str

# Loaded when first asked for: importing seal, or asking for --help, must not import torch.
_HOMES = {
    "rank": "seal.stages.rank",
    "select": "seal.stages.select",
    "train": "seal.stages.train",
    "merge": "seal.stages.merge",
    "evaluate": "seal.stages.evaluate",
    "report": "seal.stages.report",
    "run": "seal.pipeline",
    "Experiment": "seal.config.experiment",
    "load_experiment": "seal.config.experiment",
    "Seal": "seal.rankers.seal",
    "Random": "seal.rankers.random",
    "Loss": "seal.rankers.loss",
    "Ranking": "seal.artifacts.ranking",
    "Selection": "seal.artifacts.selection",
    "Sample": "seal.data.sample",
    "Message": "seal.data.sample",
    "load": "seal.data.load",
    "ModelSpec": "seal.models",
    "DataSpec": "seal.data.load",
    "Tokenization": "seal.data.tokenize",
}
__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any public name)
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'seal' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    try:
        return metadata.version("seal")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"
