import random
import time

import numpy as np
import pytest

from rankers.conftest import encoded
from reference.straight_dsir import log_weights
from seal.data.sample import Message, Sample
from seal.metrics import auroc
from seal.rankers.dsir import Dsir, hashed_ngrams, log_ratios, row_sums
from seal.rankers.ranker import RankingTask

SIZE = 10_000
SHARED = "the a of to in and is it that on for with"


def task_of(pool: dict[str, str], safe: dict[str, str], *, prompts: bool = False) -> RankingTask:
    """A task of texts alone; they are the responses, or with `prompts` the prompts."""

    def sample(key, text):
        prompt, response = (text, "Yes.") if prompts else ("", text)
        return Sample(key, (Message("user", prompt),), (Message("assistant", response),))

    samples = {key: sample(key, text) for key, text in (pool | safe).items()}
    rows = {key: encoded(key, [2, 3], [20]) for key in samples}
    return RankingTask(None, [rows[k] for k in pool], [rows[k] for k in safe], (), samples)


def sentences(words: str, num: int, *, seed: int) -> list[str]:
    """Texts of ten words each, drawn from some of one topic and some that every topic shares."""
    draw = random.Random(seed)
    choice = [*words.split(), *SHARED.split()]
    return [" ".join(draw.choices(choice, k=10)) for _ in range(num)]


SEA = sentences("seal whale otter wave tide reef", 120, seed=0)
CITY = sentences("street tower bus lamp market bridge", 80, seed=1)


def planted_task() -> tuple[RankingTask, np.ndarray]:
    """A pool half about the sea, half about the city; the safe set is about the sea."""
    pool = {f"p{i:03d}": text for i, text in enumerate([*SEA[:80], *CITY])}
    safe = {f"s{i}": text for i, text in enumerate(SEA[80:])}
    return task_of(pool, safe), np.arange(160) >= 80


# --- n-grams ------------------------------------------------------------------------------------


def test_buckets_are_the_published_ones():
    assert hashed_ngrams(["Alice went"], 2, SIZE).buckets.tolist()[::2] == [6720, 114]


def test_words_and_pairs_are_counted():
    bags = hashed_ngrams(["Alice went to the store", "", "one", "don't!"], 2, SIZE)
    # don ' t ! are four words of three kinds of character
    assert bags.counts.tolist() == [5 + 4, 0, 1, 4 + 3]
    assert len(bags.buckets) == bags.counts.sum()


def test_ngram_lengths_share_one_table_and_a_text_may_be_shorter_than_them():
    bags = hashed_ngrams(["a b c", "a"], 3, SIZE)
    assert bags.counts.tolist() == [3 + 2 + 1, 1]
    assert bags.buckets[0] == bags.buckets[-1]


def test_a_lone_surrogate_is_a_word_like_any_other():
    (count,) = hashed_ngrams(["\ud800x"], 1, SIZE).counts
    assert count == 2


# --- weights ------------------------------------------------------------------------------------


def test_the_worked_example():
    raw, target = hashed_ngrams(["a b"], 2, SIZE), hashed_ngrams(["a a"], 2, SIZE)
    ratios = log_ratios(target.buckets, raw.buckets, SIZE)
    a, b, ab = raw.buckets
    aa = target.buckets[2]
    assert ratios[a] == pytest.approx(0.6931, abs=1e-4)
    assert ratios[[b, ab]] == pytest.approx([-17.3221] * 2, abs=1e-4)
    assert ratios[aa] == pytest.approx(17.3221, abs=1e-4)
    assert row_sums(raw, ratios) == pytest.approx([-33.951], abs=1e-3)
    assert row_sums(target, ratios) == pytest.approx([18.708], abs=1e-3)


def test_smoothing_gives_a_bucket_that_the_target_lacks_a_share():
    # 2 buckets, counts 3 and 0, one added to each: 4/5 and 1/5 against 1/2 and 1/2
    ratios = log_ratios(np.array([0, 0, 0]), np.array([0, 1]), 2, smoothing=1.0)
    assert ratios == pytest.approx(np.log([8 / 5, 2 / 5]), abs=1e-7)


