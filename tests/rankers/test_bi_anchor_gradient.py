import numpy as np
import pytest
import torch
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from rankers.conftest import encoded, make_harmful, make_pool, make_safe
from rankers.strong_model import strengthened
from reference.gradient_anchors import bi_anchor_gradient
from seal.models import LanguageModel, ModelSpec, load_model
from seal.rankers.bi_anchor_gradient import BiAnchorGradient, anchor_risk, first_tokens
from seal.rankers.draws import draw_rows
from seal.rankers.ranker import Cost, RankingTask, Sizes

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TAKES = {"linear": lambda name: any(part in name for part in LINEAR), "all": lambda _: True}


def rows(name: str, num: int, seed: int):
    """Prompts and answers of many lengths, made of random tokens."""
    rng = np.random.default_rng(seed)
    return [
        encoded(
            f"{name}-{i}",
            [2, *rng.integers(5, 300, 3 + i % 4), 3],
            rng.integers(5, 300, 2 + 3 * i % 17).tolist(),
        )
        for i in range(num)
    ]


def fresh(folder, dtype="float32"):
    return load_model(ModelSpec(path=str(folder), dtype=dtype))


def rank(lm, pool=None, harmful=None, safe=None, **settings):
    task = RankingTask(
        lm,
        make_pool() if pool is None else pool,
        make_safe() if safe is None else safe,
        make_harmful() if harmful is None else harmful,
    )
    return BiAnchorGradient(**settings).rank(task)


def test_worked_example():
    """The first row of the published GSM8K index; all four are numbers of bf16."""
    risk = anchor_risk(np.array([0.07861328125]), np.array([[0.02001953125], [0.0234375]]))
    assert risk.tolist() == [0.03515625]


@pytest.mark.parametrize("weights", ["linear", "all"])
@pytest.mark.parametrize("anchor_tokens", [10, 2, None])
def test_equals_the_straight_line_version(tiny_model_dir, weights, anchor_tokens):
    pool, harmful, safe = rows("pool", 9, 0), rows("bad", 5, 1), rows("good", 6, 2)
    ranking = rank(
        strengthened(fresh(tiny_model_dir)), pool, harmful, safe,
        weights=weights, anchor_tokens=anchor_tokens, micro_batch_size=4,
    )  # fmt: skip
    dealt = sorted(safe, key=lambda row: row.input_ids[: np.argmax(row.response_mask)].tolist())
    expected = bi_anchor_gradient(
        strengthened(fresh(tiny_model_dir)).model, pool, harmful, dealt[::2], dealt[1::2],
        anchor_tokens, TAKES[weights],
    )  # fmt: skip
    values = np.array([expected[key] for key in ranking.ids]).T
    np.testing.assert_allclose(ranking.scores, -values[0], atol=1e-5)
    assert list(ranking.columns) == [
        "risk", "harmful_similarity", "safe_similarity_1", "safe_similarity_2",
    ]  # fmt: skip
    for column, value in zip(ranking.columns.values(), values, strict=True):
        np.testing.assert_allclose(column, value, atol=1e-5)
    assert np.ptp(values, axis=1).min() > 0.01


def test_the_two_sets_of_weights_differ(tiny_model_dir):
    linear, whole = (
        rank(strengthened(fresh(tiny_model_dir)), weights=weights).scores
        for weights in ("linear", "all")
    )
    assert np.abs(linear - whole).max() > 0.01


def test_a_row_that_is_the_one_harmful_anchor(lm):
    (anchor,) = make_harmful(1)
    ranking = rank(lm, pool=[*make_pool(), anchor], harmful=[anchor])
    assert ranking.columns["harmful_similarity"][ranking.ids.index(anchor.id)] == pytest.approx(1)
    assert ranking.columns["harmful_similarity"].max() <= 1 + 1e-5


def test_planted_samples_rank_below_good_ones(lm):
    best_first = rank(lm).best_first()
    assert {key.split("-")[0] for key in best_first[:8]} == {"good"}


