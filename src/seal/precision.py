"""In which precision a run computes on a CPU, where its settings leave that open.

`model.dtype: auto` means the checkpoint's own dtype. On a CPU without arithmetic units for it a
bfloat16 model takes many times as long as the same weights in float32, and on one with such units
less than half. So for a checkpoint in half precision it is tried once, and the choice is kept in
the folder of the run: another machine, or the same one on a busier day, goes on in the same
precision. The weights are those of the checkpoint in either: a wider type only computes with more
digits. A float32 checkpoint is therefore never narrowed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from transformers import AutoConfig, PretrainedConfig

from seal.artifacts.atomic import write_json
from seal.artifacts.settings import Settings
from seal.config.experiment import Experiment
from seal.devices import resolve_device
from seal.models import ModelSpec, base_of
from seal.processes import processes

logger = logging.getLogger(__name__)

RECORD = "dtype.json"

Half = Literal["bfloat16", "float16"]
Chosen = Literal["float32", "bfloat16", "float16"]

# Half precision is taken where it is at least so many times as fast: float32 has more digits.
WORTH = 1.2
_MOST = 1024  # rows and columns of the matrix that is tried; larger ones are as fast per number
_TOKENS = 128
_REPEATS = 3
_MOST_MEMORY = 0.5  # of what is free, that the weights in float32 may take
# Folders of a run that something was made in, or is under way.
_WORK = ("rank", "arms", "train", "merge", "evaluate", "tables", "bench", "checkpoints")


class Precision(Settings):
    """The precision that was chosen for a run.

    Attributes:
        dtype: In which the model is loaded.
        checkpoint: That of the weights on disk.
        why: In a sentence.
    """

    dtype: Chosen
    checkpoint: Half
    why: str


class _Speeds(NamedTuple):
    """Seconds of the same products in float32 and in half precision."""

    single: float
    half: float


def recorded(experiment: Experiment) -> Experiment:
    """The experiment with the precision that its run was begun in, if one was chosen.

    Raises:
        ValueError: If the record cannot be read.
    """
    path = experiment.run_dir / RECORD
    if experiment.model.dtype != "auto" or not path.is_file():
        return experiment
    try:
        found = Precision.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: not readable ({str(error).splitlines()[0]}), so it cannot be told in which "
            "dtype the run was begun. Set model.dtype to what provenance.json of its results says."
        ) from error
    own = _own_dtype(experiment.model)
    return experiment if own not in (None, found.checkpoint) else _with(experiment, found)


def settled(
    experiment: Experiment, *, keeps: bool = True, begin: Callable[[], None] | None = None
) -> Experiment:
    """The experiment with its precision, chosen now if it was not before.

    Nothing is chosen where `model.dtype` says it, on other devices than a CPU, for a float32
    checkpoint, and in a folder where work was done in the checkpoint's own precision.

    Args:
        experiment: What is asked for.
        keeps: Whether to write the choice into the folder of the run.
        begin: Called before a choice is made; what it raises leaves no folder.

    Raises:
        ValueError: If the record of a choice cannot be read.
    """
    experiment = recorded(experiment)
    half = _half_on_cpu(experiment.model)
    if half is None or any((experiment.run_dir / name).exists() for name in _WORK):
        return experiment

    if begin is not None:
        begin()

    def choose() -> Precision:
        chosen = _choice(experiment, half)
        if keeps:
            write_json(experiment.run_dir / RECORD, chosen.model_dump(mode="json"))
        return chosen

    chosen = processes().first_does(choose)
    logger.info("model.dtype=auto: %s, %s", chosen.dtype, chosen.why)
    return _with(experiment, chosen)


def _with(experiment: Experiment, chosen: Precision) -> Experiment:
    model = experiment.model.model_copy(update={"dtype": chosen.dtype})
    return experiment.model_copy(update={"model": model})


def _half_on_cpu(spec: ModelSpec) -> Half | None:
    """The checkpoint's half precision, where there is a choice."""
    if spec.dtype != "auto" or spec.quantization is not None:
        return None
    if resolve_device(spec.device).type != "cpu":
        return None
    own = _own_dtype(spec)
    return cast(Half, own) if own in ("bfloat16", "float16") else None


