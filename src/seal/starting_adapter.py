"""A model that is an adapter on a base: the adapter worked into the base, and trained further.

Where an adapter folder stands for a model, its adapter is merged while it is loaded: W + s B A in
float32, cast once. What is then trained is a second adapter, on weights that lie nowhere on a disk;
so it is saved together with the first, as one adapter on the base:

    s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2]
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from seal.devices import first_line
from seal.lora import UNREADABLE, has_tied_embeddings, laid_over, tied_and_adapted
from seal.model_folders import CONFIG, WEIGHTS, AdapterFolder

# A layer, and a place in `_FACTORS` -> A [r, ...] and s B [..., r].
_Parts = dict[tuple[str, int], tuple[Tensor, Tensor]]

# What an adapter is made of: (factor of the inputs, factor of the outputs).
_FACTORS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
_PREFIX = "base_model.model."
# The other starts (PiSSA, OLoRA, LoftQ, ...) take something out of the base weights first.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
# Settings under which an adapter is more than s B A, and what is said of it.
_MORE = {
    "use_dora": "rescales the sum of base and adapter (use_dora)",
    "modules_to_save": "holds whole layers (modules_to_save)",
    "trainable_token_indices": "holds single tokens (trainable_token_indices)",
    "target_parameters": "is on the weights of stacked experts (target_parameters)",
    "lora_bias": "has biases (lora_bias)",
    "layer_replication": "repeats layers (layer_replication)",
}


def merged(model: PreTrainedModel, adapter: AdapterFolder) -> PreTrainedModel:
    """A model with an adapter worked into it, in float32 and cast back once.

    Raises:
        ValueError: If the adapter does not fit the model, or is on weights that it cannot be worked
            into: embeddings that input and output share.
    """
    is_tied = has_tied_embeddings(model)
    dtypes = {name: value.dtype for name, value in model.named_parameters()}
    try:
        adapted = laid_over(model, adapter.path)
    except UNREADABLE as error:
        raise ValueError(
            f"model.path={adapter.path}: not an adapter that fits its base, {adapter.base} "
            f"({first_line(error)}). Correct base_model_name_or_path in its {CONFIG}, or save it "
            "again."
        ) from error
    touched = tied_and_adapted(adapted) if is_tied else []
    if touched:
        raise ValueError(
            f"model.path={adapter.path}: this adapter trains {' and '.join(touched)} of "
            f"{adapter.base}, whose input and output embeddings are the same weights "
            "(tie_word_embeddings), so that it cannot be worked into it. Save the base with "
            "embeddings of their own (tie_word_embeddings=false) and name that as "
            f"base_model_name_or_path in its {CONFIG}."
        )
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.get_base_layer().float()
    whole = cast(Any, adapted).merge_and_unload(safe_merge=True)
    for name, value in whole.named_parameters():
        value.data = value.data.to(dtypes[name])
        value.requires_grad_(True)  # PEFT has frozen them
    return whole


def why_not_added_to(settings: dict[str, Any]) -> str | None:
    """Why an adapter cannot be saved as one with another; None if it can.

    Args:
        settings: As adapter_config.json has them.
    """
    for name, what in _MORE.items():
        if settings.get(name):
            return what
    if settings.get("bias", "none") != "none":
        return f"has biases (bias={settings['bias']})"
    start = settings.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        return f"changes the base it lies on (init_lora_weights={start})"
    return None


def check_trainable(adapter: AdapterFolder, trained: dict[str, Any]) -> None:
    """Refuse two adapters that cannot be saved as one, before the second is trained.

    Args:
        adapter: What is started from.
        trained: The settings of the adapter that is to be trained, under PEFT's names.

    Raises:
        ValueError: If one of them is more than a product of two factors.
    """
    out = f"seal merge-adapter {adapter.path} OUT"
    problem = why_not_added_to(adapter.settings)
    if problem is None:
        problem = _other_weights(adapter.path)
    if problem is not None:
        raise ValueError(
            f"model.path={adapter.path}: the adapter {problem}, so an adapter that is trained on "
            f"top of it cannot be saved as one with it. Make a whole model of it first ({out}), "
            "and set model.path=OUT."
        )
    problem = why_not_added_to(trained)
    if problem is not None:
        raise ValueError(
            f"train.peft: the adapter to train {problem}, so it cannot be saved as one with the "
            f"adapter in model.path={adapter.path}. Remove that, or make a whole model of the "
            f"first ({out}) and set model.path=OUT."
        )


def join(adapter: AdapterFolder, folder: Path) -> None:
    """Put the adapter that was started from before the one in a folder, which was trained on it.

    What is there afterwards is one adapter on the base, which computes what base, first and second
    adapter did.

    Args:
        adapter: What was started from; `check_trainable` was called with both.
        folder: Holds the second one, and the joint one afterwards.
    """
    second = json.loads((folder / CONFIG).read_text("utf-8"))
    parts = [_factors(adapter.path, adapter.settings), _factors(folder, second)]
    names = sorted(parts[0].keys() | parts[1].keys())
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name in names:
        found = [part[name] for part in parts if name in part]
        inner = torch.cat([inside.float() for inside, _ in found], dim=0)
        outer = torch.cat([outside.float() for _, outside in found], dim=1)
        layer, kind = name
        for factor, value in zip(_FACTORS[kind], (inner, outer), strict=True):
            suffix = "" if kind else ".weight"
            tensors[f"{_PREFIX}{layer}.{factor}{suffix}"] = value.contiguous()
        ranks[layer] = len(inner)
    most = max(ranks.values())
    other = {layer: rank for layer, rank in ranks.items() if rank != most}
    joint = {
        **second,
        "base_model_name_or_path": adapter.base,
        "revision": adapter.base_revision,
        "r": most,
        "lora_alpha": most,  # the scales are in the factors
        "lora_dropout": 0.0,
        "use_rslora": False,
        "rank_pattern": other,
        "alpha_pattern": dict(other),
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(joint, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text, encoding="utf-8", newline="\n")


def first_ranks(adapter: AdapterFolder) -> dict[str, int]:
    """Layer -> how many of a joint adapter's inner dimensions are those of the first adapter."""
    tensors = load_file(adapter.path / WEIGHTS)
    return {
        layer_of(name): len(value)
        for name, value in tensors.items()
        if any(inner in name.split(".") for inner, _ in _FACTORS)
    }


def layer_of(name: str) -> str:
    """The layer of a factor of an adapter, as the base calls it."""
    inner = name.removeprefix(_PREFIX)
    for factor in (factor for pair in _FACTORS for factor in pair):
        inner = inner.partition(f".{factor}")[0]
    return inner


def _factors(folder: Path, settings: dict[str, Any]) -> _Parts:
    tensors = load_file(folder / WEIGHTS)
    found: _Parts = {}
    for name, inner in tensors.items():
        for kind, (inside, outside) in enumerate(_FACTORS):
            if inside in name.split("."):
                layer = layer_of(name)
                outer = tensors[name.replace(f".{inside}", f".{outside}")]
                scale = _scale(settings, layer, len(inner))
                found[layer, kind] = (inner, outer.float() * scale)
    return found


def _scale(settings: dict[str, Any], layer: str, rank: int) -> float:
    alphas = settings.get("alpha_pattern") or {}
    alpha = alphas.get(get_pattern_key(list(alphas), layer), settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _other_weights(folder: Path) -> str | None:
    known = {factor for pair in _FACTORS for factor in pair}
    others = [name for name in load_file(folder / WEIGHTS) if not known & set(name.split("."))]
    return f"holds weights beside its factors A and B (first: {others[0]})" if others else None