def test_micro_batches_change_memory_only(tiny_model_dir):
    pool = rows("pool", 9, 0)
    first, *others = (
        rank(fresh(tiny_model_dir), pool, micro_batch_size=size).scores for size in (1, 4, 9)
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_the_length_of_a_gradient_does_not_count(tiny_model_dir):
    """A mean of unit gradients: an anchor as heavy as ten others weighs no more than one."""
    harmful = rows("bad", 2, 1)
    both = rank(fresh(tiny_model_dir), harmful=harmful).columns["harmful_similarity"]
    each = [
        rank(fresh(tiny_model_dir), harmful=[row]).columns["harmful_similarity"] for row in harmful
    ]
    np.testing.assert_allclose(both, np.mean(each, axis=0), atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 0.01


@pytest.mark.parametrize("weights", ["linear", "all"])
def test_only_the_first_tokens_of_an_anchor_count(tiny_model_dir, weights):
    start, ends = [30, 31, 32], ([33, 34], [90, 91])

    def ranked(end, num, pool):
        harmful = [encoded("bad", [2, 9, 3], start + end)]
        return rank(fresh(tiny_model_dir), pool, harmful, weights=weights, anchor_tokens=num).scores

    pool = make_pool(4)
    np.testing.assert_array_equal(ranked(ends[0], 3, pool), ranked(ends[1], 3, pool))
    assert np.abs(ranked(ends[0], 4, pool) - ranked(ends[1], 4, pool)).max() > 1e-4
    longer = [encoded("x", [2, 60, 3], start + end) for end in ends]  # of a pool row all count
    one, other = (float(ranked(ends[0], 3, [row])[0]) for row in longer)
    assert abs(one - other) > 1e-4


def test_first_tokens_by_hand():
    row = encoded("a", [2, 9], [5, 6, 7])
    assert first_tokens(row, 2).input_ids.tolist() == [2, 9, 5, 6]
    assert first_tokens(row, 2).response_mask.tolist() == [False, False, True, True]
    assert first_tokens(row, 3) is row
    assert first_tokens(row, None) is row


def test_of_two_answers_to_a_prompt_either_set_gets_one(lm):
    """Refusals of both kinds under the same prompts: the first kind in one set, and so on."""
    kinds = [[20, 21, 22, 1], [50, 51, 1]]
    safe = [
        encoded(f"{'ab'[k]}-{i}", [2, 100 + i, 3], kind)
        for k, kind in enumerate(kinds)
        for i in range(3)
    ]
    ranking = rank(lm, pool=[encoded("x", [2, 9, 3], kinds[0])], safe=safe)
    for k in (0, 1):
        alone = rank(lm, pool=[encoded("x", [2, 9, 3], kinds[0])], safe=[safe[3 * k]] * 2)
        near = alone.columns["safe_similarity_1"][0]
        assert ranking.columns[f"safe_similarity_{k + 1}"][0] == pytest.approx(near, abs=0.05)
    first, second = (ranking.columns[f"safe_similarity_{k}"][0] for k in (1, 2))
    assert first > second + 0.05


def test_anchors_are_thinned_out(tiny_model_dir):
    drawn = rank(fresh(tiny_model_dir), max_anchors=2)
    few = rank(
        fresh(tiny_model_dir),
        harmful=draw_rows(make_harmful(), 2, seed=0),
        safe=draw_rows(make_safe(), 4, seed=0),
    )
    np.testing.assert_array_equal(drawn.scores, few.scores)
    assert np.abs(drawn.scores - rank(fresh(tiny_model_dir)).scores).max() > 1e-4


def test_harmful_references_and_two_safe_samples_are_needed(lm):
    with pytest.raises(ValueError, match=r"rank.method=bi_anchor_gradient needs harmful"):
        rank(lm, harmful=[])
    with pytest.raises(ValueError, match=r"needs at least 2 safe samples.*; there are 1\. Give"):
        rank(lm, safe=make_safe(1))


@pytest.mark.parametrize("weights", ["linear", "all"])
def test_a_gradient_that_is_not_finite_names_the_sample(lm, weights):
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[65] = float("nan")  # the prompt of planted-05
    pattern = r"gradient of \d samples is not finite: .*planted-05"
    harmful, safe = [encoded("b", [2, 9, 3], [7, 4])], [encoded("s", [2, 9, 3], [5])] * 2
    lm.model.lm_head.weight = nn.Parameter(torch.ones_like(lm.model.lm_head.weight))
    with pytest.raises(ValueError, match=pattern):
        rank(lm, harmful=harmful, safe=safe, weights=weights, micro_batch_size=1)


def test_layers_that_see_all_samples_in_one_list_are_refused(lm):
    class Inner(nn.Module):
        def __init__(self, layer):
            nn.Module.__init__(self)
            self.layer = layer

        def forward(self, states):
            return self.layer(states.flatten(0, 1)).view(*states.shape[:2], -1)

    block = lm.model.model.layers[0]
    block.mlp.up_proj = Inner(block.mlp.up_proj)
    with pytest.raises(ValueError, match=r"rank\.weights=linear: .*in one list.*weights=all"):
        rank(lm)
    assert len(rank(lm, weights="all").ids) == 16


def test_a_bfloat16_model_gives_no_mass_of_ties(tiny_model_dir):
    for weights in ("linear", "all"):
        lm = strengthened(fresh(tiny_model_dir, "bfloat16"))
        assert isinstance(lm, LanguageModel)
        assert len(np.unique(rank(lm, rows("pool", 16, 0), weights=weights).scores)) == 16


def test_cost_counts_the_anchors_that_are_used():
    sizes = Sizes(pool=1000, safe=300, harmful=80, num_pool=50, num_safe=30, num_harmful=4)
    assert BiAnchorGradient(max_anchors=10).cost(sizes) == Cost(trained=1000 + 200 + 80)


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_a_weight_that_is_used_without_its_layer_counts_too(caplog, micro_batch_size):
    """Mamba multiplies with the weight of `dt_proj`, whose layer is never called."""

    def mamba() -> LanguageModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = MambaConfig(vocab_size=320, hidden_size=24, num_hidden_layers=2, state_size=4)
            return LanguageModel(strengthened_weights(MambaForCausalLM(config)), None, None, 0)

    pool, harmful, safe = rows("pool", 5, 0), rows("bad", 3, 1), rows("good", 4, 2)
    ranking = rank(mamba(), pool, harmful, safe, micro_batch_size=micro_batch_size)
    dealt = sorted(safe, key=lambda row: row.input_ids[: np.argmax(row.response_mask)].tolist())
    layers = ("in_proj", "x_proj", "dt_proj.weight", "out_proj")
    expected = bi_anchor_gradient(
        mamba().model, pool, harmful, dealt[::2], dealt[1::2], 10,
        lambda name: any(part in name for part in layers),
    )  # fmt: skip
    risks = [expected[key][0] for key in ranking.ids]
    np.testing.assert_allclose(ranking.scores, [-risk for risk in risks], atol=1e-5)
    assert "uses the weights of dt_proj other than by calling" in caplog.text


def strengthened_weights(model):
    for value in model.parameters():
        if value.dim() == 2:
            value.data *= 3
    return model.eval()