def _choice(experiment: Experiment, half: Half) -> Precision:
    needed = _needs_float32(experiment)
    if needed:
        return Precision(dtype="float32", checkpoint=half, why=f"because {needed}")
    weights, free = _float32_bytes(experiment.model), _free_bytes()
    if weights is not None and free is not None and weights > free * _MOST_MEMORY:
        why = (
            f"the checkpoint's own: in float32 the weights would take {weights / 1e9:.0f} of "
            f"{free / 1e9:.0f} GB of free memory"
        )
        return Precision(dtype=half, checkpoint=half, why=why)
    speeds = measure(*_shape(_config(experiment.model)), half)
    factor = speeds.half / speeds.single
    if factor >= 1 / WORTH:
        compared = f"{factor:.1f} times as long" if factor > WORTH else "about as long"
        why = f"which holds its weights exactly; {half} takes {compared} on this CPU"
        return Precision(dtype="float32", checkpoint=half, why=why)
    why = f"the checkpoint's own; float32 takes {1 / factor:.1f} times as long on this CPU"
    return Precision(dtype=half, checkpoint=half, why=why)


def _needs_float32(experiment: Experiment) -> str:
    """Why the experiment cannot do with less, or ""."""
    if experiment.train.tuning == "full":
        return "train.tuning=full rounds most of its updates away in half precision"
    rankers = [experiment.rank, *(arm.rank for arm in experiment.arms if arm.rank is not None)]
    return next((why for ranker in rankers if (why := ranker.needs_float32())), "")


@cache
def measure(rows: int, columns: int, half: Half) -> _Speeds:
    """The products of a linear layer, forward and backward, in both; the least of a few runs.

    Args:
        rows: Of the layer's matrix.
        columns: Likewise.
        half: Which half precision.
    """
    products = {
        dtype: _products(rows, columns, dtype) for dtype in (torch.float32, getattr(torch, half))
    }
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in products}
    for work in products.values():
        work()  # what is done once
    for _ in range(_REPEATS):
        for dtype, work in products.items():
            start = time.process_time()  # other work on the machine counts little
            work()
            seconds[dtype].append(time.process_time() - start)
    single, other = (max(min(found), 1e-9) for found in seconds.values())
    return _Speeds(single, other)


def _products(rows: int, columns: int, dtype: torch.dtype) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    weight, states, gradient = draw(rows, columns), draw(_TOKENS, columns), draw(_TOKENS, rows)
    return lambda: (states @ weight.T, gradient @ weight)


def _shape(config: PretrainedConfig | None) -> tuple[int, int]:
    """Of a linear layer of the model, or of one like it."""
    text = None if config is None else config.get_text_config()
    width = getattr(text, "hidden_size", None) or _MOST
    inner = getattr(text, "intermediate_size", None) or 4 * width
    return min(inner, _MOST), min(width, _MOST)


def _config(spec: ModelSpec) -> PretrainedConfig | None:
    try:
        spec = base_of(spec)
        return AutoConfig.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # loading the model says what is wrong with it


def _own_dtype(spec: ModelSpec) -> str | None:
    """The dtype that "auto" loads the model in; None where its configuration does not say."""
    dtype = getattr(_config(spec), "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _float32_bytes(spec: ModelSpec) -> int | None:
    """What a local checkpoint in half precision takes in float32."""
    spec = base_of(spec)
    files = list(Path(spec.path).glob("*.safetensors")) if Path(spec.path).is_dir() else []
    return 2 * sum(file.stat().st_size for file in files) if files else None


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows, macOS
        return None
