"""DSIR: does the text read like the safe set or like the pool? Hashed n-grams (arXiv 2302.03169).

Paper -> here
    h(z)          `hashed_ngrams`: each word 1-gram ... n-gram of a text as one of `num_buckets`
    p_raw, p_tgt  shares of the buckets in the pool's text and in the safe set's, `log_ratios`
    log w_i       d . h(z_i), d = log(p_tgt + 1e-8) - log(p_raw + 1e-8), `row_sums`
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64
from pydantic import Field

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.sample import Sample
from seal.rankers.ranker import Meaning, Ranker, RankingTask

_WORD = re.compile(r"\w+|[^\w\s]+")  # NLTK's wordpunct
_FLOOR = 1e-8  # added to both shares, as in the published code: log 0 is never taken
_CACHE = 2**20  # n-grams whose bucket is remembered; bounds the memory of a large pool

Text = Literal["all", "prompt", "response"]


class Bags(NamedTuple):
    """The n-grams of N texts; M in all.

    Attributes:
        buckets: The bucket of every n-gram, text after text.
        counts: n-grams of each text.
    """

    buckets: Int32[np.ndarray, " M"]
    counts: Int64[np.ndarray, " N"]


class Dsir(Ranker):
    """Score = log importance weight of the text: target = the safe set, raw = the pool.

    High = words and word pairs that are commoner in the safe set than in the pool. No model is
    run. The weight is a sum over n-grams, so that long texts have the extreme scores, unless
    `length_normalised`.

    Columns of the ranking: `log_weight` (the sum, without noise, in nats) and `num_ngrams`.

    Attributes:
        text: Which turns are read: "all", the "prompt" or the "response" (the turns of the
            completion), joined by a newline.
        ngrams: Longest n-gram, in words; all lengths share one table.
        num_buckets: Of that table.
        smoothing: Added to every count of the safe set.
        length_normalised: Divide a text's weight by its number of n-grams.
        noise: "gumbel" adds a Gumbel(0, 1) draw per sample, which makes the best k a sample without
            replacement in proportion to the weights (the paper); "none" takes the weights as they
            are.
        seed: Of the noise, which is a function of the seed and the sample's id.
    """

    READS_ONCE: ClassVar[bool] = True
    SCORE: ClassVar[str] = "the log importance weight of its words, safe set against pool"
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "log_weight": Meaning(
            "its words are commoner in the safe set than in the pool",
            "its words are rarer in the safe set than in the pool",
            "nats, summed over its n-grams",
        ),
        "num_ngrams": Meaning("words and n-grams that were counted"),
    }

    method: Literal["dsir"] = "dsir"
    text: Text = "all"
    ngrams: int = Field(default=2, ge=1)
    num_buckets: int = Field(default=10_000, ge=2)
    smoothing: float = Field(default=0.0, ge=0)
    length_normalised: bool = False
    noise: Literal["none", "gumbel"] = "none"
    seed: int = 0

    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool from its text.

        Raises:
            ValueError: If the safe set has no word in the turns that are read.
        """
        ids = tuple(row.id for row in task.pool)
        pool = self._bags(task.samples[key] for key in ids)
        safe = self._bags(task.samples[row.id] for row in task.safe)
        if not len(safe.buckets):
            raise ValueError(
                f"rank.text={self.text}: the {len(task.safe)} samples of the safe set have no word "
                "there, so there is no target to compare with. Set rank.text=all."
            )
        ratios = log_ratios(safe.buckets, pool.buckets, self.num_buckets, self.smoothing)
        weights = row_sums(pool, ratios)
        scores = weights / np.maximum(pool.counts, 1) if self.length_normalised else weights
        if self.noise == "gumbel":
            scores = scores + np.array([_gumbel(self.seed, key) for key in ids])
        return make_ranking(ids, scores, {"log_weight": weights, "num_ngrams": pool.counts})

    def _bags(self, samples: Iterable[Sample]) -> Bags:
        texts = [sample_text(sample, self.text) for sample in samples]
        return hashed_ngrams(texts, self.ngrams, self.num_buckets)


def sample_text(sample: Sample, text: Text) -> str:
    """The turns of a sample that are read, joined by a newline."""
    turns = {"all": sample.messages, "prompt": sample.prompt, "response": sample.completion}
    return "\n".join(turn.content for turn in turns[text])


def hashed_ngrams(texts: Sequence[str], ngrams: int, num_buckets: int) -> Bags:
    """The word n-grams of lengths 1 to `ngrams` of every text, lower-cased and hashed."""

    @lru_cache(maxsize=_CACHE)
    def bucket(words: str) -> int:
        # Lone surrogates are possible in JSON, and have no strict UTF-8.
        digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest, "big") % num_buckets

    buckets: list[np.ndarray] = []
    for text in texts:
        words = _WORD.findall(text.lower())
        found: list[int] = []
        for length in range(1, ngrams + 1):
            starts = [words[first:] for first in range(length)]
            found += map(bucket, map(" ".join, zip(*starts, strict=False)))
        buckets.append(np.array(found, dtype=np.int32))
    counts = np.array([len(row) for row in buckets], dtype=np.int64)
    return Bags(np.concatenate(buckets), counts)


def log_ratios(
    target: Int32[np.ndarray, " S"],
    raw: Int32[np.ndarray, " M"],
    num_buckets: int,
    smoothing: float = 0.0,
) -> Float64[np.ndarray, " K"]:
    """d: log(p_tgt + 1e-8) - log(p_raw + 1e-8) of each bucket.

    Args:
        target: Buckets of the n-grams of the safe set; at least one.
        raw: Of the pool; where it has none, every share is 0.
        num_buckets: K.
        smoothing: Added to each count of the target.
    """
    wanted = np.bincount(target, minlength=num_buckets) + smoothing
    there = np.bincount(raw, minlength=num_buckets)
    shares = (wanted / wanted.sum(), there / max(1, there.sum()))
    return np.log(shares[0] + _FLOOR) - np.log(shares[1] + _FLOOR)


def row_sums(bags: Bags, values: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, " N"]:
    """The sum of a value per bucket over the n-grams of each text; 0 for a text without any."""
    rows = np.repeat(np.arange(len(bags.counts)), bags.counts)
    return np.bincount(rows, weights=values[bags.buckets], minlength=len(bags.counts))


def _gumbel(seed: int, key: str) -> float:
    """A draw from Gumbel(0, 1) that is a function of a seed and an id."""
    digest = hashlib.sha256(f"dsir:{seed}:{key}".encode()).digest()
    uniform = (int.from_bytes(digest[:6], "big") + 0.5) / 2**48  # never 0, never 1
    return -math.log(-math.log(uniform))
