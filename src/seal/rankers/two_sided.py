"""Two-sided: does safety matter at this prompt, and is this answer not what belongs there?

Symbol -> here
    A_i     log-odds that safety matters at the prompt of sample i: `prompt_side`
    B_i     log-odds that its response, if so, is like the trusted ones: `response_side`
    u_i     sigma(A_i) sigma(-B_i): the first guess that it is a harmful answer to such a prompt;
            `log_odds_of_both` has its log-odds
    J_i     log-odds of the same from one probe on everything, fitted to u, then to its own
            posterior: `joint`; expectation-maximisation for the mixture that the pool is
    score   -J_i

Every probe is a logistic regression between rows known by where they come from (trusted, harmful
reference) and rows of the pool weighted by what is believed of them so far: learning from positive
and unlabelled data. No row is judged by a probe that was fitted on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy.special import expit

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.sample import Message, Sample, content_of
from seal.judges.refusal import RefusalPhrases
from seal.rankers.draws import draw_rows, drawn_share
from seal.rankers.probes import Features, balanced, cross_fit, fold_of
from seal.rankers.ranker import Cost, Meaning, Ranker, RankingTask, Sizes
from seal.rankers.sentences import sentences, word_bags
from seal.rankers.traces import Traces, join_traces, read_traces

STATE_RIDGE = 300.0  # of probes on hidden states, whose dimensions are standardised
WORD_RIDGE = 0.1  # of probes on word bags, whose rows have length 1
TEXT_MARGIN = 1.0  # log-odds by which the words alone must be surer than the three views together
TRUST = 0.3  # weight of a trusted row against a pool row in the joint probe
FEW = 0.1  # a safe set with a smaller share of safety prompts counts as having none
MOST = 0.6  # ... and with a larger one as having nothing else
PROMPT_ROUNDS = 3
LEAST = 1e-3  # weight that every row keeps: no probe is fitted on nothing


class TwoSided(Ranker):
    """Score = -log-odds that the sample is a harmful answer to a harmful request; higher = keep.

    One forward pass over the pool and one over the safe set; no training of the model. Works from a
    safe set of harmful questions with good answers, of ordinary samples, or of both, and says in
    the log which it took it for. Uses harmful references where there are some.

    Columns: `prompt` (A: higher = safety matters more), `response` (B: higher = more like the
    trusted answers), `text`, `state`, `refusal` (the three views of the prompt), log-odds all, and
    `loss` (nats per token under the aligned model).

    Attributes:
        rounds: Rounds of expectation-maximisation; 0 scores by the product of the two sides.
        folds: Parts of the data for cross-fitting.
        max_safe: Most rows of the safe set that are read; drawn by id.
        seed: Of folds and draws.
    """

    READS_ONCE: ClassVar[bool] = True
    SCORE: ClassVar[str] = (
        "minus the log-odds that it is a harmful answer to a request where safety matters"
    )
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "prompt": Meaning(
            "its prompt looks like one where safety matters",
            "its prompt does not look like one where safety matters",
            "log-odds",
        ),
        "response": Meaning(
            "its answer, if safety matters there, looks like the answers that are trusted",
            "its answer, if safety matters there, does not look like the answers that are trusted",
            "log-odds",
        ),
        "text": Meaning(
            "the words of its prompt, alone, look like those of prompts where safety matters",
            "the words of its prompt, alone, do not look like those where safety matters",
            "log-odds",
        ),
        "state": Meaning(
            "the model's states at its prompt look like those at prompts where safety matters",
            "the model's states at its prompt do not look like those where safety matters",
            "log-odds",
        ),
        "refusal": Meaning(
            "the model's urge to refuse it is like that at prompts where safety matters",
            "the model's urge to refuse it is not like that at prompts where safety matters",
            "log-odds",
        ),
        "loss": Meaning("loss of the answer under the aligned model", unit="nats per token"),
    }

    method: Literal["two_sided"] = "two_sided"
    rounds: int = Field(default=2, ge=0)
    folds: int = Field(default=5, ge=2)
    max_safe: int = Field(default=4000, ge=1)
    seed: int = 0

    def rank(self, task: RankingTask) -> Ranking:
        """Two sides, then one probe for both."""
        rows = self._read(task)
        kind = safe_kinds(rows)
        task.progress(_say(rows, kind), 1, 1)
        prompt = prompt_side(rows, kind)
        response = response_side(rows, kind, prompt["prompt"])
        judged = log_odds_of_both(prompt["prompt"], -response)
        for _ in range(self.rounds):
            judged = joint(rows, expit(judged))
        task.log(_summary(rows, kind, expit(judged[rows.pool])))
        columns = {**prompt, "response": response, "loss": rows.traces.losses[:, 0]}
        return make_ranking(
            tuple(np.array(rows.ids)[rows.pool]),
            -judged[rows.pool],
            {name: np.asarray(column, float)[rows.pool] for name, column in columns.items()},
            is_log_odds=True,
        )

    def cost(self, sizes: Sizes) -> Cost:
        """One forward pass over everything."""
        safe = sizes.safe * drawn_share(self.max_safe, sizes.num_safe)
        return Cost(forward=sizes.pool + safe + sizes.harmful)

    def _read(self, task: RankingTask) -> Rows:
        pool = sorted(task.pool, key=lambda row: row.id)
        taken = {content_of(row.id) for row in pool}
        drawn = draw_rows(task.safe, self.max_safe, seed=self.seed, stream="draw")
        safe = [row for row in drawn if content_of(row.id) not in taken]
        taken |= {content_of(row.id) for row in safe}
        harmful = [row for row in task.harmful if content_of(row.id) not in taken]
        harmful = sorted(harmful, key=lambda row: row.id)
        groups = {"pool": pool, "safe": safe, "harmful": harmful}
        traces = [
            read_traces(task.lm, part, task.tables, seed=self.seed, what=f"reading the {name} set")
            for name, part in groups.items()
            if part
        ]
        kinds = np.repeat(list(groups), [len(part) for part in groups.values()])
        ids = tuple(row.id for part in groups.values() for row in part)
        return Rows(
            ids,
            kinds == "pool",
            kinds == "safe",
            kinds == "harmful",
            join_traces(traces),
            [task.samples[key] for key in ids],
            fold_of(ids, self.folds, self.seed),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All rows that take part: the pool, then the safe set, then the harmful references.

    Attributes:
        ids: Of the rows.
        pool: Which belong to the pool; bool [N], as the next two.
        safe: Which are trusted.
        harmful: Which are harmful references.
        traces: What the model made of them.
        samples: Their text.
        folds: For cross-fitting.
    """

    ids: tuple[str, ...]
    pool: np.ndarray
    safe: np.ndarray
    harmful: np.ndarray
    traces: Traces
    samples: Sequence[Sample]
    folds: np.ndarray


