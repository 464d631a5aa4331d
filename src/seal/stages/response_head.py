"""What TRL's trainer asks of the output layer, computed for response tokens alone.

TRL's trainer asks the model for log-probabilities, entropies and hits, which a fused output layer
computes. Without Triton that one makes the logits of every token, those of prompts and padding
too, makes them again in the backward pass, and takes several times as long. Here the same numbers
come from the response tokens' logits, a part at a time. All that TRL does with them (the loss, its
normalisation, its log) is still TRL's.

Dimension key: B samples, T columns, R tokens with a loss.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from seal.loss_backends.backend import IGNORED, Head, nll_of
from seal.loss_backends.choice import fits, loss_backend_of
from seal.loss_backends.chunks import in_chunks
from seal.loss_backends.heads import causal_model, find_head, inputs_of

# By these names the loss is computed here; by others, and by "auto" on CUDA, as TRL does it.
_OWN = ("plain", "plain_chunked")


@dataclass
class ResponseOutputs(ModelOutput):
    """What TRL's trainer reads; 0 where there is no loss.

    Attributes:
        log_probs: log p(label), in nats.
        entropy: Of the prediction, in nats; without a gradient.
        is_top1: 1 where the label is the likeliest word.
        label_mask: Which tokens have a loss; column t is about token t + 1.
    """

    log_probs: Float[Tensor, "B T"] | None = None
    entropy: Float[Tensor, "B T"] | None = None
    is_top1: Int64[Tensor, "B T"] | None = None
    label_mask: Bool[Tensor, "B T"] | None = None


def put_response_head(model: nn.Module) -> bool:
    """Have TRL's trainer compute its losses from response tokens alone, where that is quicker.

    It is without CUDA, and wherever `model.loss_backend` names the plain loss. The model must have
    TRL's own fused output layer already, which goes on with what is not of this kind: labels that
    were shifted before, losses of routers, and output layers whose logits are not theirs alone.

    Args:
        model: What TRL's trainer was given, in one piece.

    Returns:
        Whether it will.
    """
    causal = causal_model(model)
    name = loss_backend_of(model)
    if causal is None or not (name in _OWN or (name == "auto" and causal.device.type == "cpu")):
        return False
    if isinstance(find_head(causal), str):
        return False
    _patch(causal)
    return True


def _patch(causal: PreTrainedModel) -> None:
    original = causal.forward

    @functools.wraps(type(causal).forward)  # generation looks at the signature
    def forward(
        *args: Any,  # noqa: ANN401
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **rest: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        shifted = rest.get("shift_labels") is not None
        routed = rest.get("output_router_logits", False) or getattr(
            causal.config.get_text_config(), "output_router_logits", False
        )
        head = find_head(causal) if fused_lm_head and not (shifted or routed) else ""
        if labels is None or isinstance(head, str):
            own = {} if labels is None else {"labels": labels}
            return original(*args, fused_lm_head=fused_lm_head, **own, **rest)
        rest.pop("num_items_in_batch", None)  # of a loss that nobody asks for here
        with inputs_of(head.layer) as inputs:
            original(*args, **rest)
        (hidden,) = inputs
        return response_outputs(hidden, labels, head)

    causal.forward = forward


def response_outputs(
    hidden: Float[Tensor, "B S H"], labels: Int64[Tensor, "B S"], head: Head
) -> ResponseOutputs:
    """Log-probabilities, entropies and hits of the tokens with a label, each from those before it.

    Args:
        hidden: What the output layer would be given, for every token.
        labels: -100 where there is no loss.
        head: The output layer.
    """
    labels = labels[:, 1:].to(hidden.device)
    mask = labels != IGNORED
    nll, entropy, hits = _scores(hidden[:, :-1][mask], labels[mask], head)
    places = torch.zeros(mask.shape, device=hidden.device)
    return ResponseOutputs(
        log_probs=places.masked_scatter(mask, -nll),
        entropy=places.masked_scatter(mask, entropy),
        is_top1=torch.zeros_like(labels).masked_scatter(mask, hits),
        label_mask=mask,
    )


def _scores(
    hidden: Float[Tensor, "R H"], labels: Int64[Tensor, " R"], head: Head
) -> tuple[Tensor, ...]:
    def score(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = head.logits(hidden).float()
        nll = nll_of(logits, labels)
        with torch.no_grad():
            # H = -sum p log p, with log p = z - log Z and log Z = z_label + nll
            log_z = logits.gather(1, labels[:, None]) + nll[:, None]
            log_p = logits - log_z
            entropy = -(log_p.exp() * log_p).sum(dim=1)
            hits = (logits.argmax(dim=1) == labels).long()
        return nll, entropy, hits

    # A trained output layer's logits are made twice only where they are too many to be kept.
    if head.weight.requires_grad and fits(labels.numel(), head.weight.shape[0]):
        return score(hidden, labels)
    return in_chunks(score, hidden, labels, head)
