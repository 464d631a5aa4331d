"""LARF: which side of the refusal direction a sample lies on, in one block (arXiv 2507.18631).

Paper -> here
    x_i                 hidden state of the sample's last token after block `layer`
    u_j, s_j            the same of the unsafe anchors (`harmful`) and of the safe ones (`safe`)
    M_ij                cos(x_i, u_j) - cos(x_i, s_j)
    score_i             risk: mean of the `avg` largest M_ij
    R_l(s)              refusals of over-refusal prompts, the weights of block l scaled by s
    delta_l(c)          R_l(1 + c) - R_l(1 - c), c = 0.1, 0.2, 0.3: how the paper finds the layer
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from seal.artifacts.provenance import file_hash
from seal.artifacts.ranking import Ranking, make_ranking
from seal.blocks import decoder_blocks
from seal.data.formats import describe_columns
from seal.data.raw_row import RawRow
from seal.data.readers import read_rows
from seal.data.sample import Message
from seal.data.tokenize import Encoded
from seal.generation import Decoding, generate
from seal.judges.refusal import RefusalPhrases
from seal.rankers.draws import draw_key, draw_rows, drawn_share
from seal.rankers.ranker import Cost, Meaning, Ranker, RankingTask, Sizes, require_harmful
from seal.rankers.representations import (
    block_states,
    cosines,
    top_mean,
)

SCALES = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)  # of the paper, for each block
CHANGES = (0.1, 0.2, 0.3)  # c: the scales are 1 - c and 1 + c
ANSWER_TOKENS = 32  # of the paper: a refusal comes first


class Larf(Ranker):
    """Score = -(mean cosine with the unsafe anchors - mean cosine with the safe anchors).

    Cosines are of the last token's hidden states after one block, in [-1, 1]; the score is in
    [-2, 2], higher = keep. Columns of the ranking: `risk` (minus the score, the paper's number),
    `harmful_similarity` and `safe_similarity` (the two mean cosines).

    Attributes:
        layer: The block, counted from 0; its output is hidden_states[layer + 1] of transformers.
            "auto" takes the one that tells the two kinds of anchors apart best, which is not the
            paper's search. "refusals" is: the block in which scaling the weights moves the number
            of refusals most; it needs `prompts`.
        avg: Average only the largest of the differences between anchors that answer the same
            prompt; harmful and safe must then be such pairs. None: the difference of the means,
            which needs no pairs and is the same as averaging all.
        prompts: File of harmless prompts that look harmful, for `layer: refusals`: .jsonl, .json,
            .csv or .parquet.
        prompt_column: Its column with the prompt.
        max_prompts: Most prompts that are answered; drawn by their text.
        judge: Tells refusals from answers.
        max_anchors: Most anchors of each kind; more are thinned out.
        seed: Names the draw of the anchors and of the prompts.
    """

    READS_ONCE: ClassVar[bool] = True
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "harmful_similarity": Meaning("cosine with the harmful anchors, mean"),
        "safe_similarity": Meaning("cosine with the safe anchors, mean"),
    }

    method: Literal["larf"] = "larf"
    layer: Annotated[int, Field(ge=0)] | Literal["auto", "refusals"] = "auto"
    avg: int | None = Field(default=None, ge=1)
    prompts: Path | None = None
    prompt_column: str = "prompt"
    max_prompts: int = Field(default=110, ge=1)
    judge: RefusalPhrases = RefusalPhrases()
    max_anchors: int = Field(default=100, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Larf:
        if (self.layer == "refusals") != (self.prompts is not None):
            raise ValueError(
                "layer=refusals and prompts belong together: the layer is found by the refusals of "
                f"a file of prompts. Here layer={self.layer} and prompts={self.prompts}. Give both "
                "or neither."
            )
        return self

    @property
    def needs_harmful(self) -> bool:
        """Always."""
        return True

    def rank(self, task: RankingTask) -> Ranking:
        """Read the anchors, choose the block, read the pool up to it.

        Raises:
            ValueError: If there are no harmful references, the model has no such block, the
                anchors do not suffice for what is asked, a prompt cannot be read, or the refusals
                tell no block.
        """
        unsafe, safe = self._anchors(task)
        blocks = self._candidates(task, len(unsafe), len(safe))
        if self.layer == "refusals":
            blocks = (self._most_sensitive_block(task, blocks),)
        unsafe_states = block_states(task, unsafe, blocks, what="reading the unsafe anchors")
        safe_states = block_states(task, safe, blocks, what="reading the safe anchors")
        block = blocks[0]
        if self.layer == "auto":
            block = _most_telling_block(task, unsafe_states, safe_states)
        pool = sorted(task.pool, key=lambda row: row.id)
        states = block_states(task, pool, (block,), what="reading the pool")[block]
        towards_unsafe = cosines(states, unsafe_states[block])
        towards_safe = cosines(states, safe_states[block])
        columns = {
            "risk": larf_risk(towards_unsafe, towards_safe, self.avg),
            "harmful_similarity": towards_unsafe.mean(axis=1),
            "safe_similarity": towards_safe.mean(axis=1),
        }
        return make_ranking(tuple(row.id for row in pool), -columns["risk"], columns)

    def reads(self) -> dict[str, Any]:
        """The bytes of the file of prompts, if there is one."""
        if self.prompts is None:
            return {}
        if not self.prompts.is_file():
            raise ValueError(
                f"rank.prompts={self.prompts}: there is no such file. Give a .jsonl, .json, .csv "
                "or .parquet of over-refusal prompts."
            )
        return {"prompts": file_hash(self.prompts)}

    def cost(self, sizes: Sizes) -> Cost:
        """One pass over pool and anchors, as if through the whole depth: an upper bound.

        The passes end at the block; which share of the depth that is only the model knows. Nor is
        the search of `layer: refusals` counted: it answers every prompt 6 times per block, and how
        many blocks there are, and how long the prompts, the sets do not say.
        """
        harmful = sizes.harmful * drawn_share(self.max_anchors, sizes.num_harmful)
        safe = sizes.safe * drawn_share(self.max_anchors, sizes.num_safe)
        return Cost(forward=sizes.pool + harmful + safe)

    def _anchors(self, task: RankingTask) -> tuple[list[Encoded], list[Encoded]]:
        """Unsafe and safe anchors; where `avg` is set, the j-th of both answer one prompt."""
        harmful = require_harmful(task, self.method)
        if self.avg is None:
            drawn = (
                draw_rows(rows, self.max_anchors, seed=self.seed) for rows in (harmful, task.safe)
            )
            return next(drawn), next(drawn)
        pairs = _pairs(harmful, task.safe)
        pairs = sorted(pairs, key=lambda pair: draw_key(pair[0].id, self.seed))[: self.max_anchors]
        if self.avg > len(pairs):
            raise ValueError(
                f"rank.avg={self.avg}: there are only {len(pairs)} pairs of anchors. Lower it, or "
                "leave it out to average all."
            )
        return [unsafe for unsafe, _ in pairs], [safe for _, safe in pairs]

    def _candidates(self, task: RankingTask, num_unsafe: int, num_safe: int) -> Sequence[int]:
        num_blocks = len(decoder_blocks(task.lm.model))
        if self.layer == "auto":
            if min(num_unsafe, num_safe) < 2:
                raise ValueError(
                    f"rank.layer=auto needs at least 2 harmful and 2 safe samples to compare the "
                    f"layers; there are {num_unsafe} and {num_safe}. Give more of them, or name "
                    "the layer."
                )
            return range(num_blocks)
        if self.layer == "refusals":
            return range(num_blocks)
        if self.layer >= num_blocks:
            raise ValueError(
                f"rank.layer={self.layer}: the model has {num_blocks} layers. Give one of 0 to "
                f"{num_blocks - 1}, or auto."
            )
        return (self.layer,)

    def _most_sensitive_block(self, task: RankingTask, blocks: Sequence[int]) -> int:
        """The block of the largest sum of delta_l(c), the earliest of several; all are logged."""
        places, prompts = self._read_prompts()
        decoding = Decoding(max_new_tokens=ANSWER_TOKENS)
        modules = decoder_blocks(task.lm.model)
        counts: dict[int, dict[float, int]] = {}
        for done, block in enumerate(blocks):
            counts[block] = {}
            for scale in SCALES:
                with scaled(modules[block], scale):
                    answers = generate(task.lm, prompts, decoding, names=places)
                counts[block][scale] = sum(map(self.judge.is_refusal, answers))
            task.progress("scaling one layer at a time", done + 1, len(blocks))
        deltas = {block: refusal_deltas(found) for block, found in counts.items()}
        total = {block: sum(by_change.values()) for block, by_change in deltas.items()}
        best = max(sorted(total), key=total.__getitem__)
        for block, found in counts.items():
            task.log(
                {
                    "layer": block,
                    "num_prompts": len(prompts),
                    **{f"refusals_{scale:g}": found[scale] for scale in SCALES},
                    **{f"delta_{change:g}": deltas[block][change] for change in CHANGES},
                    "delta": total[block],
                    "is_chosen": block == best and total[best] > 0,
                }
            )
        if total[best] <= 0:
            raise ValueError(
                f"rank.layer=refusals: with no layer scaled up are more of the {len(prompts)} "
                f"prompts refused than with it scaled down (refusals: {counts}). Give prompts that "
                "the model is near to refusing, name the layer, or set rank.layer=auto."
            )
        return best

    def _read_prompts(self) -> tuple[list[str], list[tuple[Message, ...]]]:
        """Where each prompt stands, and the prompt; at most `max_prompts` of them."""
        assert self.prompts is not None
        self.reads()  # says so if there is no such file
        column = self.prompt_column
        rows = [(row.where, _prompt_text(row, column)) for row in _all(self.prompts, column)]
        if not rows:
            raise ValueError(f"rank.prompts={self.prompts}: the file holds no prompt. Give some.")
        rows = sorted(rows, key=lambda row: (draw_key(row[1], self.seed, "prompts"), row[0]))
        rows = rows[: self.max_prompts]
        return [where for where, _ in rows], [(Message("user", text),) for _, text in rows]


@contextmanager
def scaled(block: nn.Module, scale: float) -> Iterator[None]:
    """A block with its weight matrices multiplied, and afterwards as it was, bit for bit.

    In a Llama these are q, k, v, o, gate, up and down. What is no matrix (norms, biases) stays.
    """
    matrices = [weight for weight in block.parameters() if weight.dim() > 1]
    before = [weight.detach().clone() for weight in matrices]
    try:
        with torch.no_grad():
            for weight, was in zip(matrices, before, strict=True):
                weight.copy_(was * scale)
        yield
    finally:  # dividing by the scale would round
        with torch.no_grad():
            for weight, was in zip(matrices, before, strict=True):
                weight.copy_(was)


def refusal_deltas(counts: Mapping[float, int]) -> dict[float, int]:
    """delta(c) of one block: refusals scaled up by c less refusals scaled down by c.

    Args:
        counts: Scale -> number of refusals.
    """
    down, up = SCALES[2::-1], SCALES[3:]
    pairs = zip(CHANGES, down, up, strict=True)
    return {change: counts[high] - counts[low] for change, low, high in pairs}


def larf_risk(towards_unsafe: np.ndarray, towards_safe: np.ndarray, avg: int | None) -> np.ndarray:
    """The paper's score of each sample; higher = worse.

    Args:
        towards_unsafe: [N, A], cosines with the unsafe anchors.
        towards_safe: [N, A'], cosines with the safe anchors; for a number as `avg`, column j
            belongs with column j of the other.
        avg: How many of the differences count, the largest; None: the difference of the means.
    """
    if avg is None:
        return towards_unsafe.mean(axis=1) - towards_safe.mean(axis=1)
    return top_mean(towards_unsafe - towards_safe, avg)


def anchor_separation(unsafe: np.ndarray, safe: np.ndarray) -> float:
    """How far apart the risk of unsafe and of safe anchors lies, in standard deviations.

    Each anchor is scored as a pool sample would be, against all anchors but itself; then
    (mean_u - mean_s) / sqrt(var_u + var_s). Negative where unsafe anchors look safer.

    Args:
        unsafe: [A, D] with A >= 2.
        safe: [A', D] with A' >= 2.
    """
    across = cosines(unsafe, safe)
    of_unsafe = _mean_of_others(cosines(unsafe, unsafe)) - across.mean(axis=1)
    of_safe = across.mean(axis=0) - _mean_of_others(cosines(safe, safe))
    spread = np.sqrt(of_unsafe.var() + of_safe.var())
    # The floor is for anchors that are all alike, where rounding would decide.
    return float((of_unsafe.mean() - of_safe.mean()) / max(spread, 1e-6))


def _mean_of_others(own: np.ndarray) -> np.ndarray:
    """Mean cosine of each anchor with the others of its kind."""
    return (own.sum(axis=1) - own.diagonal()) / (len(own) - 1)


def _most_telling_block(
    task: RankingTask, unsafe: Mapping[int, np.ndarray], safe: Mapping[int, np.ndarray]
) -> int:
    """The block of the largest separation, the earliest of several; all are logged."""
    separation = {block: anchor_separation(unsafe[block], safe[block]) for block in unsafe}
    best = max(sorted(separation), key=separation.__getitem__)
    for block, value in separation.items():
        task.log({"layer": block, "separation": value, "is_chosen": block == best})
    return best


def _pairs(harmful: Sequence[Encoded], safe: Sequence[Encoded]) -> list[tuple[Encoded, Encoded]]:
    """Harmful and safe samples by prompt; several of one prompt by id."""
    unsafe_rows, safe_rows = (
        sorted(rows, key=lambda row: (_prompt(row), row.id)) for rows in (harmful, safe)
    )
    if list(map(_prompt, unsafe_rows)) != list(map(_prompt, safe_rows)):
        raise ValueError(
            f"rank.avg needs pairs: for every harmful sample a safe one with the same prompt. The "
            f"{len(harmful)} harmful and {len(safe)} safe samples are not such pairs. Give pairs, "
            "or leave rank.avg out to compare with the means."
        )
    return list(zip(unsafe_rows, safe_rows, strict=True))


def _all(path: Path, column: str) -> Iterator[RawRow]:
    for row in read_rows(str(path), needs={column: "text"}):
        if row.row is None:
            raise ValueError(
                f"rank.prompts: {row.where}: {row.reason}. Correct the row, or delete it."
            )
        yield row


def _prompt_text(row: RawRow, column: str) -> str:
    assert row.row is not None
    if column not in row.row:
        raise ValueError(
            f"rank.prompts: {row.where}: there is no column {column!a}; this row has "
            f"{describe_columns(row.row)}. Name the right one as rank.prompt_column."
        )
    text = row.row[column]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"rank.prompts: {row.where}: the column {column!a} must be a text that is not blank. "
            "Correct the row, or delete it."
        )
    return text


def _prompt(row: Encoded) -> tuple[int, ...]:
    return tuple(row.input_ids[: int(row.response_mask.argmax())].tolist())
