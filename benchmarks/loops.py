"""The yardsticks: plain loops with no bookkeeping, and the published SEAL loop in our own words.

Only torch, transformers and peft are needed here. Each takes the model over: it is changed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.timing import Watch
from benchmarks.workload import Padded, Row, Visit, Work, longest_first, pad, put_adapter

LEARNING_RATE = 1e-5
SELECTOR_LEARNING_RATE = 5e-3
BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0
SCORING_ROWS = 16  # per forward pass
ROWS_OF_A_PASS = 64  # what `forward` and `scoring` take for a step
_IGNORED = -100

# It takes the model over, makes a step of each visit, and marks the end of each.
Loop = Callable[[nn.Module, Work, Watch, Sequence[Visit]], object]

_LOOPS = {
    "forward": ("benchmarks.loops", "forward"),
    "plain": ("benchmarks.loops", "plain"),
    "lean": ("benchmarks.loops", "lean"),
    "lean_twice": ("benchmarks.loops", "lean_twice"),
    "published": ("benchmarks.loops", "published"),
    "train": ("benchmarks.with_trl", "seal_train"),
    "scoring": ("benchmarks.with_seal", "scoring"),
    "seal": ("benchmarks.with_seal", "seal"),
    "penalty": ("benchmarks.with_seal", "penalty"),
    "trl": ("benchmarks.with_trl", "trl"),
    "trl_checkpointed": ("benchmarks.with_trl", "trl_checkpointed"),
}


def loop_of(name: str) -> Loop:
    """The loop of that name. What it needs is imported only now.

    Raises:
        ImportError: If something is not installed.
    """
    module, function = _LOOPS[name]
    return getattr(importlib.import_module(module), function)


def plain(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:
    """Plain fine-tuning on the pool and the safe samples, with transformers' own loss.

    The loss weighs tokens alike instead of samples, at the same cost.
    """
    model, device = put_adapter(model), device_of(model)
    weights = trained(model)
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE, betas=BETAS)
    for visit in visits:
        optimizer.zero_grad()
        rows = visit.safe + visit.pool
        for chosen in longest_first(rows, work.size.micro_batch):
            batch = pad(chosen, device)
            labels = batch.input_ids.masked_fill(~batch.response_mask, _IGNORED)
            loss = model(**batch.model_inputs(), labels=labels, use_cache=False).loss
            (loss * len(chosen) / len(rows)).backward()
        nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM)
        optimizer.step()
        if not watch.mark():
            return


def lean(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:
    """Plain fine-tuning with logits of response tokens alone; nothing is left to leave out."""
    _lean(model, work, watch, visits, twice=False)


def lean_twice(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:
    """The same, and another adapter that learns from the pool alone: what Algorithm 1 does."""
    _lean(model, work, watch, visits, twice=True)


def _lean(
    model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit], *, twice: bool
) -> None:
    adapted, device = put_adapter(model), device_of(model)
    weights = trained(adapted)
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE, betas=BETAS)
    for visit in visits:
        for rows in (visit.safe + visit.pool, *([visit.pool] if twice else [])):
            optimizer.zero_grad()
            for chosen in longest_first(rows, work.size.micro_batch):
                batch = pad(chosen, device)
                mask = batch.response_mask[:, 1:]
                decoder = adapted.get_base_model().get_decoder()  # pyright: ignore
                states = decoder(**batch.model_inputs(), use_cache=False).last_hidden_state
                logits = adapted.get_output_embeddings()(states[:, :-1][mask])  # pyright: ignore
                nll = F.cross_entropy(logits.float(), batch.input_ids[:, 1:][mask])
                (nll * len(chosen) / len(rows)).backward()
            nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM)
            optimizer.step()
        if not watch.mark():
            return


@torch.inference_mode()
def bare_scoring(model: nn.Module, rows: Sequence[Row], device: str = "cpu") -> list[Tensor]:
    """Mean losses of length-sorted batches of rows: forward, logits of responses, softmax."""
    return [
        response_losses(model, pad(chosen, device)) for chosen in longest_first(rows, SCORING_ROWS)
    ]


def forward(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:  # noqa: ARG001
    """`bare_scoring` of some rows, again and again."""
    rows, device = work.pool[:ROWS_OF_A_PASS], device_of(model)
    bare_scoring(model, rows, device)  # with what is done once
    while watch.mark():
        bare_scoring(model, rows, device)


def response_losses(model: nn.Module, batch: Padded) -> Tensor:
    """Mean loss of each row's response, from the logits of the columns that hold one."""
    targets = batch.response_mask[:, 1:]
    columns = targets.any(dim=0).nonzero().squeeze(1)
    mask = targets[:, columns]
    logits = model(**batch.model_inputs(), logits_to_keep=columns, use_cache=False).logits
    labels = batch.input_ids[:, 1:][:, columns][mask]
    nll = F.cross_entropy(logits[mask].float(), labels, reduction="none")
    return torch.zeros(mask.shape, device=nll.device).masked_scatter(mask, nll).sum(1) / mask.sum(1)


class Published(NamedTuple):
    """What the published loop leaves.

    Attributes:
        logits: Of the selector, one for each row of `Work.pool`.
        first_losses: Id -> loss at the first visit.
    """

    logits: Tensor
    first_losses: dict[str, float]


def published(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> Published:
    """The published loop (Algorithm 2 with one dense Adam over all N softmax logits).

    Samples pass one by one, the safe one and the pool's in forward passes of their own, with fp32
    logits for every token, the prompt's too. The backward pass of theta goes through both, also
    where a weight is 0, as the pool's is in the whole first epoch; omega has a second one, through
    a softmax of all N logits. Batches are padded to their longest: one sample has nothing to pad.

    It is as quick as this can be on one device: what DeepSpeed adds is left out.
    """
    model, device = put_adapter(model), device_of(model)
    theta = trained(model)
    theta_adam = torch.optim.Adam(theta, lr=LEARNING_RATE, betas=BETAS)
    num = len(work.pool)
    omega = torch.full((num,), 0.1, device=device, requires_grad=True)
    omega_adam = torch.optim.Adam([omega], lr=SELECTOR_LEARNING_RATE, betas=BETAS)
    place = {row.id: i for i, row in enumerate(work.pool)}
    first_losses: dict[str, float] = {}
    for visit in visits:
        gamma = work.gamma_start + work.gamma_step * visit.epoch
        theta_adam.zero_grad()
        omega_adam.zero_grad()
        for safe_row, row in zip(visit.safe, visit.pool, strict=True):
            safe_loss, loss = _full_loss(model, safe_row, device), _full_loss(model, row, device)
            weight = num * torch.softmax(omega, dim=0)[place[row.id]]
            both = (1 - gamma) * safe_loss + gamma * weight.detach() * loss
            (both / len(visit.pool)).backward()
            (weight * loss.detach() / len(visit.pool)).backward()
            first_losses.setdefault(row.id, float(loss.detach()))
        nn.utils.clip_grad_norm_(theta, MAX_GRAD_NORM)
        theta_adam.step()
        nn.utils.clip_grad_norm_([omega], 10.0)
        omega_adam.step()
        if not watch.mark():
            break
    return Published(omega.detach(), first_losses)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with a gradient."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def device_of(model: nn.Module) -> str:
    """Where the model is."""
    return next(model.parameters()).device.type


def _full_loss(model: nn.Module, row: Row, device: str) -> Tensor:
    ids = torch.from_numpy(row.input_ids.astype(np.int64))[None].to(device)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    labels = ids.masked_fill(~torch.from_numpy(row.response_mask)[None].to(device), _IGNORED)
    return F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=_IGNORED)
