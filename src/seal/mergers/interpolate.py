"""Interpolation: part of the way from the base to the trained model, W + w (W' - W).

`weight` is w (the alpha of WiSE-FT, arXiv 2109.01903). A LoRA adapter's W' - W is s B A, so that
its scale s is all that changes; whole models are interpolated in float32 and cast once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from seal.artifacts.adapter import Adapter, weights_folder
from seal.artifacts.provenance import folder_hashes
from seal.mergers.merger import Merger
from seal.models import LanguageModel, ModelSpec, load_model, save_model, starting_adapter
from seal.starting_adapter import PLAIN_STARTS, first_ranks, layer_of

_WEIGHTS = "adapter_model.safetensors"
_FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_OUTER = ("lora_B", "lora_embedding_B")  # s B A is linear in B alone, biases included


class Interpolate(Merger):
    """A point on the line from the base (`weight` 0) to the trained model (`weight` 1).

    Attributes:
        of: The arm whose training it takes, seed by seed.
        weight: Share of the way from the base to the trained model, in [0, 1].
    """

    method: Literal["interpolate"] = "interpolate"
    weight: float = Field(ge=0, le=1)

    def load(self, spec: ModelSpec, trained: Adapter) -> LanguageModel:
        """The model at that point; no weights are written."""
        if trained.kind == "full":
            return self._between(spec, trained)
        _check_linear(trained)
        lm = load_model(spec, trained.path)
        firsts = _firsts(spec)
        for layer, module in cast(PeftModel, lm.model).get_base_model().named_modules():
            if isinstance(module, LoraLayer):
                self._scale(module, firsts.get(layer, 0))
        return self._named(lm, trained)

    @torch.no_grad()
    def _scale(self, module: LoraLayer, first: int) -> None:
        """Scale what was trained; the first dimensions are those of the adapter in `model.path`."""
        if not first:
            for name in module.scaling:
                module.scaling[name] *= self.weight
            return
        for linear in cast(Iterable[nn.Linear], module.lora_B.values()):
            linear.weight[:, first:] *= self.weight
        for factor in cast(Iterable[torch.Tensor], module.lora_embedding_B.values()):
            factor[:, first:] *= self.weight

    def save(self, spec: ModelSpec, trained: Adapter, folder: Path) -> Adapter:
        """The same as an adapter whose factors B are scaled, or as a whole model."""
        path = weights_folder(folder, trained.kind)
        if trained.kind == "full":
            save_model(self._between(spec, trained).model, spec, path)
            return replace(trained, path=path)
        _check_linear(trained)
        shutil.copytree(trained.path, path)
        firsts = _firsts(spec)
        scaled = {
            name: self._scaled(name, value, firsts.get(layer_of(name), 0))
            for name, value in load_file(path / _WEIGHTS).items()
        }
        save_file(scaled, path / _WEIGHTS, metadata={"format": "pt"})
        return replace(trained, path=path)

    def _scaled(self, name: str, value: torch.Tensor, first: int) -> torch.Tensor:
        if not _is_of(name, _OUTER):
            return value
        if value.dim() == 1:  # a bias of B
            return value * self.weight
        return torch.cat([value[:, :first], value[:, first:] * self.weight], dim=1)

    @torch.no_grad()
    def _between(self, spec: ModelSpec, trained: Adapter) -> LanguageModel:
        """Every weight of two whole models interpolated in float32, then cast to the base's type.

        `torch.lerp` is exact at both ends.
        """
        lm = load_model(spec)
        there = load_model(spec.model_copy(update={"path": str(trained.path), "revision": None}))
        ends = _tensors(there.model)
        starts = _tensors(lm.model)
        if {name: value.shape for name, value in starts.items()} != {
            name: value.shape for name, value in ends.items()
        }:
            raise ValueError(
                f"{trained.path} and {spec.path} have different weights, so there is no line from "
                "one to the other. Train the arm again from this model."
            )
        for name, value in starts.items():
            if value.is_floating_point():
                value.copy_(torch.lerp(value.float(), ends[name].float(), self.weight))
        return self._named(lm, trained)

    def _named(self, lm: LanguageModel, trained: Adapter) -> LanguageModel:
        """The model under a name of its own: neither the base's nor that of what was trained."""
        merged = {**self.model_dump(mode="json", exclude={"of"}), "of": folder_hashes(trained.path)}
        return replace(lm, identity={**(lm.identity or {}), "merge": merged})


def _firsts(spec: ModelSpec) -> dict[str, int]:
    """Layer -> inner dimensions of a trained adapter that its model had before; see `join`."""
    start = starting_adapter(spec)
    return {} if start is None else first_ranks(start)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers; what is tied is there once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_linear(trained: Adapter) -> None:
    """Refuse adapters that hold more than the factors of a product."""
    with safe_open(trained.path / _WEIGHTS, framework="pt") as file:
        others = [name for name in file.keys() if not _is_of(name, _FACTORS)]  # noqa: SIM118
    settings = json.loads((trained.path / "adapter_config.json").read_text("utf-8"))
    initial = settings.get("init_lora_weights", True)
    if others or initial not in PLAIN_STARTS:
        what = f"weights beside its factors A and B (first: {others[0]})" if others else (
            f"init_lora_weights={initial}, which changes the base"
        )  # fmt: skip
        raise ValueError(
            f"{trained.path}: the adapter has {what}, so that scaling it is not the way from the "
            "base to the trained model. Remove that from train.peft, or take the merge out of arms."
        )


def _is_of(name: str, kinds: tuple[str, ...]) -> bool:
    return any(part in kinds for part in name.split("."))
