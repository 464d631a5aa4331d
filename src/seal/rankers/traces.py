"""What one forward pass leaves behind at a sample: states, losses, the urge to refuse.

Dimension key: B samples of a batch, T tokens of the padded batch, H width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from seal.artifacts.row_table import Row
from seal.blocks import decoder_blocks
from seal.data.batches import Batch
from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.losses import losses_and_entropy, response_logits
from seal.models import LanguageModel
from seal.tables import Reading, Tables

# How aligned models begin to refuse. Only the first token of each counts.
REFUSALS = (
    "I'm sorry", "I am sorry", "I cannot", "I can't", "Sorry", "As an AI", "I apologize",
    "Unfortunately", "It is not", "No,",
)  # fmt: skip
OPENING = 8  # tokens in which an answer takes its stand
STATES = ("prompt_last", "prompt_mean", "response_mean", "response_opening")
MOST_DIMENSIONS = 256  # of a state; wider ones are projected
_LARGEST = torch.finfo(torch.float16).max
_LOSSES = (
    "mean", "first", "first_4", "first_8", "first_16", "last_8", "largest",
    "entropy", "first_entropy", "first_8_entropy", "excess", "log_length",
)  # fmt: skip


class TraceReading(Reading):
    """Pooled hidden states of the middle block and the last one, and the losses of the response.

    Attributes:
        refusal_ids: Tokens with which a refusal begins.
        seed: Of the projection of states wider than `MOST_DIMENSIONS`.
    """

    noun: ClassVar[str] = "hidden state or loss"
    refusal_ids: tuple[int, ...]
    seed: int = 0

    def read(self, lm: LanguageModel, batch: Batch) -> list[Row]:
        """`states` [STATES x 2 layers x D], `losses` and `refusal` of each row."""
        with _captured(lm.model) as captured:
            logits, labels, mask = response_logits(lm.model, batch)
        pooled = [_pooled(state, batch) for state in captured]
        if pooled[0].shape[-1] > MOST_DIMENSIONS:
            # The same draw at every call: rows of different batches must stay comparable.
            matrix = _projection(pooled[0].shape[-1], self.seed).to(pooled[0].device)
            pooled = [state @ matrix for state in pooled]
        # Some states of some models are larger than any number in half precision.
        states = torch.stack(pooled, dim=2).flatten(1).clamp(-_LARGEST, _LARGEST)
        states = states.half().cpu().numpy()
        log_p = logits.log_softmax(dim=-1)
        counts = mask.sum(dim=1).tolist()
        nll, entropies = (
            values.cpu().split(counts) for values in losses_and_entropy(log_p, labels)
        )
        first = torch.tensor([0, *counts[:-1]]).cumsum(0)
        refuse = log_p[first][:, list(self.refusal_ids)].logsumexp(dim=-1).cpu().double()
        refusal = refuse - torch.log(-torch.expm1(refuse.clamp(max=-1e-9)))
        return [
            {
                "states": states[row],
                "losses": _loss_features(nll[row].numpy(), entropies[row].numpy()),
                "refusal": refusal[row : row + 1].float().numpy(),
            }
            for row in range(len(counts))
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """The traces of rows, in the order asked for.

    Attributes:
        states: fp32 [N, STATES, 2 x D].
        losses: fp32 [N, 12], nats; `_LOSSES` in order.
        refusal: fp32 [N], log-odds that the model's own answer would begin like a refusal.
    """

    states: Float[np.ndarray, "N S D"]
    losses: Float[np.ndarray, "N 12"]
    refusal: Float[np.ndarray, " N"]

    def prompt(self) -> np.ndarray:
        """What the model made of the prompt: [N, features]."""
        return self.states[:, :2].reshape(len(self.states), -1)

    def response(self) -> np.ndarray:
        """What it made of the response: [N, features]."""
        mean = self.states[:, STATES.index("response_mean")]
        return np.concatenate([mean, self.losses], axis=1)

    def both(self) -> np.ndarray:
        """All of it: [N, features]."""
        return np.concatenate([self.states.reshape(len(self.states), -1), self.losses], axis=1)


def read_traces(
    lm: LanguageModel, rows: Sequence[Encoded], tables: Tables, *, seed: int, what: str
) -> Traces:
    """The traces of rows under a model, in one forward pass."""
    reading = TraceReading(refusal_ids=refusal_ids(lm), seed=seed)
    table = tables.read(reading, lm, rows, what=what)
    order = table.order([row.id for row in rows])

    def column(name: str) -> np.ndarray:
        return table.flat(name).reshape(len(table.ids), -1)[order].astype(np.float32)

    states = column("states").reshape(len(rows), len(STATES), -1)
    return Traces(states, column("losses"), column("refusal")[:, 0])


def join_traces(parts: Sequence[Traces]) -> Traces:
    """The traces of several sets, one after the other."""
    return Traces(
        np.concatenate([part.states for part in parts]),
        np.concatenate([part.losses for part in parts]),
        np.concatenate([part.refusal for part in parts]),
    )


def refusal_ids(lm: LanguageModel) -> tuple[int, ...]:
    """The first response token of each of `REFUSALS` under a model's template and tokenizer.

    Under a template that refuses this conversation (some want a system prompt), the tokenizer alone
    decides, with and without a blank before the text.
    """
    samples = [
        Sample(str(place), (Message("user", "Hello."),), (Message("assistant", text),))
        for place, text in enumerate(REFUSALS)
    ]
    rows = [row for row in lm.encoder.encode(samples, Tokenization()) if isinstance(row, Encoded)]
    found = {int(row.input_ids[row.response_mask][0]) for row in rows}
    if not found:
        texts = [f"{blank}{text}" for text in REFUSALS for blank in ("", " ")]
        tokens = lm.tokenizer(texts, add_special_tokens=False)["input_ids"]
        found = {ids[0] for ids in tokens}
    return tuple(sorted(found))


@contextmanager
def _captured(model: nn.Module) -> Iterator[list[Float[Tensor, "B T H"]]]:
    """The outputs of the middle block and of the whole decoder, filled by the next forward pass."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401, ARG001
        kept.append(output if isinstance(output, Tensor) else output[0])

    blocks = decoder_blocks(model)
    # Not `base_model`: in models of several parts that is around the decoder, or never called.
    decoder = cast(nn.Module, cast(PreTrainedModel, model).get_decoder())
    hooks = [
        blocks[(len(blocks) - 1) // 2].register_forward_hook(keep),
        decoder.register_forward_hook(keep),
    ]
    try:
        yield kept
        if len(kept) != len(hooks):
            raise ValueError(
                f"model: the hidden states of {type(model).__name__} cannot be read: its decoder "
                f"({type(decoder).__name__}) is not what runs. Choose a ranker that reads no "
                "hidden states (docs/how-to-choose.md)."
            )
    finally:
        for hook in hooks:
            hook.remove()


def _pooled(states: Float[Tensor, "B T H"], batch: Batch) -> Float[Tensor, "B S H"]:
    """STATES of each row."""
    response = batch.response_mask
    before = (batch.attention_mask == 1) & (response.cumsum(dim=1) == 0)
    opening = response & (response.cumsum(dim=1) <= OPENING)
    width = response.shape[1]
    last = torch.where(before, torch.arange(width, device=before.device), -1).argmax(dim=1)
    rows = torch.arange(len(last), device=last.device)
    # What stands on the padding may be anything, even NaN, which a weight of 0 does not remove.
    values = states.float().masked_fill((batch.attention_mask == 0)[:, :, None], 0.0)
    return torch.stack(
        [values[rows, last], *(_mean(values, mask) for mask in (before, response, opening))], dim=1
    )


def _mean(values: Float[Tensor, "B T H"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B H"]:
    """The mean over the chosen tokens of each row; 0 where there is none."""
    weights = mask.float()
    return torch.einsum("bth,bt->bh", values, weights) / weights.sum(dim=1, keepdim=True).clamp(1)


def _projection(width: int, seed: int) -> Float[Tensor, "H D"]:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (width, MOST_DIMENSIONS), generator=generator) * 2 - 1
    return signs.float() / MOST_DIMENSIONS**0.5


def _loss_features(nll: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """fp32 [12]: `_LOSSES`."""
    return np.array(
        [
            nll.mean(),
            nll[0],
            *(nll[:count].mean() for count in (4, 8, 16)),
            nll[-8:].mean(),
            nll.max(),
            entropy.mean(),
            entropy[0],
            entropy[:8].mean(),
            (nll - entropy).mean(),
            np.log(len(nll)),
        ],
        dtype=np.float32,
    )
