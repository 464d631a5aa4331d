"""How likely a model finds given responses, for the tasks that generate nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from seal.data.exclusions import advice, is_length
from seal.data.notes import Notes
from seal.data.sample import Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.generation import context_length
from seal.losses import mean_nll
from seal.microbatches import MicroBatches
from seal.models import LanguageModel
from seal.packing import is_packed
from seal.padding import needs_even_rows
from seal.processes import processes

logger = logging.getLogger(__name__)

_NO_LIMIT = 2**31  # tokens


def response_nll(
    lm: LanguageModel,
    samples: Sequence[Sample],
    places: Mapping[str, str],
    *,
    max_length: int | None,
    batch_size: int,
) -> dict[str, float]:
    """Mean negative log-likelihood of each sample's response tokens, by id.

    In nats per token; lower = likelier. A sample longer than `max_length` tokens loses the end of
    its response.

    Args:
        lm: The model.
        samples: What to measure, each id once.
        places: Id -> what error messages call the sample, e.g. "file:line".
        max_length: Longest sample, prompt and response together, in tokens; None takes the model's
            context.
        batch_size: Samples at a time; changes speed and memory only.

    Raises:
        ValueError: If the model's context is shorter than `max_length`, a sample has no response
            token within it, or a loss is not finite.
    """
    context = context_length(lm)
    if max_length is not None and context is not None and max_length > context:
        raise ValueError(
            f"max_length={max_length} is more than the model's context of {context} tokens. Set "
            f"max_length={context} or less in this task, the same for every model that is compared."
        )
    encoded = _encode(lm, samples, places, max_length or context or _NO_LIMIT)
    losses: dict[str, float] = {}
    mine: dict[str, float] = {}
    micro_batches = MicroBatches(
        None,
        batch_size,
        is_packed=is_packed(lm.model),
        is_even=needs_even_rows(lm.model),
    )
    for rows in processes().share_of(micro_batches.of(encoded)):
        batch = micro_batches.batch([encoded[row] for row in rows], lm.pad_id).to(lm.device)
        mine.update(zip(batch.ids, mean_nll(lm.model, batch).tolist(), strict=True))
    for found in processes().gather(mine):
        losses.update(found)
    for key, loss in losses.items():
        if not math.isfinite(loss):
            raise ValueError(
                f"{places[key]}: the model's loss is {loss}. Its weights are broken, or overflow "
                "in this dtype: load it in float32, or train it again with a lower learning rate."
            )
    return {sample.id: losses[sample.id] for sample in samples}


def _encode(
    lm: LanguageModel, samples: Sequence[Sample], places: Mapping[str, str], max_length: int
) -> list[Encoded]:
    tokenization = Tokenization(max_length=max_length, truncate="response", dropped_turn="keep")
    encoded, notes = [], Notes()
    for sample, row in zip(samples, lm.encoder.encode(samples, tokenization, notes), strict=True):
        if isinstance(row, str):
            way = f"raise max_length={max_length}" if is_length(row) else advice(row)
            way = f"{way[:1].lower()}{way[1:]}, or " if way else ""
            raise ValueError(
                f"{places[sample.id]}: {row}. Every model must be measured on the same items: "
                f"{way}take this one out of the file."
            )
        encoded.append(row)
    for note in notes:
        logger.warning(
            "%s in %d of %d items, which are measured so (first: %s)",
            note.what, note.num_samples, len(encoded), places[note.example],
        )  # fmt: skip
    num_truncated = sum(row.is_truncated for row in encoded)
    if num_truncated:
        logger.info(
            "%d of %d responses are measured up to max_length=%d tokens only",
            num_truncated, len(encoded), max_length,
        )  # fmt: skip
    return encoded
