"""Bi-directional anchoring on gradients: towards harm and away from safety (arXiv 2404.01099).

Paper -> here
    g_i                 gradient of the sample's loss at the aligned model, over all its answer
    g_j                 the same of an anchor, over the first `anchor_tokens` tokens of its answer
    G                   mean of g_j / |g_j| over a set of anchors, not normalised again
    score_i             risk: <g_i / |g_i|, G_harmful - G_safe1 - G_safe2>

The gradient of a linear layer's weight is sum_t delta_t x_t^T over a sample's tokens: x the layer's
inputs, delta the gradient at its outputs. Too large to keep one per sample, it is not made: inner
products and norm need the factors alone, <g, V> = sum_t delta_t V x_t and
|g|^2 = sum_tt' (delta_t . delta_t') (x_t . x_t').

Dimension key: B samples of a micro-batch, T tokens, I and O inputs and outputs of a layer, K
directions.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from seal.artifacts.ranking import Ranking, make_ranking
from seal.blocks import decoder_blocks
from seal.data.batches import Batch, collate, length_batches
from seal.data.tokenize import Encoded
from seal.models import LanguageModel
from seal.padding import needs_even_rows
from seal.rankers.draws import draw_rows, drawn_share
from seal.rankers.gradients import check_finite, response_loss
from seal.rankers.ranker import Cost, OptimizerSteps, Ranker, RankingTask, Sizes, require_harmful

logger = logging.getLogger(__name__)


class BiAnchorGradient(Ranker):
    """Score = -(similarity to harmful gradients - similarities to two sets of safe ones).

    A similarity is the mean cosine between the gradient of the sample's loss and those of a set of
    anchors, in [-1, 1]; the score is in [-3, 3], higher = keep. Columns of the ranking: `risk`
    (minus the score), `harmful_similarity`, `safe_similarity_1` and `safe_similarity_2`.

    Attributes:
        weights: "linear": gradients over the linear layers of the model's blocks. "all": over every
            weight there is, as in the paper; slower, and in the memory of four more models in fp32.
        anchor_tokens: Response tokens of an anchor that carry its loss, the first ones; None: all.
        max_anchors: Most anchors of each of the three sets; more are thinned out.
        micro_batch_size: Samples per pass with `weights: linear`; memory only, the results stay.
        seed: Names the draw of the anchors.
    """

    method: Literal["bi_anchor_gradient"] = "bi_anchor_gradient"
    weights: Literal["linear", "all"] = "linear"
    anchor_tokens: int | None = Field(default=10, ge=1)
    max_anchors: int = Field(default=10, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    seed: int = 0

    @property
    def needs_harmful(self) -> bool:
        """Always."""
        return True

    def rank(self, task: RankingTask) -> Ranking:
        """Three mean directions, and one gradient per pool sample.

        Raises:
            ValueError: If there are no harmful references or fewer than 2 safe samples, or a
                gradient is not finite.
        """
        sets = self._anchors(task)
        gradients = self._gradients(task)
        directions = [gradients.mean(rows) for rows in sets]
        found = np.zeros((len(task.pool), len(sets)))
        done = 0
        for places, products in gradients.products(task.pool, directions):
            found[places] = products.double().cpu().numpy()
            done += len(places)
            task.progress("ranking with gradients of anchors", done, len(task.pool))
        harmful, *safe = found.T
        risk = anchor_risk(harmful, safe)
        return make_ranking(
            tuple(row.id for row in task.pool),
            -risk,
            {
                "risk": risk,
                "harmful_similarity": harmful,
                **{f"safe_similarity_{i}": column for i, column in enumerate(safe, start=1)},
            },
        )

    def cost(self, sizes: Sizes) -> Cost:
        """Forward and backward passes over the pool and, as if they were whole, the anchors."""
        harmful = sizes.harmful * drawn_share(self.max_anchors, sizes.num_harmful)
        safe = sizes.safe * drawn_share(2 * self.max_anchors, sizes.num_safe)
        return Cost(trained=sizes.pool + harmful + safe)

    def optimizer_steps(self) -> OptimizerSteps:
        """As the estimate of its time measures them."""
        return OptimizerSteps(micro_batch_size=self.micro_batch_size)

    def _gradients(self, task: RankingTask) -> UnitGradients:
        if self.weights == "all":
            return WholeGradients(task.lm)
        gradients = LinearGradients(task.lm, micro_batch_size=self.micro_batch_size)
        missed = gradients.missed(min(task.pool, key=lambda row: len(row.input_ids)))
        if not missed:
            return gradients
        logger.warning(
            "%s uses the weights of %s other than by calling the layers: gradients are taken of "
            "one sample at a time, which is slower and the same to rounding",
            type(task.lm.model).__name__, ", ".join(missed),
        )  # fmt: skip
        return WholeGradients(task.lm, gradients.weights)

    def _anchors(self, task: RankingTask) -> list[list[Encoded]]:
        """Harmful anchors, and two sets of safe ones, cut to the tokens that count.

        The safe samples are dealt out in turn, those of one prompt after the other: of two answers
        to each prompt, either set gets one.
        """
        harmful = draw_rows(require_harmful(task, self.method), self.max_anchors, seed=self.seed)
        safe = draw_rows(task.safe, 2 * self.max_anchors, seed=self.seed)
        if len(safe) < 2:
            raise ValueError(
                f"rank.method={self.method} needs at least 2 safe samples, for two sets of "
                f"anchors; there are {len(safe)}. Give more as safe.path."
            )
        safe = sorted(safe, key=lambda row: (_prompt(row), row.id))
        return [
            [first_tokens(row, self.anchor_tokens) for row in rows]
            for rows in (harmful, safe[::2], safe[1::2])
        ]


# Of a gradient's length: half precision rounds the sums of the two ways apart.
_TOLERANCE = 0.05

# The inputs [B, T, I] of a layer, and the gradient at its outputs [B, T, O].
_Factors = tuple[Tensor, Tensor]


class UnitGradients(ABC):
    """Gradients of samples' losses over a model's own weights, each scaled to length 1; abstract.

    None is kept: what there is are their mean, and their inner products with such means.
    """

    @abstractmethod
    def mean(self, rows: Sequence[Encoded]) -> list[Tensor]:
        """The mean of the rows' unit gradients, not scaled again: fp32, one tensor per weight."""

    @abstractmethod
    def products(
        self, rows: Sequence[Encoded], directions: Sequence[list[Tensor]]
    ) -> Iterator[tuple[list[int], Float[Tensor, "B K"]]]:
        """The inner product of every row's unit gradient with each direction.

        Args:
            rows: In any order; it decides nothing.
            directions: As `mean` gives them.

        Yields:
            Places in `rows`, and fp32 products; 0 for a gradient of 0.

        Raises:
            ValueError: If a gradient is not finite, naming the samples.
        """


