"""The output layer of a causal language model, and what the model hands to it.

What a model does to its logits after the output layer (a scale, a cap) is not the same in any two
families, and not all of them say it in their configuration. So it is not believed: the model's own
forward pass is run once on made-up hidden states, and a head that does not give its logits is not
used.

Dimension key: B samples, K columns that need logits, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from seal.loss_backends.backend import TOLERANCES, Head

_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_PROBE_LOGIT = 100.0  # large, so that a cap on the logits shows
_NUM_PROBES = 4

# Scale and softcap of the output layers that were probed, or what is wrong with them.
_probed: WeakKeyDictionary[nn.Module, tuple[float, float | None] | str] = WeakKeyDictionary()


def causal_model(model: nn.Module) -> PreTrainedModel | None:
    """The transformers model under a PEFT adapter, or the model itself; None for a foreign one."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner if isinstance(inner, PreTrainedModel) else None


def find_head(model: PreTrainedModel) -> Head | str:
    """The way from hidden states to logits, or why it cannot be told."""
    layer = model.get_output_embeddings()
    problem = _problem(layer)
    if problem is not None:
        return f"{type(model).__name__}: {problem}"
    layer = cast(nn.Linear, layer)
    if layer not in _probed:
        _probed[layer] = _probe(model, Head(layer, layer.weight, layer.bias))
    found = _probed[layer]
    if isinstance(found, str):
        return f"{type(model).__name__}: {found}"
    return Head(layer, layer.weight, layer.bias, *found)


@contextmanager
def inputs_of(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """The inputs that a layer is called with, which projects none of them meanwhile.

    What is put together from its output has no rows.
    """
    kept: list[Tensor] = []

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:  # noqa: ARG001
        kept.append(args[0])
        return (args[0][:, :0],)

    handle = layer.register_forward_pre_hook(take)
    try:
        yield kept
    finally:
        handle.remove()


def _problem(layer: object) -> str | None:
    """Why an output layer cannot be computed by anything but itself."""
    if type(layer) is not nn.Linear:
        kind = f"{type(layer).__module__}.{type(layer).__name__}"
        return f"its output layer is a {kind}, not a torch.nn.Linear"
    if type(layer.weight) is not nn.Parameter:
        return f"its output layer's weight is a {type(layer.weight).__name__}"
    if layer.weight.dtype not in TOLERANCES:
        return f"its output layer is in {layer.weight.dtype}"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "something else is hooked to its output layer, and wants its logits"
    return None


def _probe(model: PreTrainedModel, head: Head) -> tuple[float, float | None] | str:
    with torch.inference_mode(False), torch.no_grad():
        try:
            hidden, logits = _forward(model, head)
        except Exception as error:  # an architecture that works in a way of its own
            return f"its output layer cannot be tried alone ({type(error).__name__}: {error})"
        for scale, softcap in _candidates(model.config.get_text_config()):
            expected = replace(head, scale=scale, softcap=softcap).logits(hidden)
            if _agree(expected, logits, TOLERANCES[head.weight.dtype]):
                return scale, softcap
    return "its logits are not its output layer's, scaled and capped as its configuration says"


def _forward(model: PreTrainedModel, head: Head) -> tuple[Tensor, Tensor]:
    """What the output layer gets, and the logits that the model makes of it, for random states."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, _NUM_PROBES, head.weight.shape[1], generator=generator)
    states = states.to(head.weight.device, head.weight.dtype)
    states = states * (_PROBE_LOGIT / head.logits(states).abs().max())
    kept: list[Tensor] = []
    handle = head.layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    ids = torch.zeros(1, _NUM_PROBES, dtype=torch.long, device=states.device)
    try:
        with _standing_in(_decoder(model), states):
            logits = model(input_ids=ids, attention_mask=ids + 1, use_cache=False).logits
    finally:
        handle.remove()
    (hidden,) = kept
    return hidden, logits


def _decoder(model: PreTrainedModel) -> nn.Module:
    found = cast(nn.Module, model.get_decoder())
    # transformers 5 gives the whole of Llama 4, whose base is not under the name that it is said
    # to have
    return found if found is not model else cast(nn.Module, model.get_submodule("model"))


@dataclass
class _Outputs(ModelOutput):
    """What a decoder may give, of which only the states are there."""

    last_hidden_state: Any = None

    def __getattr__(self, name: str) -> None:
        """None for all else: architectures have fields of their own (caches of many kinds)."""
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _standing_in(decoder: nn.Module, states: Tensor) -> Iterator[None]:
    """The decoder gives these states, without a pass through its blocks and their hooks."""
    before = vars(decoder).get("forward")  # accelerate may have put one there
    vars(decoder)["forward"] = lambda *_, **__: _Outputs(last_hidden_state=states)
    try:
        yield
    finally:
        del vars(decoder)["forward"]
        if before is not None:
            vars(decoder)["forward"] = before


def _candidates(config: PretrainedConfig) -> Iterator[tuple[float, float | None]]:
    """Scales and softcaps that the numbers in a configuration can mean."""
    softcaps = [value for name in _SOFTCAPS if (value := getattr(config, name, None)) is not None]
    scales = [value for name in _SCALES if (value := getattr(config, name, None))]
    for softcap in [*softcaps, None]:
        yield 1.0, softcap
        for scale in scales:  # some families multiply by it, others divide
            yield float(scale), softcap
            yield 1.0 / float(scale), softcap


def _agree(expected: Tensor, logits: Tensor, tolerance: float) -> bool:
    if expected.shape != logits.shape:
        return False
    difference = (expected.float() - logits.float()).abs().max()
    return bool(difference <= tolerance * logits.float().abs().max())
