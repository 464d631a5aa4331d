import numpy as np
import pytest

from rankers.conftest import encoded, make_pool, make_safe
from rankers.strong_model import strengthened
from reference.representation_rankers import rds_similarities, round_robin
from seal.rankers.ranker import Cost, RankingTask, Sizes
from seal.rankers.rds import Rds, pick_places

TARGETS = [
    encoded("t-0", [2, 100, 1, 3], [20, 21, 22, 1]),
    encoded("t-1", [2, 101, 1, 3], [40, 41, 1]),
    encoded("t-2", [2, 102], [60, 61, 62, 63, 1]),
]


@pytest.fixture
def strong_lm(lm):
    return strengthened(lm)


def rank(lm, pool=None, safe=TARGETS, **settings):
    return Rds(**settings).rank(RankingTask(lm, make_pool() if pool is None else pool, safe))


def test_equals_the_straight_line_version(strong_lm):
    expected = rds_similarities(strong_lm.model, make_pool(), TARGETS)
    ranking = rank(strong_lm)
    np.testing.assert_allclose(
        ranking.scores, [max(expected[key]) for key in ranking.ids], atol=1e-5
    )
    np.testing.assert_array_equal(ranking.columns["similarity"], ranking.scores)
    nearest = [int(np.argmax(expected[key])) for key in ranking.ids]
    assert ranking.columns["nearest_target"].tolist() == nearest
    assert len(set(nearest)) > 1


def test_round_robin_is_the_order_in_which_targets_pick(strong_lm):
    expected = rds_similarities(strong_lm.model, make_pool(), TARGETS)
    ranking = rank(strong_lm, pick="round_robin")
    assert ranking.best_first() == round_robin(expected, 3, 16)
    assert ranking.best_first() != rank(strong_lm).best_first()
    np.testing.assert_allclose(ranking.columns["similarity"], rank(strong_lm).scores, atol=1e-12)


def test_picks_by_hand():
    """Two targets, four samples. Target 0 takes a; target 1 wants a too, and takes c; ..."""
    nearness = np.array([[0.9, 0.8], [0.7, 0.1], [0.6, 0.7], [0.5, 0.2]])
    assert pick_places(nearness).tolist() == [1, 3, 2, 4]


def test_equal_samples_are_picked_in_turn():
    assert pick_places(np.zeros((4, 3))).tolist() == [1, 2, 3, 4]
    assert pick_places(np.zeros((1, 3))).tolist() == [1]


def test_picks_are_those_of_the_plain_search():
    nearness = np.random.default_rng(0).integers(0, 6, (60, 7)) / 6  # with ties
    keys = [f"{place:02d}" for place in range(60)]
    picked = round_robin(dict(zip(keys, nearness, strict=True)), 7, 60)
    assert [keys[place] for place in np.argsort(pick_places(nearness))] == picked


def test_round_robin_covers_every_target(strong_lm):
    """A copy of each target in the pool: the first picks, in the order of the targets."""
    copies = [
        encoded(f"copy-{place}", ids[:2], ids[2:])
        for place, ids in enumerate(row.input_ids.tolist() for row in TARGETS)
    ]
    ranking = rank(strong_lm, pool=[*make_pool(), *copies], pick="round_robin")
    assert ranking.best_first()[:3] == ["copy-0", "copy-1", "copy-2"]
    np.testing.assert_array_equal(np.sort(ranking.scores), np.arange(-19.0, 0))


def test_a_target_in_the_pool_ranks_first_with_score_1(strong_lm):
    pool = [*make_pool(), encoded("copy", [2, 102], [60, 61, 62, 63, 1])]
    ranking = rank(strong_lm, pool=pool)
    assert ranking.best_first()[0] == "copy"
    assert ranking.by_id()["copy"] == pytest.approx(1, abs=1e-6)
    assert np.sort(ranking.scores)[-2] < 1 - 1e-6


def test_the_last_token_says_more_than_the_first(lm):
    """Under a model in which a state is little more than its token."""
    same = list(range(60, 70))
    pool = [
        encoded("first-changed", [40, *same[1:5]], same[5:]),
        encoded("last-changed", same[:5], [*same[5:-1], 40]),
    ]
    scores = rank(lm, pool=pool, safe=[encoded("t", same[:5], same[5:])]).by_id()
    assert scores["first-changed"] > scores["last-changed"]


def test_planted_samples_rank_below_good_ones(lm):
    best_first = rank(lm, safe=make_safe()).best_first()
    assert {key.split("-")[0] for key in best_first[:8]} == {"good"}


def test_company_in_the_batch_changes_nothing(strong_lm):
    """The released code weighs padding too."""
    long = [encoded(f"long-{i}", [2, 60 + i], [30] * 40) for i in range(8)]
    alone, among = rank(strong_lm).by_id(), rank(strong_lm, pool=[*make_pool(), *long]).by_id()
    for key, score in alone.items():
        assert among[key] == pytest.approx(score, abs=1e-6)


def test_targets_are_thinned_out(strong_lm):
    singles = [rank(strong_lm, safe=[row]).scores for row in TARGETS]
    drawn = rank(strong_lm, max_anchors=1).scores
    assert sum(np.allclose(drawn, single, atol=1e-9) for single in singles) == 1


def test_it_needs_no_harmful_references_and_cost_counts_the_targets_used():
    sizes = Sizes(pool=1000, safe=300, harmful=80, num_pool=50, num_safe=30, num_harmful=4)
    assert Rds(max_anchors=10).cost(sizes) == Cost(forward=1000 + 100)
