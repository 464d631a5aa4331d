"""The plain loss, some tokens at a time."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from seal.loss_backends.backend import Head, LossBackend
from seal.loss_backends.chunks import in_chunks


class PlainChunked(LossBackend):
    """Built on torch's public operations alone, for every head, dtype and device.

    First-order gradients only.
    """

    name: ClassVar[str] = "plain_chunked"

    def refusal(self, head: Head) -> str | None:  # noqa: ARG002
        """None: it is the way out when the others refuse."""
        return None

    def token_nll(
        self, hidden: Float[Tensor, "R H"], labels: Int64[Tensor, " R"], head: Head
    ) -> Float[Tensor, " R"]:
        """See `LossBackend`; the logits of a frozen output layer are made once."""
        (nll,) = in_chunks(lambda *pair: (head.nll(*pair),), hidden, labels, head)
        return nll