@pytest.mark.parametrize(
    "settings", [{}, {"ngrams": 1}, {"ngrams": 3, "num_buckets": 64}, {"smoothing": 0.5}]
)
def test_scores_are_those_of_the_straight_line(settings):
    task, _ = planted_task()
    straight = log_weights(
        # "all": an empty prompt, a newline, the response
        ["\n" + task.samples[row.id].completion[0].content for row in task.pool],
        ["\n" + task.samples[row.id].completion[0].content for row in task.safe],
        longest=settings.get("ngrams", 2),
        size=settings.get("num_buckets", SIZE),
        smoothing=settings.get("smoothing", 0.0),
    )
    ranking = Dsir(**settings).rank(task)
    np.testing.assert_allclose(ranking.scores, straight, rtol=1e-9)
    np.testing.assert_array_equal(ranking.columns["log_weight"], ranking.scores)


def test_a_planted_topic_is_found():
    task, is_other = planted_task()
    assert auroc(Dsir().rank(task).scores, is_other).value > 0.95


def test_a_copy_twice_as_long_has_twice_the_weight_and_the_same_mean():
    pool = {"long": "wave " * 8, "short": "wave " * 4, "other": "lamp bus"}
    task = task_of(pool, {"s": "wave"})
    total = Dsir(ngrams=1).rank(task).by_id()
    mean = Dsir(ngrams=1, length_normalised=True).rank(task).by_id()
    assert total["long"] == pytest.approx(2 * total["short"])
    assert mean["long"] == pytest.approx(mean["short"])
    assert mean["short"] == pytest.approx(total["short"] / 4)
    assert mean["short"] > 0 > mean["other"]


def test_only_the_turns_asked_for_are_read():
    asks = task_of({"sea": "wave tide", "city": "lamp bus"}, {"s": "wave tide"}, prompts=True)
    by_prompt = Dsir(text="prompt").rank(asks).by_id()
    assert by_prompt["sea"] > 1 > -1 > by_prompt["city"]
    # all responses are "Yes."
    assert set(Dsir(text="response").rank(asks).by_id().values()) == {0.0}
    both = Dsir(text="all").rank(asks)
    assert dict(zip(both.ids, both.columns["num_ngrams"].tolist(), strict=True)) == {
        "sea": 4 + 3,
        "city": 4 + 3,
    }


def test_a_text_without_a_word_weighs_nothing():
    task = task_of({"none": " \n", "some": "lamp"}, {"s": "wave"})
    for normalised in (False, True):
        assert Dsir(length_normalised=normalised).rank(task).by_id()["none"] == 0


def test_a_safe_set_without_a_word_is_refused():
    with pytest.raises(ValueError, match=r"rank\.text=response: the 1 samples .* rank\.text=all"):
        Dsir(text="response").rank(task_of({"p": "lamp"}, {"s": " "}))


# --- noise --------------------------------------------------------------------------------------


def test_noise_depends_on_seed_and_id_alone():
    task, _ = planted_task()
    plain = Dsir().rank(task).by_id()
    noisy = Dsir(noise="gumbel", seed=5).rank(task)
    assert noisy.columns["log_weight"].tolist() == list(plain.values())
    fewer = task_of({"p007": "wave"}, {"s": "tide"})
    noise = Dsir(noise="gumbel", seed=5).rank(fewer).scores - Dsir().rank(fewer).scores
    assert noise == pytest.approx(noisy.by_id()["p007"] - plain["p007"])
    assert Dsir(noise="gumbel", seed=6).rank(task).by_id()["p007"] != noisy.by_id()["p007"]


def test_noise_is_gumbel():
    pool = {f"p{i}": "" for i in range(20_000)}
    scores = Dsir(noise="gumbel").rank(task_of(pool, {"s": "tide"})).scores
    # mean: Euler's gamma; variance: pi^2 / 6; five standard errors
    assert scores.mean() == pytest.approx(np.euler_gamma, abs=5 * 1.283 / 20_000**0.5)
    assert scores.var() == pytest.approx(np.pi**2 / 6, rel=0.1)
    assert np.median(scores) == pytest.approx(-np.log(np.log(2)), abs=0.06)


# --- speed --------------------------------------------------------------------------------------


def test_five_thousand_rows_take_seconds():
    words = [f"word{i}" for i in range(3000)]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(5000)]
    start = time.process_time()
    hashed_ngrams(texts, 2, SIZE)
    assert time.process_time() - start < 5
