"""Whether the samples of a pass lie in one row, told apart by their position ids.

transformers keeps packed samples apart by the restarts of the position ids: by a block mask, or by
the variable-length kernels of flash attention. Not every architecture does, and one that does not
would compute losses that depend on a sample's neighbours without a sign of it. So it is tried
before the first batch.

Dimension key: T tokens, V words.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from seal.loss_backends.backend import TOLERANCES
from seal.loss_backends.heads import causal_model

logger = logging.getLogger(__name__)

BatchesName = Literal["auto", "padded", "packed"]

_ATTRIBUTE = "seal_batches"  # a copy of the model has it too, and a PEFT model passes it on
_PROBE = (12, 5)  # tokens of the two made-up samples

# What is wrong with packed batches, of the models that were tried.
_tried: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def set_batches(model: nn.Module, name: BatchesName) -> None:
    """Have a model's losses computed on such batches; its copies and adapters take it over."""
    setattr(model, _ATTRIBUTE, name)


def is_packed(model: nn.Module) -> bool:
    """Whether a model's losses are computed on packed batches.

    `auto` packs under flash attention only: any other attention computes, and masks, what the
    samples of a row would have to do with each other.

    Raises:
        ValueError: If packed batches were asked for, and the model does not keep samples apart.
    """
    name = getattr(model, _ATTRIBUTE, "auto")
    causal = causal_model(model)
    if name == "padded" or (name == "auto" and not _has_flash(causal)):
        return False
    problem = _problem(model, causal)
    if problem is None:
        return True
    if name == "packed":
        raise ValueError(
            f"model.batches=packed is refused: {problem}. Set model.batches=auto, or padded."
        )
    _warn_once(f"batches are padded, not packed: {problem}")
    return False


def why_not_packed(model: nn.Module) -> str | None:
    """What is wrong with samples that lie in one row under a model; None if nothing is."""
    return _problem(model, causal_model(model))


def _has_flash(causal: PreTrainedModel | None) -> bool:
    return causal is not None and "flash" in str(causal.config._attn_implementation)


def _problem(model: nn.Module, causal: PreTrainedModel | None) -> str | None:
    """Why a model is not given packed batches. Tries it at its first use."""
    if causal is None:
        return f"{type(model).__name__}: not a model of transformers"
    if causal not in _tried:
        _tried[causal] = None if _keeps_apart(model, causal) else _contaminated(causal)
    return _tried[causal]


def _contaminated(causal: PreTrainedModel) -> str:
    return (
        f"{type(causal).__name__} with {causal.config._attn_implementation} attention predicts "
        "something else for a sample that follows another one in its row than for the same sample "
        "alone"
    )


def _keeps_apart(model: nn.Module, causal: PreTrainedModel) -> bool:
    """Whether the second of two made-up samples in a row gets the logits that it gets alone."""
    num_words = causal.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(num_words, (1, sum(_PROBE)), generator=generator).to(causal.device)
    position_ids = torch.cat([torch.arange(length) for length in _PROBE])[None].to(causal.device)
    start = _PROBE[0]
    with torch.inference_mode(False), torch.no_grad():
        alone = _logits(model, ids[:, start:], position_ids[:, start:])
        together = _logits(model, ids, position_ids)[start:]
    difference = (together - alone).abs().max()
    tolerance = TOLERANCES.get(causal.dtype, TOLERANCES[torch.float32])
    return bool(difference <= tolerance * alone.abs().max())


def _logits(
    model: nn.Module, ids: Int64[Tensor, "1 T"], position_ids: Int64[Tensor, "1 T"]
) -> Float[Tensor, "T V"]:
    return model(input_ids=ids, position_ids=position_ids, use_cache=False).logits[0].float()


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
