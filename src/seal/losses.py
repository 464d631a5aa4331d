"""Negative log-likelihood of responses, per token and per sample: pure functions of tensors.

`token_nll` and what is made of it never hold logits of every token where they are too many: see
`seal.loss_backends`.

Dimension key: B samples of a batch, S rows of it (B, or 1 where they are packed), K columns that
need logits, R response tokens of the batch, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from seal.data.batches import Batch
from seal.loss_backends.backend import nll_of
from seal.loss_backends.choice import Chosen, choose
from seal.loss_backends.heads import inputs_of


class TokenLosses(NamedTuple):
    """Losses of the response tokens of a batch, sample after sample, padded or packed.

    Attributes:
        nll: -log p(token | the tokens before it), in nats.
        counts: How many of them are each sample's. A sample's first token is none of them, also
            where it belongs to the response: there is nothing to predict it from.
    """

    nll: Float[Tensor, " R"]
    counts: Int64[Tensor, " B"]


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
        nll = token_losses(_logits(model, batch, targets), targets.labels)
    else:
        nll = _chosen_losses(model, batch, targets, chosen)
    return TokenLosses(nll, targets.counts)


def token_losses(logits: Float[Tensor, "R V"], labels: Int64[Tensor, " R"]) -> Float[Tensor, " R"]:
    """-log p(label) of each prediction, in nats."""
    return nll_of(logits, labels)


def losses_and_entropy(
    log_p: Float[Tensor, "R V"], labels: Int64[Tensor, " R"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """`token_losses` and the entropy of each prediction, in nats, from one softmax."""
    nll = -log_p.gather(1, labels[:, None]).squeeze(1)
    return nll, -(log_p.exp() * log_p).sum(dim=-1)


def response_logits(model: nn.Module, batch: Batch) -> ResponseLogits:
    """The predictions of the response tokens in a padded batch.

    Logits are computed only for the columns in which some row has a response token to predict,
    which in a left-padded batch are the last ones: the prompt's part of the vocabulary projection,
    the largest matrix of a small model, is never made.
    """
    assert batch.lengths is None
    targets = _targets(batch)
    return ResponseLogits(_logits(model, batch, targets), targets.labels, targets.mask)


def sample_nll(losses: TokenLosses) -> Float[Tensor, " B"]:
    """l(theta; z) = -(1/d_y) sum_j log P(y_j | x, y_<j): the mean over a sample's response tokens.

    The batch must hold no sample without response tokens; the loader excludes those by name.
    """
    nll, counts = losses
    # A row for each sample, for a sum in pairs: torch.segment_reduce adds up one after the other,
    # in fp32, and was off by 4e-6 in the mean of 4000 tokens.
    columns = torch.arange(int(counts.max()), device=counts.device).flip(0)
    mask = columns < counts[:, None]
    return nll.new_zeros(mask.shape).masked_scatter(mask, nll).sum(dim=1) / counts


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
        counts: How many of them are each sample's.
    """

    columns: Int64[Tensor, " K"]
    mask: Bool[Tensor, "S K"]
    labels: Int64[Tensor, " R"]
    counts: Int64[Tensor, " B"]


def _targets(batch: Batch) -> _Targets:
    # What is left of a sample's first token is padding, or the end of another sample.
    scored = batch.response_mask & (batch.position_ids > 0)
    targets = scored[:, 1:]  # column t is predicted from column t - 1
    columns = targets.any(dim=0).nonzero().squeeze(1)
    mask = targets[:, columns]
    labels = batch.input_ids[:, 1:][:, columns][mask]
    return _Targets(columns, mask, labels, _counts(batch, scored))


def _counts(batch: Batch, scored: Bool[Tensor, "S T"]) -> Int64[Tensor, " B"]:
    if batch.lengths is None:
        return scored.sum(dim=1)
    ends = torch.tensor(batch.lengths, device=scored.device).cumsum(dim=0)
    before = scored[0].cumsum(dim=0)[ends - 1]
    return before.diff(prepend=before.new_zeros(1))


def _logits(model: nn.Module, batch: Batch, targets: _Targets) -> Float[Tensor, "R V"]:
    logits = _in_columns(_forward(model, batch, targets.columns), targets)
    # fp32 before the softmax: bf16 has 8 bits of mantissa, and ties thousands of scores. Only where
    # there is a response token: a softmax over padding costs as much as one over text.
    return logits[targets.mask].float()


def _forward(
    model: nn.Module, batch: Batch, columns: Int64[Tensor, " K"]
) -> Float[Tensor, "S K V"]:
    return model(
        input_ids=batch.input_ids,
        # transformers looks for packed samples in the position ids only where there is no mask
        attention_mask=batch.attention_mask if batch.lengths is None else None,
        position_ids=batch.position_ids,
        logits_to_keep=columns,
        use_cache=False,
    ).logits


def _in_columns(values: Float[Tensor, "S T X"], targets: _Targets) -> Float[Tensor, "S K X"]:
    """What a model gives in the columns that were asked for; some give all of them (xLSTM)."""
    if values.shape[1] == targets.mask.shape[1]:
        return values
    return values[:, targets.columns]


def _chosen_losses(
    model: nn.Module, batch: Batch, targets: _Targets, chosen: Chosen
) -> Float[Tensor, " R"]:
    """The same as `token_losses` of `response_logits`, by a backend."""
    with inputs_of(chosen.head.layer) as inputs:
        _forward(model, batch, targets.columns)
    hidden = _in_columns(inputs[0], targets)
    return chosen.backend.token_nll(hidden[targets.mask], targets.labels, chosen.head)