class WholeGradients(UnitGradients):
    """Over every weight there is, or over some, one sample at a time.

    One gradient takes as much memory as the weights in fp32, and so does each direction.
    """

    def __init__(self, lm: LanguageModel, weights: Sequence[Tensor] | None = None) -> None:
        self._lm = lm
        if weights is None:
            lm.model.requires_grad_(True)
            weights = tuple(lm.model.parameters())
        self._weights = tuple(weights)

    def mean(self, rows: Sequence[Encoded]) -> list[Tensor]:
        """One backward pass per row."""
        total = [torch.zeros_like(weight, dtype=torch.float32) for weight in self._weights]
        for row in rows:
            for sum_of_all, part in zip(total, self._unit(row), strict=True):
                sum_of_all += part / len(rows)
        return total

    def products(
        self, rows: Sequence[Encoded], directions: Sequence[list[Tensor]]
    ) -> Iterator[tuple[list[int], Float[Tensor, "B K"]]]:
        """One backward pass per row."""
        for (place,) in length_batches(rows, 1):
            unit = self._unit(rows[place])
            found = [_dot(unit, direction) for direction in directions]
            yield [place], torch.stack(found)[None]

    def _unit(self, row: Encoded) -> list[Tensor]:
        batch = collate([row], self._lm.pad_id).to(self._lm.device)
        with torch.enable_grad():
            loss = response_loss(self._lm.model, batch).sum()
        found = torch.autograd.grad(loss, self._weights, materialize_grads=True)
        parts = [part.float() for part in found]
        norm = _dot(parts, parts).sqrt()
        check_finite(batch.ids, norm[None, None])
        return [part.div_(norm) if norm > 0 else part for part in parts]


