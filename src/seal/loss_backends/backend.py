"""What a loss backend is, and the output layer that it works on.

Dimension key: R response tokens, H hidden size, V words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

IGNORED = -100  # a label whose loss is 0, and which nothing learns from

# Largest difference that counts as equal, as a share of the largest value.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The way from the last hidden state to logits: z = scale (W h + b), c tanh(z / c) with a cap.

    Attributes:
        layer: The model's output layer.
        weight: W.
        bias: b.
        scale: Cohere, Granite and Falcon-H1 have one; 1 elsewhere.
        softcap: c; Gemma-2 has one.
    """

    layer: nn.Linear
    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "*R H"]) -> Float[Tensor, "*R V"]:
        """The model's logits, in the dtype of `hidden`."""
        logits = F.linear(hidden, self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def nll(self, hidden: Float[Tensor, "R H"], labels: Int64[Tensor, " R"]) -> Float[Tensor, " R"]:
        """-log p(label) in nats, from all the logits; the softmax is in fp32, or fp64 as given."""
        logits = self.logits(hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return nll_of(logits, labels)


def nll_of(logits: Float[Tensor, "R V"], labels: Int64[Tensor, " R"]) -> Float[Tensor, " R"]:
    """-log p(label) in nats; 0 where the label is `IGNORED`.

    By logsumexp: over 49,152 words in fp32 torch's cross_entropy on a CPU is off by 1e-5 to 5e-5,
    always to the same side, and takes longer.
    """
    is_ignored = labels == IGNORED
    chosen = logits.gather(1, labels.masked_fill(is_ignored, 0)[:, None]).squeeze(1)
    return (logits.logsumexp(dim=1) - chosen).masked_fill(is_ignored, 0.0)


class LossBackend(ABC):
    """A way to compute -log p(label) of many tokens; abstract.

    Attributes:
        name: What the setting `model.loss_backend` calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def refusal(self, head: Head) -> str | None:
        """Why it cannot work on this head, on this machine; None if it can."""

    @abstractmethod
    def token_nll(
        self, hidden: Float[Tensor, "R H"], labels: Int64[Tensor, " R"], head: Head
    ) -> Float[Tensor, " R"]:
        """-log p(label) of each token in nats, fp32; 0 where the label is `IGNORED`.

        Its gradient is right for any gradient of the losses that comes from above, equal for all
        tokens or not.

        Args:
            hidden: What the output layer is given, in the dtype of its weight; R >= 1.
            labels: In [0, V), or `IGNORED`.
            head: One that `refusal` has nothing against.
        """
