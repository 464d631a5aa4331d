"""Gradients of single samples with respect to a LoRA adapter, and their random projection.

One forward and one backward pass serve a whole micro-batch: the samples of a batch do not interact,
so the gradient of the sum of their values at a layer's output is each sample's own there. For a
linear layer y = W x it is the sum over tokens t of delta_t x_t^T that the sample's own tokens make.
LoRA's A and B are such layers; the scale alpha / r is in delta.

Dimension key: B samples of a micro-batch, P trained parameters, K dimensions after projection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seal.data.batches import Batch, collate, length_batches
from seal.data.tokenize import Encoded
from seal.losses import sample_nll, token_nll
from seal.models import LanguageModel, LoraSpec
from seal.padding import needs_even_rows

# A model and a batch -> one number per sample, with a graph.
Value = Callable[[nn.Module, Batch], Tensor]

_CHUNK = 2**26  # gradient entries that are projected at once: 256 MB
_BLOCK = 1024  # parameters whose signs are in memory at once


def response_loss(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """l(theta; z) of each sample, with a graph."""
    return sample_nll(token_nll(model, batch))


class Part(NamedTuple):
    """Where the weight of one layer lies in a flat gradient.

    Attributes:
        name: Of the parameter.
        layer: The layer that it belongs to.
        start: Its first place.
        end: The place after its last one.
    """

    name: str
    layer: nn.Linear
    start: int
    end: int


class SampleGradients:
    """Gradients of single samples with respect to the trained parameters of a model.

    Attributes:
        parts: The trained parameters, in the model's order; their gradients lie one after the
            other in a flat gradient.
        size: P.
    """

    def __init__(self, lm: LanguageModel, *, micro_batch_size: int) -> None:
        """Gradients of the parameters that require one now.

        Args:
            lm: Its trained parameters must be weights of linear layers, as those of LoRA are.
            micro_batch_size: Samples per pass; changes memory, not results.

        Raises:
            ValueError: If a trained parameter is none of a linear layer.
        """
        self._lm = lm
        self._micro_batch_size = micro_batch_size
        self.parts = _parts(lm.model)
        self.size = self.parts[-1].end

    def each(
        self, rows: Sequence[Encoded], value: Value = response_loss
    ) -> Iterator[tuple[list[int], Float[Tensor, "B P"]]]:
        """The gradient of every row's value, a micro-batch at a time.

        Args:
            rows: In any order; it decides nothing.
            value: What is differentiated; a sample's value must depend on that sample alone.

        Yields:
            Places in `rows`, and fp32 gradients of these rows on the model's device.

        Raises:
            ValueError: If a gradient is not finite, naming the samples.
        """
        is_even = needs_even_rows(self._lm.model)
        for places in length_batches(rows, self._micro_batch_size, is_even=is_even):
            batch = collate([rows[i] for i in places], self._lm.pad_id).to(self._lm.device)
            gradients = self._of(batch, value)
            check_finite(batch.ids, gradients)
            yield places, gradients

    def chunks(
        self,
        rows: Sequence[Encoded],
        value: Value = response_loss,
        *,
        tell: Callable[[int], None] = lambda num: None,  # noqa: ARG005
    ) -> Iterator[tuple[list[int], Float[Tensor, "B P"]]]:
        """The same as `each` in larger pieces, for work that costs by the piece (a projection).

        Args:
            rows: As `each` takes them.
            value: Likewise.
            tell: Given the number of rows of each micro-batch, once it is done: a piece may be as
                large as all rows.
        """
        enough = max(1, _CHUNK // self.size)
        places: list[int] = []
        kept: list[Tensor] = []
        for more, gradients in self.each(rows, value):
            places += more
            kept.append(gradients)
            tell(len(more))
            if len(places) >= enough:
                yield places, torch.cat(kept)
                places, kept = [], []
        if kept:
            yield places, torch.cat(kept)

    def mean(self, rows: Sequence[Encoded], value: Value = response_loss) -> Float[Tensor, " P"]:
        """The mean gradient of at least one row, fp32."""
        total = torch.zeros(self.size, device=self._lm.device)
        for _, gradients in self.each(rows, value):
            total += gradients.sum(dim=0)
        return total / len(rows)

    def _of(self, batch: Batch, value: Value) -> Float[Tensor, "B P"]:
        calls: list[tuple[Part, Tensor, Tensor]] = []

        def note(part: Part) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            return lambda _, inputs, output: calls.append((part, inputs[0].detach(), output))

        handles = [part.layer.register_forward_hook(note(part)) for part in self.parts]
        try:
            with torch.enable_grad():
                total = value(self._lm.model, batch).sum()
        finally:
            for handle in handles:
                handle.remove()
        # Nothing is accumulated in .grad, and no summed weight gradient is computed.
        deltas = torch.autograd.grad(
            total, [output for _, _, output in calls], materialize_grads=True
        )
        gradients = torch.zeros(len(batch.ids), self.size, device=total.device)
        for (part, inputs, _), delta in zip(calls, deltas, strict=True):
            _check_shape(part, inputs, len(batch.ids))
            weight = torch.bmm(delta.float().transpose(1, 2), inputs.float())
            gradients[:, part.start : part.end] += weight.flatten(1)
        return gradients


class Projection:
    """A random projection with entries +-1/sqrt(K): R^P -> R^K; keeps dots to about 1/sqrt(K).

    The signs are a pure function of the seed and made a block of parameters at a time; the whole
    P x K matrix is never in memory. Where K is not below P nothing is projected.
    """

    def __init__(self, size: int, dim: int, seed: int) -> None:
        self.size = size
        self.dim = min(dim, size)
        self._seed = seed

    def __call__(self, vectors: Float[Tensor, "B P"]) -> Float[Tensor, "B K"]:
        """The projected vectors."""
        if self.dim == self.size:
            return vectors
        result = torch.zeros(len(vectors), self.dim, device=vectors.device)
        for start in range(0, self.size, _BLOCK):
            block = vectors[:, start : start + _BLOCK]
            result += block @ self.signs(start // _BLOCK, block.shape[1], vectors.device)
        return result / self.dim**0.5

    def signs(
        self, block: int, num_rows: int, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "R K"]:
        """The signs of a block's first `num_rows` parameters."""
        digest = hashlib.sha256(f"{self._seed}:signs:{block}".encode()).digest()
        generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
        words = -(-self.dim // 64)  # 64 signs each
        raw = np.asarray(generator.random_raw(num_rows * words), dtype="<u8").view(np.uint8)
        packed = torch.from_numpy(raw).to(device).view(num_rows, words * 8, 1)
        bits = (packed >> torch.arange(8, dtype=torch.uint8, device=device)) & 1
        return bits.flatten(1)[:, : self.dim].float().mul_(2).sub_(1)


def refuse_dropout(lora: LoraSpec) -> None:
    """Refuse an adapter with dropout.

    Raises:
        ValueError: Always with dropout: the models are in evaluation mode, and would ignore it.
    """
    if lora.dropout > 0:
        raise ValueError(
            f"lora.dropout={lora.dropout} has no place in a ranker: random gradients would rank "
            "the samples. Set it to 0 here; the train stage has a lora of its own."
        )


def _parts(model: nn.Module) -> tuple[Part, ...]:
    owners = {id(layer.weight): layer for layer in model.modules() if isinstance(layer, nn.Linear)}
    parts: list[Part] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) not in owners:
            raise ValueError(
                f"rank.lora.target_modules: {name} is not the weight of a linear layer, so the "
                "gradients of single samples cannot be told apart. Name linear layers."
            )
        start = parts[-1].end if parts else 0
        parts.append(Part(name, owners[id(parameter)], start, start + parameter.numel()))
    assert parts, "the model has no trained parameter"
    return tuple(parts)


def _check_shape(part: Part, inputs: Tensor, num_rows: int) -> None:
    if inputs.dim() != 3 or inputs.shape[0] != num_rows:
        raise ValueError(
            f"rank.lora.target_modules: {part.name} sees the tokens of all samples in one list (as "
            "experts do), so the gradients of single samples cannot be told apart. Name layers "
            "that every token passes, such as q_proj and v_proj."
        )


def check_finite(ids: Sequence[str], gradients: Float[Tensor, "B P"]) -> None:
    """Refuse gradients, or norms of some, that are not finite.

    Raises:
        ValueError: If there are any, naming the samples.
    """
    fine = gradients.isfinite().all(dim=1).tolist()
    bad = [key for key, good in zip(ids, fine, strict=True) if not good]
    if bad:
        raise ValueError(
            f"the gradient of {len(bad)} samples is not finite: {', '.join(bad[:5])}. Use "
            "model.dtype=float32, or look at these samples."
        )
