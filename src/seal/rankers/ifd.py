"""IFD: how little the prompt helps with the response (arXiv 2308.12032, 2402.00530).

Papers -> here
    l(y | x)   `IfdTable.conditional`: mean loss of the response after its prompt
    l(y)       `IfdTable.unconditional`: the same response tokens without the prompt, `alone`
    IFD        `ratio`: l(y | x) / l(y) (Cherry) or exp(l(y | x) - l(y)) (Superfiltering)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float64, Int32

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.sample import Message
from seal.data.tokenize import ChatEncoder, Encoded
from seal.models import LanguageModel
from seal.rankers.ranker import Cost, Meaning, Ranker, RankingTask, Sizes
from seal.tables import Tables

Form = Literal["loss", "ppl"]

_MOST = 700.0  # exp of more is no float64


class IfdTable(NamedTuple):
    """IFD of N rows.

    Attributes:
        ifd: 0 = the prompt gives the response away, 1 = it does not matter, above = it misleads;
            1 where it could not be measured.
        conditional: Mean loss of the response given the prompt, nats per token.
        unconditional: Without the prompt; 0 where it could not be measured.
        is_measured: False for a response that leaves no token, or no loss, to compare with.
    """

    ifd: Float64[np.ndarray, " N"]
    conditional: Float64[np.ndarray, " N"]
    unconditional: Float64[np.ndarray, " N"]
    is_measured: Bool[np.ndarray, " N"]


class Ifd(Ranker):
    """Score = IFD where it is below 1, else minus IFD.

    High = the prompt helps, but little: hard for the model and still a response to its prompt. The
    papers drop what has an IFD of 1 or more, where the prompt hurts: those samples rank below
    all others, the worst last. A measure of difficulty, not of safety.

    Columns of the ranking: `ifd`, `conditional_loss` and `unconditional_loss` (nats per token), and
    `is_measured`. What cannot be measured counts as an IFD of 1, and so is below what is kept.

    Attributes:
        form: "loss" (Cherry): the ratio of the mean losses, the response alone being read after
            the start of an assistant turn. "ppl" (Superfiltering): the ratio of the perplexities,
            the response alone being read after nothing, or after the BOS where the tokenizer has
            one. Without a BOS its first token is not predicted there and left out, and a response
            of one token cannot be measured.
    """

    READS_ONCE: ClassVar[bool] = True
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "ifd": Meaning("loss of the answer with its prompt, as a share of that without"),
        "conditional_loss": Meaning("loss of the answer with its prompt", unit="nats per token"),
        "unconditional_loss": Meaning("loss of the answer alone", unit="nats per token"),
    }

    method: Literal["ifd"] = "ifd"
    form: Form = "loss"

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool in two passes, one without the prompts.

        Raises:
            ValueError: If the start of an assistant turn cannot be found in the chat template.
        """
        table = measure_ifd(task.tables, task.lm, task.pool, self.form)
        return make_ranking(
            tuple(row.id for row in task.pool),
            np.where(table.ifd < 1, table.ifd, -table.ifd),
            {
                "ifd": table.ifd,
                "conditional_loss": table.conditional,
                "unconditional_loss": table.unconditional,
                "is_measured": table.is_measured,
            },
        )

    def cost(self, sizes: Sizes) -> Cost:
        """At most two forward passes over the pool: the second is shorter by the prompts."""
        return Cost(forward=2 * sizes.pool)


def measure_ifd(tables: Tables, lm: LanguageModel, rows: Sequence[Encoded], form: Form) -> IfdTable:
    """IFD of rows that the model's own encoder made.

    Raises:
        ValueError: If the start of an assistant turn cannot be found in the chat template.
    """
    conditional = tables.losses(lm, rows).mean
    header = assistant_header(lm.encoder) if form == "loss" else np.array([], dtype=np.int32)
    bos = cast(int | None, lm.tokenizer.bos_token_id)
    bare = [alone(row, header, bos) for row in rows]
    unconditional = np.zeros(len(rows))
    places = [place for place, row in enumerate(bare) if row is not None]
    kept = [row for row in bare if row is not None]
    if kept:
        what = "scoring the pool without its prompts"
        unconditional[places] = tables.losses(lm, kept, what=what).mean
    is_measured = unconditional > 0  # no loss at all: nothing to divide by, and nothing to learn
    ifd = np.ones(len(rows))
    ifd[is_measured] = ratio(conditional[is_measured], unconditional[is_measured], form)
    return IfdTable(ifd, conditional, unconditional, is_measured)


def ratio(
    conditional: Float64[np.ndarray, " N"], unconditional: Float64[np.ndarray, " N"], form: Form
) -> Float64[np.ndarray, " N"]:
    """IFD from the two mean losses; the unconditional ones above 0."""
    if form == "loss":
        return conditional / unconditional
    return np.exp(np.minimum(conditional - unconditional, _MOST))


def alone(row: Encoded, header: Int32[np.ndarray, " H"], bos: int | None) -> Encoded | None:
    """A row without its prompt: all from the first response token on, after the header.

    A BOS at the start of the row stays. With nothing before it the first token has no prediction,
    and does not count; None if no other response token is left.

    Args:
        row: With its prompt.
        header: How a template starts an assistant turn, as `assistant_header` says; may be empty.
        bos: The tokenizer's beginning of sequence, if it has one.
    """
    first = int(row.response_mask.argmax())
    has_bos = bos is not None and first > 0 and int(row.input_ids[0]) == bos
    context = np.concatenate([row.input_ids[: int(has_bos)], _own_header(row, first, header)])
    mask = np.concatenate([np.zeros(len(context), dtype=bool), row.response_mask[first:]])
    mask[0] = False
    if not mask.any():
        return None
    input_ids = np.concatenate([context, row.input_ids[first:]]).astype(np.int32)
    return Encoded(row.id, input_ids, mask, row.is_truncated)


def assistant_header(encoder: ChatEncoder) -> Int32[np.ndarray, " H"]:
    """The tokens that a template puts after the user's text to start an assistant turn.

    They are what the prompts to answer two different questions both end in.

    Raises:
        ValueError: If the template refuses the questions, or puts nothing there.
    """
    try:
        one, other = encoder.prompt_ids([(Message("user", text),) for text in ("a", "7")])
    except ValueError as error:
        raise ValueError(
            f"rank.form=loss: {error}. Set rank.form=ppl, which needs no template."
        ) from error
    length = 0
    while length < min(len(one), len(other)) and one[-length - 1] == other[-length - 1]:
        length += 1
    if not length:
        raise ValueError(
            "rank.form=loss: the chat template puts nothing between the user's text and the "
            "response, so there is no start of an assistant turn to put in the prompt's place. Set "
            "rank.form=ppl."
        )
    return np.array(one[-length:], dtype=np.int32)


def _own_header(row: Encoded, first: int, header: np.ndarray) -> np.ndarray:
    """The end of a row's prompt from the header on; it may go on with a blank, or empty thoughts.

    The header itself where the row has none.
    """
    for start in range(first - len(header), -1, -1):
        if np.array_equal(row.input_ids[start : start + len(header)], header):
            return row.input_ids[start:first]
    return header
