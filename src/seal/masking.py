"""Masking: the worst tokens of the kept samples, as characters of their text."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

from seal.artifacts.ranking import Ranking
from seal.artifacts.selection import Selection, TextSpan
from seal.artifacts.token_scores import TokenScores

logger = logging.getLogger(__name__)


def mask_selection(selection: Selection, ranking: Ranking, fraction: float) -> Selection:
    """The selection with the worst share of its response tokens masked.

    The tokens of all kept samples are ordered together, as in TOSS; equal scores by id, then by
    place. The share is of all response tokens. Tokens without characters (an end of turn) are
    counted in it, but never masked. Where several tokens make up one character they are masked
    together, when there is still room for all of them: the share is never passed.

    A sample of which no token of text would be left is dropped.

    Args:
        selection: The kept samples.
        ranking: What they were chosen by.
        fraction: Share of their response tokens to mask, in (0, 1).

    Raises:
        ValueError: If the ranking has no token scores, or no sample is left.
    """
    if ranking.token_scores is None:
        raise ValueError(
            f"select.mask_fraction={fraction} needs a score for every token, and this ranking has "
            "none. Rank with a method that gives token scores (rank.method=toss), or remove "
            "select.mask_fraction."
        )
    scores = ranking.token_scores.take(selection.ids)
    masked = worst_tokens(scores, round(fraction * len(scores.score)))
    num_masked = np.bincount(scores.rows[masked], minlength=len(scores.ids))
    num_left = np.bincount(
        scores.rows[(scores.start < scores.end) & ~masked], minlength=len(scores.ids)
    )
    is_gone = (num_masked > 0) & (num_left == 0)
    dropped = {key for key, gone in zip(scores.ids, is_gone, strict=True) if gone}
    if len(dropped) == len(selection.ids):
        raise ValueError(
            f"the selection is empty: select.mask_fraction={fraction} masks the whole text of all "
            f"{len(dropped)} kept samples. Lower it."
        )
    logger.info(
        "masked %d of %d response tokens; %d samples dropped, which are masked wholly",
        masked.sum(), len(masked), len(dropped),
    )  # fmt: skip
    spans = _spans(scores, masked)
    return replace(
        selection,
        ids=tuple(key for key in selection.ids if key not in dropped),
        masks={key: own for key, own in spans.items() if key not in dropped},
        num_wholly_masked=len(dropped),
    )


def worst_tokens(scores: TokenScores, num: int) -> Bool[np.ndarray, " R"]:
    """Which tokens are the `num` worst of those that have characters.

    Tokens that share a character go together, by the worst of them; what does not fit ends it.
    """
    group = _characters(scores)
    candidates = np.flatnonzero(scores.start < scores.end)
    worst_first = candidates[np.argsort(scores.score[candidates], kind="stable")]
    groups, first = np.unique(group[worst_first], return_index=True)
    groups = groups[np.argsort(first)]
    sizes = np.bincount(group[candidates], minlength=len(group))[groups]
    is_chosen = np.zeros(len(group), dtype=bool)
    is_chosen[groups[np.cumsum(sizes) <= num]] = True
    return is_chosen[group] & (scores.start < scores.end)


def _characters(scores: TokenScores) -> Int64[np.ndarray, " R"]:
    """A number per token, equal for neighbours that share a character."""
    joined = _same_turn(scores) & (scores.start[1:] < scores.end[:-1])
    return np.concatenate([[0], np.cumsum(~joined)])[: len(scores.score)]


def _same_turn(scores: TokenScores) -> Bool[np.ndarray, " R-1"]:
    """Whether each token but the first lies in the same turn as the one before it."""
    return (np.diff(scores.rows) == 0) & (np.diff(scores.turn) == 0)


def _spans(scores: TokenScores, masked: Bool[np.ndarray, " R"]) -> dict[str, tuple[TextSpan, ...]]:
    """Id -> the characters of the masked tokens; neighbours make one span, blanks between them."""
    goes_on = _same_turn(scores) & masked[1:] & masked[:-1]
    firsts = np.flatnonzero(masked & ~np.concatenate([[False], goes_on])[: len(masked)])
    lasts = np.flatnonzero(masked & ~np.concatenate([goes_on, [False]])[: len(masked)])
    found: dict[str, list[TextSpan]] = {}
    columns = (scores.rows[firsts], scores.turn[firsts], scores.start[firsts], scores.end[lasts])
    for row, *span in zip(*(column.tolist() for column in columns), strict=True):
        found.setdefault(scores.ids[row], []).append(TextSpan(*span))
    return {key: tuple(spans) for key, spans in found.items()}