class Kinds(NamedTuple):
    """What the safe set is made of.

    Attributes:
        safety: Its rows that answer a prompt where safety matters; bool [N].
        ordinary: Its other rows; bool [N].
        share: Share of its rows that show signs of such a prompt.
    """

    safety: np.ndarray
    ordinary: np.ndarray
    share: float


def safe_kinds(rows: Rows) -> Kinds:
    """Tell harmful questions with good answers from ordinary samples in the safe set.

    A row shows signs of the former if its response is a refusal, or the model itself would begin
    one. A set that is all but all of one kind counts as that kind; in a mixed one a probe on the
    prompts decides, row by row, so that a good answer that is no refusal finds its kind.
    """
    judge = RefusalPhrases()
    refused = np.array([judge.is_refusal(_answer(sample)) for sample in rows.samples])
    signs = rows.safe & (refused | (rows.traces.refusal > 0))
    share = float(signs.sum() / max(1, rows.safe.sum()))
    safety = rows.safe & (share > MOST)
    if FEW <= share <= MOST:
        features = standardised(rows.traces.prompt())
        weights = balanced(signs.astype(float), rows.safe.astype(float))
        log_odds = cross_fit(features, signs.astype(float), weights, rows.folds, STATE_RIDGE)
        safety = rows.safe & (log_odds > 0)
    return Kinds(safety, rows.safe & ~safety, share)


def prompt_side(rows: Rows, kind: Kinds) -> dict[str, np.ndarray]:
    """A: log-odds that safety matters at a prompt, and the three views it is made of."""
    refusal = rows.traces.refusal[:, None]
    counts, bags = _sentence_bags(rows.samples)
    views = {
        "text": View(bags, counts, WORD_RIDGE),
        "state": View(standardised(rows.traces.prompt()), None, STATE_RIDGE),
        "refusal": View(standardised(refusal), None, 1.0),
    }
    log_odds = {name: _prompt_view(rows, kind, view) for name, view in views.items()}
    together = sum(log_odds.values()) / len(log_odds)
    return {"prompt": np.maximum(together, log_odds["text"] - TEXT_MARGIN), **log_odds}


class View(NamedTuple):
    """One way to look at a prompt.

    Attributes:
        features: One row per sample, or per sentence.
        counts: Sentences of each sample; None where a row is a sample.
        ridge: Of its probe.
    """

    features: Features
    counts: np.ndarray | None
    ridge: float


def _prompt_view(rows: Rows, kind: Kinds, view: View) -> np.ndarray:
    """Log-odds of "safety matters" for each sample: known prompts against the rest of the pool.

    The pool holds such prompts too: each round trusts its rows as counter-examples only as far as
    the last one believed them to be ordinary.
    """
    known = kind.safety | rows.harmful
    if not known.any():  # nothing but ordinary samples is trusted: ask the model itself
        targets = np.where(rows.pool, expit(rows.traces.refusal), 0.0)
        return _judged(rows, view, targets, np.ones(len(targets)))
    targets = known.astype(float)
    log_odds = np.full(len(known), -np.inf)  # at first all of the pool is a counter-example
    for _ in range(PROMPT_ROUNDS):
        weights = np.where(rows.pool, expit(-log_odds), 1.0) + LEAST
        log_odds = _judged(rows, view, targets, balanced(targets, weights))
    return log_odds


