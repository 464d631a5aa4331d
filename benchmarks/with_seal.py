"""seal's own ranking and scoring, timed from outside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from torch import nn
from transformers import PreTrainedTokenizerFast

from benchmarks.loops import ROWS_OF_A_PASS
from benchmarks.timing import Watch
from benchmarks.workload import PAD, Row, Visit, Work, make_tokenizer
from seal.artifacts.ranking import Ranking
from seal.data.batches import epoch_order
from seal.data.tokenize import Encoded
from seal.models import LanguageModel
from seal.rankers.ranker import Ranker, RankingTask
from seal.rankers.seal import Seal
from seal.tables import Tables


class NothingLeftError(Exception):
    """Ends a ranking after its last step."""


def seal(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:  # noqa: ARG001
    """SEAL, Algorithm 2. It takes the samples in an order of its own: `visits_of`."""
    _rank(model, work, watch, ranker(work))


def penalty(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:  # noqa: ARG001
    """SEAL, Algorithm 1."""
    _rank(model, work, watch, ranker(work).model_copy(update={"algorithm": "penalty"}))


def ranker(work: Work) -> Seal:
    """SEAL as the work says; the rest is the paper's."""
    return Seal(
        epochs=work.epochs,
        batch_size=work.size.batch,
        micro_batch_size=work.size.micro_batch,
        gamma_start=work.gamma_start,
        gamma_step=work.gamma_step,
    )


def visits_of(work: Work) -> list[Visit]:
    """What each of SEAL's steps sees, where the safe set is as large as the pool."""
    assert len(work.pool) == len(work.safe)
    seed, num = Seal().seed, len(work.pool)
    visits = []
    for epoch in range(work.epochs):
        pool, safe = (
            epoch_order(num, seed=seed, stream=name, epoch=epoch) for name in ("pool", "safe")
        )
        for start in range(0, num, work.size.batch):
            places = slice(start, start + work.size.batch)
            visits.append(
                Visit(
                    epoch,
                    [work.pool[i] for i in pool[places]],
                    [work.safe[i] for i in safe[places]],
                )
            )
    return visits


def rank(lm: LanguageModel, work: Work, settings: Ranker) -> Ranking:
    """A whole ranking, a closing pass included."""
    return settings.rank(RankingTask(lm, encode(work.pool), encode(work.safe)))


def encode(rows: Sequence[Row]) -> list[Encoded]:
    """The rows as seal has them."""
    return [Encoded(*row) for row in rows]


def language(model: nn.Module, tokenizer: PreTrainedTokenizerFast | None = None) -> LanguageModel:
    """The model as seal has it; of text only the words of responses are ever asked for."""
    return LanguageModel(model, tokenizer, None, pad_id=PAD)  # pyright: ignore


def scoring(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:  # noqa: ARG001
    """`score` of some rows, again and again."""
    lm = language(model, make_tokenizer(work.size.config.vocab_size))
    rows = encode(work.pool[:ROWS_OF_A_PASS])
    score(lm, rows)  # with what is done once
    while watch.mark():
        score(lm, rows)


def score(lm: LanguageModel, rows: Sequence[Encoded]) -> None:
    """One-pass scoring: the mean loss of every row."""
    _ = Tables().losses(lm, rows).mean


def _rank(model: nn.Module, work: Work, watch: Watch, settings: Seal) -> None:
    def tick(_: str, done: int, total: int) -> None:
        if not watch.mark() or done == total:  # the closing pass is no step
            raise NothingLeftError

    task = RankingTask(language(model), encode(work.pool), encode(work.safe))
    with suppress(NothingLeftError):
        settings.rank(replace(task, progress=tick))
