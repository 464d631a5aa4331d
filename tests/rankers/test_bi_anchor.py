import numpy as np
import pytest

from rankers.conftest import encoded, make_harmful, make_pool, make_safe
from rankers.strong_model import strengthened
from reference.representation_rankers import bi_anchor
from seal.rankers.bi_anchor import BiAnchor
from seal.rankers.ranker import Cost, RankingTask, Sizes
from seal.rankers.representations import cosines, top_mean


@pytest.fixture
def strong_lm(lm):
    return strengthened(lm)


def rank(lm, harmful=None, pool=None, **settings):
    harmful = make_harmful() if harmful is None else harmful
    pool = make_pool() if pool is None else pool
    return BiAnchor(**settings).rank(RankingTask(lm, pool, make_safe(), harmful))


def test_worked_example():
    """Cosines (.9, .1) and (.6, .6): the first is riskier by its nearest, the second by both."""
    anchors = np.eye(3)
    rows = np.array([[0.9, 0.1, np.sqrt(0.18)], [0.6, 0.6, np.sqrt(0.28)]])
    found = cosines(rows, anchors)[:, :2]
    np.testing.assert_allclose(found, [[0.9, 0.1], [0.6, 0.6]])
    np.testing.assert_allclose(top_mean(found, 1), [0.9, 0.6])
    np.testing.assert_allclose(top_mean(found, 2), [0.5, 0.6])


@pytest.mark.parametrize(("avg", "safe_weight"), [(1, 0), (3, 0), (1, 1), (2, 0.5), (4, 1)])
def test_equals_the_straight_line_version(strong_lm, avg, safe_weight):
    ranking = rank(strong_lm, avg=avg, safe_weight=safe_weight)
    expected = bi_anchor(
        strong_lm.model, make_pool(), make_harmful(), make_safe(), avg, safe_weight
    )
    risk = [expected[key] for key in ranking.ids]
    np.testing.assert_allclose(ranking.scores, np.negative(risk), atol=1e-5)
    np.testing.assert_allclose(ranking.columns["risk"], risk, atol=1e-5)
    assert np.ptp(risk) > 1e-3


def test_all_anchors_are_the_plain_mean(strong_lm):
    each = [rank(strong_lm, harmful=[row]).columns["harmful_similarity"] for row in make_harmful()]
    ranking = rank(strong_lm, avg=4)
    np.testing.assert_allclose(ranking.columns["risk"], np.mean(each, axis=0), atol=1e-9)


def test_an_anchor_in_the_pool_is_riskiest_with_risk_1(strong_lm):
    pool = [*make_pool(), encoded("anchor", [2, 141, 1, 3], [40, 41, 42, 1])]
    ranking = rank(strong_lm, pool=pool)
    assert ranking.best_first()[-1] == "anchor"
    assert ranking.by_id()["anchor"] == pytest.approx(-1, abs=1e-6)
    assert np.sort(ranking.scores)[1] > -1 + 1e-6


def test_planted_samples_rank_below_good_ones(strong_lm):
    best_first = rank(strong_lm, avg=4, safe_weight=1).best_first()
    assert {key.split("-")[0] for key in best_first[:8]} == {"good"}


def test_the_safe_set_is_read_only_where_it_counts(strong_lm):
    one, both = rank(strong_lm), rank(strong_lm, safe_weight=0.5)
    assert one.columns.keys() == {"risk", "harmful_similarity"}
    assert both.columns.keys() == {"risk", "harmful_similarity", "safe_similarity"}
    np.testing.assert_array_equal(
        both.columns["harmful_similarity"], one.columns["harmful_similarity"]
    )
    np.testing.assert_allclose(
        both.scores, one.scores + 0.5 * both.columns["safe_similarity"], atol=1e-12
    )


def test_anchors_are_thinned_out(strong_lm):
    singles = [rank(strong_lm, harmful=[row]).scores for row in make_harmful()]
    drawn = rank(strong_lm, max_anchors=1).scores
    assert sum(np.allclose(drawn, single, atol=1e-9) for single in singles) == 1


def test_harmful_references_are_needed(lm):
    with pytest.raises(ValueError, match=r"rank.method=bi_anchor needs harmful .* harmful.path"):
        rank(lm, harmful=[])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"avg": 5}, "rank.avg=5: there are only 4 harmful anchors"),
        ({"avg": 3, "max_anchors": 2}, "rank.avg=3: there are only 2 harmful anchors"),
    ],
)
def test_more_than_all_anchors_are_refused(lm, settings, message):
    with pytest.raises(ValueError, match=message):
        rank(lm, **settings)


def test_cost_counts_the_anchors_that_are_used():
    sizes = Sizes(pool=1000, safe=300, harmful=80, num_pool=50, num_safe=30, num_harmful=4)
    assert BiAnchor(max_anchors=10).cost(sizes) == Cost(forward=1000 + 80)
    assert BiAnchor(max_anchors=10, safe_weight=1).cost(sizes) == Cost(forward=1000 + 80 + 100)