def _judged(rows: Rows, view: View, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if view.counts is None:
        return cross_fit(view.features, targets, weights, rows.folds, view.ridge)
    # One weight per sample, shared by its sentences; a sample is as harmful as its worst sentence.
    targets, weights, folds = (
        np.repeat(values, view.counts) for values in (targets, weights / view.counts, rows.folds)
    )
    log_odds = cross_fit(view.features, targets, weights, folds, view.ridge)
    return np.maximum.reduceat(log_odds, np.cumsum(view.counts) - view.counts)


def response_side(rows: Rows, kind: Kinds, prompt: np.ndarray) -> np.ndarray:
    """B: log-odds that a response, given where safety matters, is like the trusted ones."""
    matters = expit(prompt)
    if not kind.safety.any():
        return _unlike_the_model(rows, matters)
    targets = kind.safety.astype(float)
    weights = np.where(rows.pool, matters, np.where(kind.ordinary, 0.0, 1.0)) + LEAST
    features = standardised(rows.traces.response())
    return cross_fit(features, targets, balanced(targets, weights), rows.folds, STATE_RIDGE)


def _unlike_the_model(rows: Rows, matters: np.ndarray) -> np.ndarray:
    """B without an answer to trust: how much more likely than usual there the model finds it."""
    loss = rows.traces.losses[:, 0]
    weights = np.where(rows.pool, matters, 0.0)
    middle = _weighted_median(loss, weights)
    spread = _weighted_median(np.abs(loss - middle), weights)
    return -2 * (loss - middle) / (spread or 1.0)  # 0 where at least half of it is alike


def log_odds_of_both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Log-odds that two independent events both happen, from those of each.

    Not by way of the probabilities, which round to 0 and 1 far out.
    """
    return -np.logaddexp.reduce([-a, -b, -a - b])


def joint(rows: Rows, belief: np.ndarray) -> np.ndarray:
    """J: log-odds of a harmful answer from everything at once, given what is believed so far."""
    targets = np.where(rows.pool, belief, rows.harmful.astype(float))
    trust = min(TRUST, TRUST * rows.pool.sum() / max(1, rows.safe.sum()))
    weights = np.where(rows.safe, trust, 1.0)
    features = standardised(rows.traces.both())
    return cross_fit(features, targets, weights, rows.folds, STATE_RIDGE)


def standardised(features: np.ndarray) -> np.ndarray:
    """fp32, every column with mean 0 and spread 1."""
    spread = features.std(axis=0) + 1e-6
    return ((features - features.mean(axis=0)) / spread).astype(np.float32)


def _sentence_bags(samples: Sequence[Sample]) -> tuple[np.ndarray, Features]:
    """How many sentences each prompt has, and the bags of all of them."""
    split = [sentences(_request(sample)) for sample in samples]
    counts = np.array([len(parts) for parts in split])
    bags = word_bags([part for parts in split for part in parts])
    # A word that one sentence alone has can say nothing about another.
    occurrences = np.diff(bags.tocsc().indptr)
    return counts, bags[:, np.flatnonzero(occurrences > 1)]


def _request(sample: Sample) -> str:
    """What is asked for: the prompt, and what the user says after the first answer."""
    later = [turn for turn in sample.completion if turn.role != "assistant"]
    return _text([*sample.prompt, *later])


def _answer(sample: Sample) -> str:
    return _text([turn for turn in sample.completion if turn.role == "assistant"])


def _text(turns: Sequence[Message]) -> str:
    return "\n".join(turn.content for turn in turns)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    running = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(running, running[-1] / 2)])


def _say(rows: Rows, kind: Kinds) -> str:
    """What the safe set was taken for, in words."""
    num, safety = int(rows.safe.sum()), int(kind.safety.sum())
    taken = {num: "harmful questions with good answers", 0: "ordinary samples"}.get(
        safety, f"{safety} harmful questions with good answers and {num - safety} ordinary samples"
    )
    return f"safe set: {kind.share:.0%} of {num} samples look like safety; taken as {taken}"


def _summary(rows: Rows, kind: Kinds, belief: np.ndarray) -> dict[str, Any]:
    """For the log: what the safe set was taken for, and how much of the pool is believed bad."""
    return {
        "num_safe": int(rows.safe.sum()),
        "num_harmful": int(rows.harmful.sum()),
        "safe_share_with_signs_of_safety": kind.share,
        "num_safe_taken_as_safety": int(kind.safety.sum()),
        "num_safe_taken_as_ordinary": int(kind.ordinary.sum()),
        "expected_unsafe_share": float(belief.mean()),
    }
