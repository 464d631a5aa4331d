"""Whether a model leaves padding out where its attention mask says so.

Not every architecture does: RWKV reads its input one token after the other and does not look at the
mask at all. Its losses would depend on what a sample is batched with, without a sign of it. So it
is tried before the first batch; where it fails, only rows of one length share a pass.

Dimension key: S rows, T tokens, K predictions, V words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from seal.loss_backends.backend import TOLERANCES
from seal.loss_backends.heads import causal_model

logger = logging.getLogger(__name__)

# Tokens and attention mask of a batch -> the predictions after the last row's own tokens.
Reader = Callable[[Int64[Tensor, "S T"], Int64[Tensor, "S T"]], Float[Tensor, "K V"]]

_LONG, _SHORT = 12, 5  # tokens of the two made-up rows
# Of what rounding alone may do. With another filling all shapes are the same, and no mask that is
# kept lets any of it through; only experts may be handed other groups of tokens.
_FILLING_SHARE = 0.1

Sharing = Literal["padded", "even", "alone"]
"""What rows may share a batch: any with padding between them, those of one length, or none."""

# Model -> way of using it -> what was found.
_tried: WeakKeyDictionary[nn.Module, dict[str, Sharing]] = WeakKeyDictionary()


def needs_even_rows(model: nn.Module) -> bool:
    """Whether only rows of one length may share a forward pass.

    Padding is on the left there, as `collate` puts it. Tries the model at its first use, and says
    what was found.

    Raises:
        ValueError: If not even these may.
    """

    def read(ids: Int64[Tensor, "S T"], mask: Int64[Tensor, "S T"]) -> Float[Tensor, "K V"]:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        return logits[-1][mask[-1] == 1]

    found = sharing(model, "a forward pass", "left", read)
    if found == "alone":
        raise ValueError(
            f"model: {type(model).__name__} predicts something else for a sample when another one "
            "is in its batch, without any padding. Such a model cannot be ranked with."
        )
    return found == "even"


def trains_rows_alone(model: nn.Module) -> bool:
    """Whether a training batch may hold one row only: padding is on the right in TRL's."""

    def read(ids: Int64[Tensor, "S T"], mask: Int64[Tensor, "S T"]) -> Float[Tensor, "K V"]:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[-1][mask[-1] == 1]

    return sharing(model, "training", "right", read) != "padded"


def sharing(model: nn.Module, use: str, side: Literal["left", "right"], read: Reader) -> Sharing:
    """What rows are given the same predictions as alone: padded beside a longer one, or even.

    Args:
        model: In evaluation mode; a foreign model is taken at its word.
        use: What it is used for; each use of a model is tried once.
        side: Where its padding is.
        read: Uses the model.
    """
    causal = causal_model(model)
    if causal is None:
        return "padded"
    verdicts = _tried.setdefault(causal, {})
    if use not in verdicts:
        with torch.inference_mode(False), torch.no_grad():
            verdicts[use] = _found(causal, side, read)
        if verdicts[use] != "padded":
            _say_once(type(causal).__name__, use, verdicts[use])
    return verdicts[use]


def _found(causal: PreTrainedModel, side: Literal["left", "right"], read: Reader) -> Sharing:
    num_words = causal.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(num_words, (2, _LONG), generator=generator)
    short = rows[1, :_SHORT]
    alone = read(*_on(causal, short[None], torch.ones(1, _SHORT, dtype=torch.int64))).float()
    if not alone.isfinite().all():
        return "padded"  # nothing can be told; whoever scores with it names what is not finite
    tolerance = TOLERANCES.get(causal.dtype, TOLERANCES[torch.float32]) * alone.abs().max()

    def agrees(found: Float[Tensor, "K V"]) -> bool:
        return bool((found - alone).abs().max() <= tolerance)

    even = read(*_on(causal, rows[:, :_SHORT], torch.ones(2, _SHORT, dtype=torch.int64))).float()
    if not agrees(even):
        return "alone"
    is_own = torch.ones(2, _LONG, dtype=torch.int64)
    gap = slice(None, -_SHORT) if side == "left" else slice(_SHORT, None)
    is_own[1, gap] = 0
    found = []
    for filling in (torch.zeros_like(rows[0]), rows[0].flip(0)):
        padded = filling.clone()
        padded[is_own[1] == 1] = short
        found.append(read(*_on(causal, torch.stack([rows[0], padded]), is_own)).float())
    by_filling = (found[0] - found[1]).abs().max()
    is_kept = all(map(agrees, found)) and bool(by_filling <= _FILLING_SHARE * tolerance)
    return "padded" if is_kept else "even"


def _on(
    causal: PreTrainedModel, ids: Int64[Tensor, "S T"], mask: Int64[Tensor, "S T"]
) -> tuple[Int64[Tensor, "S T"], Int64[Tensor, "S T"]]:
    return ids.to(causal.device), mask.to(causal.device)


@cache
def _say_once(name: str, use: str, found: Sharing) -> None:
    what = "lets padding into its predictions, whatever the attention mask says"
    shared = "only rows of equal length share a batch"
    if found == "alone":
        what = "predicts something else for a row when another one is in its batch"
        shared = "batches hold one row"
    logger.warning(
        "%s %s (tried in %s): %s, which is slower and changes no result", name, what, use, shared
    )
