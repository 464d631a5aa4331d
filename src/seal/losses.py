"""Negative log-likelihood of responses, per token and per sample: pure functions of tensors.

`token_nll` and what is made of it never hold logits of every token where they are too many: see
`seal.loss_backends`.

Dimension key: B samples of a batch, T tokens of the padded batch, K columns that need logits,
R response tokens of the batch, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from seal.data.batches import Batch
from seal.loss_backends.choice import Chosen, choose
from seal.loss_backends.heads import inputs_of


class TokenLosses(NamedTuple):
    """Losses of the response tokens of a batch.

    Attributes:
        nll: -log p(token | the tokens before it), in nats; 0 where `mask` is false.
        mask: Which entries are response tokens.
    """

    nll: Float[Tensor, "B K"]
    mask: Bool[Tensor, "B K"]


class ResponseLogits(NamedTuple):
    """Predictions of the response tokens of a batch, row after row.

    Attributes:
        logits: fp32.
        labels: The tokens that are there.
        mask: Where they stand in the batch, among the columns that hold a response token.
    """

    logits: Float[Tensor, "R V"]
    labels: Int64[Tensor, " R"]
    mask: Bool[Tensor, "B K"]


def token_nll(model: nn.Module, batch: Batch) -> TokenLosses:
    """Per-token loss of the responses in a batch under a causal language model.

    Raises:
        ValueError: If the model was told to use a loss backend that cannot be used.
    """
    targets = _targets(batch)
    chosen = choose(model, targets.mask.numel())
    if chosen is None:
        logits, labels, _ = response_logits(model, batch)
        nll = token_losses(logits, labels)
    else:
        nll = _chosen_losses(model, batch, targets, chosen)
    mask = targets.mask
    return TokenLosses(torch.zeros(mask.shape, device=nll.device).masked_scatter(mask, nll), mask)


def token_losses(logits: Float[Tensor, "R V"], labels: Int64[Tensor, " R"]) -> Float[Tensor, " R"]:
    """-log p(label) of each prediction, in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def losses_and_entropy(
    log_p: Float[Tensor, "R V"], labels: Int64[Tensor, " R"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """`token_losses` and the entropy of each prediction, in nats, from one softmax."""
    nll = -log_p.gather(1, labels[:, None]).squeeze(1)
    return nll, -(log_p.exp() * log_p).sum(dim=-1)


def response_logits(model: nn.Module, batch: Batch) -> ResponseLogits:
    """The predictions of the response tokens in a batch.

    Logits are computed only for the columns in which some row has a response token to predict,
    which in a left-padded batch are the last ones: the prompt's part of the vocabulary projection,
    the largest matrix of a small model, is never made.
    """
    columns, mask, labels = _targets(batch)
    logits = _forward(model, batch, columns)
    # fp32 before the softmax: bf16 has 8 bits of mantissa, and ties thousands of scores. Only where
    # there is a response token: a softmax over padding costs as much as one over text.
    return ResponseLogits(logits[mask].float(), labels, mask)


def sample_nll(losses: TokenLosses) -> Float[Tensor, " B"]:
    """l(theta; z) = -(1/d_y) sum_j log P(y_j | x, y_<j): the mean over a sample's response tokens.

    The batch must hold no sample without response tokens; the loader excludes those by name.
    """
    return losses.nll.sum(dim=1) / losses.mask.sum(dim=1)


@torch.no_grad()
def mean_nll(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """`sample_nll` of a batch without a graph, in fp32."""
    return sample_nll(token_nll(model, batch))


class _Targets(NamedTuple):
    """What is to be predicted in a batch.

    Attributes:
        columns: Those in which some row predicts a response token.
        mask: Where the response tokens are in them.
        labels: The response tokens, row after row.
    """

    columns: Int64[Tensor, " K"]
    mask: Bool[Tensor, "B K"]
    labels: Int64[Tensor, " R"]


def _targets(batch: Batch) -> _Targets:
    # What is left of a sample's first token is padding: there is nothing to predict it from.
    scored = batch.response_mask & (batch.position_ids > 0)
    targets = scored[:, 1:]  # column t is predicted from column t - 1
    columns = targets.any(dim=0).nonzero().squeeze(1)
    mask = targets[:, columns]
    return _Targets(columns, mask, batch.input_ids[:, 1:][:, columns][mask])


def _forward(
    model: nn.Module, batch: Batch, columns: Int64[Tensor, " K"]
) -> Float[Tensor, "B K V"]:
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=columns,
        use_cache=False,
    ).logits


def _chosen_losses(
    model: nn.Module, batch: Batch, targets: _Targets, chosen: Chosen
) -> Float[Tensor, " R"]:
    """The same as `token_losses` of `response_logits`, by a backend."""
    with inputs_of(chosen.head.layer) as inputs:
        _forward(model, batch, targets.columns)
    (hidden,) = inputs
    return chosen.backend.token_nll(hidden[targets.mask], targets.labels, chosen.head)
