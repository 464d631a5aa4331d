"""What is computed from the logits of some tokens at a time, so that never all of them are held.

Dimension key: R response tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from seal.loss_backends.backend import Head

# Logits in memory at once: 64 MiB of fp32, a few times over. Fewer than 128 tokens at a time make
# the matrix products of a CPU slower; more only take memory.
CHUNK_LOGITS = 2**24

# Hidden states and labels of some tokens -> their losses, and what else is measured of each.
Score = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def in_chunks(
    score: Score, hidden: Float[Tensor, "R H"], labels: Int64[Tensor, " R"], head: Head
) -> tuple[Tensor, ...]:
    """A score of each token, from as many tokens at a time as make `CHUNK_LOGITS` logits.

    Of a frozen output layer the gradient of each loss is made together with the loss, and
    multiplied later with what comes from above: the logits are made once. Of a trained one, whose
    gradient adds up over tokens, they are made again in the backward pass.

    Args:
        score: Gives fp32 losses [R'] first, each a function of the token's own hidden state; what
            else it gives, also one number a token, has no gradient.
        hidden: What the output layer is given.
        labels: In [0, V), or `IGNORED`.
        head: What `score` makes its logits with.
    """
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    if torch.is_grad_enabled() and _is_trained(head):
        parts = [
            checkpoint(score, *pair, use_reentrant=False, preserve_rng_state=False)
            for pair in zip(hidden.split(size), labels.split(size), strict=True)
        ]
        return _joined(parts)
    if torch.is_grad_enabled() and hidden.requires_grad:
        return _WithGradient.apply(hidden, labels, score, size)  # pyright: ignore
    pairs = zip(hidden.split(size), labels.split(size), strict=True)
    return _joined([score(*pair) for pair in pairs])


def _is_trained(head: Head) -> bool:
    return head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)


class _WithGradient(torch.autograd.Function):
    """Each token's loss and, while its logits are there, the gradient in its hidden state."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context)
        hidden: Tensor,
        labels: Tensor,
        score: Score,
        size: int,
    ) -> tuple[Tensor, ...]:
        parts, gradients = [], []
        for some, their in zip(hidden.split(size), labels.split(size), strict=True):
            with torch.enable_grad():
                leaf = some.detach().requires_grad_()
                losses, *others = score(leaf, their)
                gradients.append(torch.autograd.grad(losses.sum(), leaf)[0])
            parts.append((losses.detach(), *others))
        ctx.save_for_backward(torch.cat(gradients))
        losses, *others = _joined(parts)
        ctx.mark_non_differentiable(*others)
        return losses, *others

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        of_losses = upstream[0]  # nothing else has a gradient
        assert of_losses is not None
        (gradient,) = ctx.saved_tensors
        return (gradient * of_losses[:, None]).to(gradient.dtype), None, None, None


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(some) for some in zip(*parts, strict=True))
