"""Merging: a LoRA adapter worked into its base, giving a model that needs no PEFT."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor

from seal.artifacts.adapter import Adapter
from seal.artifacts.atomic import new_folder
from seal.artifacts.paths import StrPath
from seal.models import LanguageModel, ModelSpec, load_model, save_model, starting_adapter

logger = logging.getLogger(__name__)

# Largest relative difference of logits that rounding the merged weights once may cause. An 8-bit
# mantissa rounds each weight by up to 2^-9 = 0.2 %; the layers of a deep model add that up.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_NUM_CHECKED, _CHECKED_LENGTH = 4, 16


def merge(spec: ModelSpec, adapter: Adapter, folder: StrPath) -> Path:
    """Work a LoRA adapter into its base model and save the result with tokenizer and template.

    Each weight is W + s * B @ A in float32, cast once to the type that W has in the base as `spec`
    loads it. What was saved is then loaded again, and its logits on a few token sequences are
    compared with those of base and adapter, both in float32. While it runs, the model takes up four
    bytes per parameter on `spec.device`.

    Args:
        spec: The base, the same that the adapter was trained on.
        adapter: A LoRA adapter.
        folder: Where the model goes; made here, so it must not exist or be empty.

    Returns:
        The folder, which `ModelSpec(path=...)` takes.

    Raises:
        ValueError: If the adapter holds a whole model, was trained on another base, or `folder` is
            taken.
        RuntimeError: If the saved model does not answer as base and adapter do; nothing is kept.
    """
    folder = Path(folder)
    _check_mergeable(spec, adapter, folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        expected, dtype = _save_merged(spec, adapter, partial)
        _check_agreement(spec, partial, expected, dtype)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def merge_start(spec: ModelSpec, folder: StrPath) -> Path:
    """Save the whole model that an adapter folder stands for, with tokenizer and template.

    Args:
        spec: The model, whose path is that of an adapter.
        folder: Where the model goes; made here, so it must not exist or be empty.

    Raises:
        ValueError: If the path is not that of an adapter which can be merged, or `folder` is taken.
    """
    folder = Path(folder)
    if starting_adapter(spec) is None:
        raise ValueError(
            f"{spec.path} is not an adapter (it holds no adapter_config.json). Give the folder of "
            "a LoRA adapter, or its name on the Hub."
        )
    _check_free(folder)
    with new_folder(folder) as temporary:
        save_model(load_model(spec).model, spec, temporary)
    return folder


def _check_mergeable(spec: ModelSpec, adapter: Adapter, folder: Path) -> None:
    if adapter.kind == "full":
        raise ValueError(
            f"{adapter.path} is a whole model (train.tuning: full), so there is nothing to merge. "
            "Use it as it is: model.path takes this folder."
        )
    if adapter.base != spec.path and Path(adapter.base).resolve() != Path(spec.path).resolve():
        raise ValueError(
            f"{adapter.path} was trained on {adapter.base}, but model.path is {spec.path}. Set "
            f"model.path={adapter.base}; if it is the same model in another place, correct `base` "
            "in the adapter.json beside the adapter."
        )
    _check_free(folder)


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} exists already and is not an empty folder. Delete it to merge again, or "
            "give another folder."
        )


def _save_merged(
    spec: ModelSpec, adapter: Adapter, folder: Path
) -> tuple[Float[Tensor, "B T V"], torch.dtype]:
    """Save the merged model; returns the logits of base and adapter, and the type of the base."""
    language = load_model(spec, adapter=adapter.path)
    model = language.model
    assert isinstance(model, PeftModel)
    base_dtype = next(model.parameters()).dtype
    dtypes = {_name_in_base(name): value.dtype for name, value in model.state_dict().items()}
    model.float()
    expected = _logits(language)
    merged = model.merge_and_unload(safe_merge=True)
    for name, value in [*merged.named_parameters(), *merged.named_buffers()]:
        # Buffers that no checkpoint holds are not in the state dict, and stay as they are.
        value.data = value.data.to(dtypes.get(name, value.dtype))
    save_model(merged, spec, folder)
    return expected, base_dtype


def _name_in_base(name: str) -> str:
    """The name that a tensor of a PEFT model has once the adapter is merged."""
    inner = name.removeprefix("base_model.model.")
    return inner.replace(".base_layer.", ".").replace(".original_module.", ".")


def _check_agreement(
    spec: ModelSpec, folder: Path, expected: Float[Tensor, "B T V"], dtype: torch.dtype
) -> None:
    saved = spec.model_copy(
        update={"path": str(folder), "revision": None, "dtype": "float32", "chat_template": None}
    )
    found = _logits(load_model(saved))
    difference = ((found - expected).norm() / expected.norm()).item()
    if not difference <= _TOLERANCE[dtype]:
        raise RuntimeError(
            f"the merged model's logits differ from those of base and adapter by {difference:.1e} "
            f"of their norm; {_TOLERANCE[dtype]:.0e} is allowed for {dtype}. Nothing was kept. Use "
            "the adapter without merging, or merge with model.dtype=float32."
        )
    logger.info("merged and base + adapter agree: relative difference %.1e", difference)


@torch.no_grad()
def _logits(language: LanguageModel) -> Float[Tensor, "B T V"]:
    """Logits of a few random token sequences, always the same, on the CPU."""
    random = torch.Generator().manual_seed(0)
    tokens: Int[Tensor, "B T"] = torch.randint(
        len(language.tokenizer), (_NUM_CHECKED, _CHECKED_LENGTH), generator=random
    )
    tokens = tokens.to(language.device)
    return language.model(input_ids=tokens, use_cache=False).logits.float().cpu()
