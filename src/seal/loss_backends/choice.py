"""Which loss backend a model's losses are computed by."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from seal.loss_backends.backend import Head, LossBackend
from seal.loss_backends.heads import causal_model, find_head
from seal.loss_backends.liger import Liger
from seal.loss_backends.plain_chunked import PlainChunked
from seal.loss_backends.self_test import self_test
from seal.loss_backends.torch_chunked import TorchChunked
from seal.loss_backends.trl_fused import Trl

logger = logging.getLogger(__name__)

LossBackendName = Literal["auto", "plain", "plain_chunked", "torch_chunked", "trl", "liger"]

BACKENDS: dict[str, LossBackend] = {
    backend.name: backend for backend in (PlainChunked(), TorchChunked(), Trl(), Liger())
}

# Bytes of fp32 logits. The plain loss holds them about three times over at its peak.
LOGITS_BUDGET = 2**30

# What `auto` tries, in this order. Not measured on a GPU. On a CPU torch_chunked takes ten to a
# hundred times as long as the plain loss where there are many words, and TRL's twice as long.
_ON_CUDA = ("trl", "torch_chunked", "plain_chunked")
_ELSEWHERE = ("plain_chunked",)

_ATTRIBUTE = "seal_loss_backend"  # a copy of the model has it too, and a PEFT model passes it on

# What the self-tests said so far.
_tested: dict[tuple[Any, ...], str | None] = {}


class Chosen(NamedTuple):
    """A backend that passed its self-test, and the head that it works on."""

    backend: LossBackend
    head: Head


def set_loss_backend(model: nn.Module, name: LossBackendName) -> None:
    """Have a model's losses computed by a backend; its copies and adapters take it over."""
    setattr(model, _ATTRIBUTE, name)


def loss_backend_of(model: nn.Module) -> str:
    """What `set_loss_backend` said; "auto" where it was not called."""
    return getattr(model, _ATTRIBUTE, "auto")


def choose(model: nn.Module, num_rows: int) -> Chosen | None:
    """The backend for a forward pass; None is the plain loss, from the model's own logits.

    Where there is no CUDA, `auto` takes the chunked plain loss, which makes logits of response
    tokens alone; but the plain loss where the output layer is trained, whose logits the chunked one
    makes twice, as long as they fit `LOGITS_BUDGET`. On CUDA it takes the first of the others that
    can be used. What cannot be used is passed over with a warning.

    Args:
        model: A causal language model.
        num_rows: Predictions that the plain loss would make logits for.

    Raises:
        ValueError: If a backend that was asked for by name cannot be used, or fails its self-test.
    """
    name = loss_backend_of(model)
    if name == "plain" or num_rows == 0:
        return None
    causal = causal_model(model)
    if name != "auto":
        return _named(name, causal, model)
    if causal is None or (
        _makes_logits_twice(causal)
        and causal.device.type != "cuda"
        and fits(num_rows, causal.config.get_text_config().vocab_size)
    ):
        return None
    return _first_usable(causal)


def refusal(backend: LossBackend, head: Head) -> str | None:
    """Why a backend is not used for a head; None if it may be. Tests it at its first use."""
    reason = backend.refusal(head)
    if reason is not None:
        return reason
    weight = head.weight
    key = (backend, weight.device, weight.dtype, head.bias is None, head.scale, head.softcap)
    precision = torch.get_float32_matmul_precision()
    if (*key, precision) not in _tested:
        _tested[(*key, precision)] = self_test(backend, head)
    return _tested[(*key, precision)]


def _named(name: str, causal: PreTrainedModel | None, model: nn.Module) -> Chosen:
    foreign = f"{type(model).__name__}: not a model of transformers"
    head = foreign if causal is None else find_head(causal)
    reason = head if isinstance(head, str) else refusal(BACKENDS[name], head)
    if reason is not None:
        raise ValueError(
            f"model.loss_backend={name} is refused: {reason}. Set model.loss_backend=auto, or "
            "plain."
        )
    return Chosen(BACKENDS[name], cast(Head, head))


def _first_usable(causal: PreTrainedModel) -> Chosen | None:
    head = find_head(causal)
    if isinstance(head, str):
        _warn_once(f"the loss is computed from all the logits at once, for {head}")
        return None
    names = _ON_CUDA if head.weight.device.type == "cuda" else _ELSEWHERE
    for name in names:
        reason = refusal(BACKENDS[name], head)
        if reason is None:
            return Chosen(BACKENDS[name], head)
        _warn_once(f"the loss backend {name} is passed over: {reason}")
    _warn_once("no loss backend can be used; the loss is computed from all the logits at once")
    return None


def _makes_logits_twice(causal: PreTrainedModel) -> bool:
    """Whether anything but the plain loss would: not of a frozen output layer, nor to score."""
    layer = causal.get_output_embeddings()
    return torch.is_grad_enabled() and any(
        value.requires_grad for value in (layer.parameters() if layer is not None else ())
    )


def fits(num_rows: int, num_words: int) -> bool:
    """Whether the logits of so many tokens may be held at once."""
    return num_rows * num_words * 4 <= LOGITS_BUDGET


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