class LinearGradients(UnitGradients):
    """Over the weights of the linear layers in a model's blocks, a micro-batch at a time.

    In a Llama these are q, k, v, o, gate, up and down; embeddings, norms, biases and the vocabulary
    projection are left out.
    """

    def __init__(self, lm: LanguageModel, *, micro_batch_size: int) -> None:
        """Gradients of these layers.

        Args:
            lm: The model.
            micro_batch_size: Samples per pass; changes memory, not results.

        Raises:
            ValueError: If there are no such layers.
        """
        self._lm = lm
        self._micro_batch_size = micro_batch_size
        self._layers = [
            layer for layer in decoder_blocks(lm.model).modules() if isinstance(layer, nn.Linear)
        ]
        if not self._layers:
            raise ValueError(
                f"rank.weights=linear: the blocks of {type(lm.model).__name__} hold no linear "
                "layers. Set rank.weights=all."
            )
        lm.model.requires_grad_(False)
        for layer in self._layers:
            layer.weight.requires_grad_(True)

    @property
    def weights(self) -> list[Tensor]:
        """Of the layers, in the model's order."""
        return [layer.weight for layer in self._layers]

    def missed(self, row: Encoded) -> list[str]:
        """Names of layers whose gradient is not what their inputs and outputs say.

        Mamba multiplies with the weight of a layer that it never calls.
        """
        batch = collate([row], self._lm.pad_id).to(self._lm.device)
        with torch.enable_grad():
            loss = response_loss(self._lm.model, batch).sum()
        true = torch.autograd.grad(loss, self.weights, materialize_grads=True)
        names = {layer: name for name, layer in self._lm.model.named_modules()}
        wrong = []
        for layer, gradient, (inputs, deltas) in zip(
            self._layers, true, self._factors(batch), strict=True
        ):
            found = torch.einsum("bto,bti->oi", deltas, inputs)
            expected = gradient.float()
            if (found - expected).norm() > _TOLERANCE * expected.norm():
                wrong.append(names[layer].rpartition(".")[2])
        return sorted(set(wrong))

    def mean(self, rows: Sequence[Encoded]) -> list[Tensor]:
        """One backward pass per micro-batch."""
        total = [torch.zeros_like(layer.weight, dtype=torch.float32) for layer in self._layers]
        for _, factors, scale in self._each(rows):
            for sum_of_all, (inputs, deltas) in zip(total, factors, strict=True):
                scaled = deltas * (scale / len(rows))[:, None, None]
                sum_of_all += torch.einsum("bto,bti->oi", scaled, inputs)
        return total

    def products(
        self, rows: Sequence[Encoded], directions: Sequence[list[Tensor]]
    ) -> Iterator[tuple[list[int], Float[Tensor, "B K"]]]:
        """One backward pass per micro-batch."""
        for places, factors, scale in self._each(rows):
            found = torch.zeros(len(places), len(directions), device=scale.device)
            for k, direction in enumerate(directions):
                for (inputs, deltas), matrix in zip(factors, direction, strict=True):
                    found[:, k] += ((deltas @ matrix) * inputs).sum(dim=(1, 2))
            yield places, found * scale[:, None]

    def _each(
        self, rows: Sequence[Encoded]
    ) -> Iterator[tuple[list[int], list[_Factors], Float[Tensor, " B"]]]:
        """Places of rows, their factors at each layer, and 1 / norm of their whole gradient."""
        is_even = needs_even_rows(self._lm.model)
        for places in length_batches(rows, self._micro_batch_size, is_even=is_even):
            batch = collate([rows[i] for i in places], self._lm.pad_id).to(self._lm.device)
            factors = self._factors(batch)
            squares = torch.stack([_square_norms(inputs, deltas) for inputs, deltas in factors])
            norms = squares.sum(dim=0).clamp(min=0).sqrt()
            check_finite(batch.ids, norms[:, None])
            yield places, factors, torch.where(norms > 0, 1 / norms, 0.0)

    def _factors(self, batch: Batch) -> list[_Factors]:
        calls: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in self._layers}

        def note(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs[0].dim() != 3 or inputs[0].shape[0] != len(batch.ids):
                raise ValueError(
                    "rank.weights=linear: a layer of this model sees the tokens of all samples in "
                    "one list (as experts do), so the gradients of single samples cannot be told "
                    "apart. Set rank.weights=all."
                )
            calls[layer].append((inputs[0].detach(), output))

        handles = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            with torch.enable_grad():
                total = response_loss(self._lm.model, batch).sum()
        finally:
            for handle in handles:
                handle.remove()
        for layer, of_layer in calls.items():
            if not of_layer:  # an expert without tokens, or a layer that is not called
                of_layer.append(_nothing(layer.weight, len(batch.ids)))
        outputs = [output for of_layer in calls.values() for _, output in of_layer]
        deltas = iter(
            torch.autograd.grad(total, outputs, allow_unused=True, materialize_grads=True)
        )
        # Several calls of one layer are as good as one with the tokens of all of them.
        return [
            (
                torch.cat([inputs.float() for inputs, _ in of_layer], dim=1),
                torch.cat([next(deltas).float() for _ in of_layer], dim=1),
            )
            for of_layer in calls.values()
        ]


def _nothing(weight: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Inputs, and outputs that nothing was made of, so that their gradient is 0."""
    outputs, inputs = weight.shape
    return (
        weight.new_zeros(num_rows, 1, inputs),
        weight.new_zeros(num_rows, 1, outputs).requires_grad_(True),
    )


def anchor_risk(harmful: np.ndarray, safe: Sequence[np.ndarray]) -> np.ndarray:
    """The paper's score of each sample: weights 1, -1, -1; higher = worse."""
    return harmful - sum(safe)


def first_tokens(row: Encoded, num: int | None) -> Encoded:
    """A sample without what comes after its first `num` response tokens; None leaves it whole."""
    places = np.flatnonzero(row.response_mask)
    if num is None or num >= len(places):
        return row
    end = int(places[num - 1]) + 1
    return Encoded(row.id, row.input_ids[:end], row.response_mask[:end], is_truncated=True)


def _prompt(row: Encoded) -> tuple[int, ...]:
    return tuple(row.input_ids[: int(row.response_mask.argmax())].tolist())


def _dot(parts: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    pairs = zip(parts, others, strict=True)
    return torch.stack([(one * other).sum() for one, other in pairs]).sum()


def _square_norms(
    inputs: Float[Tensor, "B T I"], deltas: Float[Tensor, "B T O"]
) -> Float[Tensor, " B"]:
    """|G|^2 of each sample's G = sum_t delta_t x_t^T, which is never made."""
    alike = (inputs @ inputs.transpose(1, 2)) * (deltas @ deltas.transpose(1, 2))
    return alike.sum(dim=(1, 2))
