"""Where in the user's own text the tokens of a response lie, and training without some of it.

A place is (turn, start, end): characters of an assistant turn of the completion, as the user wrote
it. No tokenizer has a part in it, so what was found with one can be left out with another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int32

from seal.artifacts.selection import TextSpan
from seal.data.encoded import tokens_of_each
from seal.data.responses import Response
from seal.data.sample import Sample
from seal.data.tokenize import ChatEncoder, Encoded, Located

logger = logging.getLogger(__name__)


def response_places(
    encoder: ChatEncoder, rows: Sequence[Encoded], samples: Mapping[str, Sample]
) -> Iterator[Int32[np.ndarray, "R 3"]]:
    """Turn, start and end of every response token of each row, in the order of the rows.

    A token that the template wrote has no characters: an end of turn lies at the end of its turn,
    from there to there.

    Args:
        encoder: What made the rows.
        rows: Tokenized samples.
        samples: Id -> the sample of each row.

    Raises:
        ValueError: If a sample gives other tokens than its row has.
    """
    for row, located in zip(rows, located_rows(encoder, rows, samples), strict=True):
        places = _places(located, samples[row.id])[: len(row.input_ids)]
        yield places[row.response_mask]


def located_rows(
    encoder: ChatEncoder, rows: Sequence[Encoded], samples: Mapping[str, Sample]
) -> Iterator[Located]:
    """The text and the places of each row, with text that reads as control tokens as it was read.

    Args:
        encoder: What made the rows.
        rows: Tokenized samples.
        samples: Id -> the sample of each row.

    Raises:
        ValueError: If a sample gives other tokens than its row has.
    """
    found = encoder.locate([samples[row.id] for row in rows])
    for row, located in zip(rows, found, strict=True):
        if not _is_of(row, located):
            [located] = encoder.locate([samples[row.id]], escapes=True)
        if isinstance(located, str) or not _is_of(row, located):
            raise ValueError(
                f"sample {row.id} gives other tokens now than when it was first read. Fix what the "
                "chat template writes by the clock, such as date_string, in "
                "model.chat_template_kwargs, and start again."
            )
        yield located


def _is_of(row: Encoded, located: Located | str) -> bool:
    if isinstance(located, str):
        return False
    return np.array_equal(located.input_ids[: len(row.input_ids)], row.input_ids)


def mask_rows(
    encoder: ChatEncoder,
    rows: Sequence[Encoded],
    samples: Mapping[str, Sample],
    masks: Mapping[str, Sequence[TextSpan]],
) -> list[Encoded]:
    """The rows without loss on the tokens that share a character with a masked span.

    A span of text never masks an end of turn. Rows of which no token of text is left are left out;
    that can only be where `encoder` cuts the text otherwise than the one that made the masks.

    Args:
        encoder: What made the rows; not necessarily what made the masks.
        rows: Tokenized samples.
        samples: Id -> the sample, of the rows that have masks at least.
        masks: Id -> characters that must not be learned.
    """
    affected = [row for row in rows if masks.get(row.id)]
    masked: dict[str, Encoded | None] = {}
    places = response_places(encoder, affected, samples)
    for row, own in zip(affected, places, strict=True):
        hit = touched(own, masks[row.id])
        mask = row.response_mask.copy()
        mask[mask] = ~hit
        is_text = own[:, 1] < own[:, 2]
        masked[row.id] = replace(row, response_mask=mask) if (is_text & ~hit).any() else None
    results = [masked.get(row.id, row) for row in rows]
    kept = [row for row in results if row is not None]
    if len(kept) < len(rows):
        logger.info("left out %d samples whose whole text is masked", len(rows) - len(kept))
    return kept


def touched(places: Int32[np.ndarray, "R 3"], spans: Sequence[TextSpan]) -> Bool[np.ndarray, " R"]:
    """Which tokens share a character with one of the spans."""
    turns, starts, ends = places.T
    hit = np.zeros(len(places), dtype=bool)
    for span in spans:
        hit |= (turns == span.turn) & (starts < span.end) & (ends > span.start)
    return hit & (starts < ends)  # a token without characters shares none, wherever it stands


def _places(located: Located, sample: Sample) -> Int32[np.ndarray, "T 3"]:
    """Turn, start and end of every token; zeros for those of no response."""
    places = np.zeros((len(located.offsets), 3), dtype=np.int32)
    owned = tokens_of_each(located.offsets, located.spans)
    for response, own in zip(located.responses, owned, strict=True):
        turn = response.place - len(sample.prompt)
        first = response.content.start - _left_out(located.text, response, sample, turn)
        places[own, 0] = turn
        places[own, 1:] = located.offsets[own].clip(*response.content) - first
    return places


def _left_out(text: str, response: Response, sample: Sample, turn: int) -> int:
    """How many characters at the start of a turn the template left out: blanks, or reasoning."""
    content = sample.completion[turn].content
    rendered = text[response.content.start : response.content.end]
    if not content.strip().startswith(rendered.strip()):
        place = content.rfind(rendered.strip())
        if place >= 0:
            return place - (len(rendered) - len(rendered.lstrip()))
    blanks = len(content) - len(content.lstrip())
    return blanks - (len(rendered) - len(rendered.lstrip()))
