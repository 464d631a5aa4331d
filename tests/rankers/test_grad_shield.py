import copy

import numpy as np
import pytest
import torch

from rankers.conftest import make_pool, make_safe, make_task
from reference.published_seal import row_loss
from seal.models import LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers.draws import draw_rows
from seal.rankers.grad_shield import GradShield, up_to_response
from seal.rankers.ranker import Cost, RankingTask, Sizes

LORA = LoraSpec(r=3, alpha=6, target_modules="all-linear")


def fresh(folder):
    return load_model(ModelSpec(path=str(folder)))


def ranked(folder, pool=None, safe=None, **fields):
    task = make_task(fresh(folder), pool or make_pool(), safe or make_safe(), [])
    return GradShield(**{"lora": LORA, **fields}).rank(task)


def raw(rows):
    return [(row.input_ids.tolist(), row.response_mask.tolist()) for row in rows]


def probe_value(model, probe, safe, yes_no):
    """S, written out."""
    if probe == "safe_loss":
        return float(row_loss(model, raw(safe)).mean())
    yes, no = yes_no
    margins = []
    for row in safe:
        prompt = torch.from_numpy(row.input_ids[: int(row.response_mask.argmax())]).long()
        logits = model(input_ids=prompt[None]).logits[0, -1]
        margins.append(float(logits[yes] - logits[no]))
    return sum(margins) / len(margins)


def start_model(folder, init_scale):
    """The model of the ranker, made here: an adapter, and noise in B where it is asked for."""
    model = add_lora(fresh(folder).model, LORA, seed=0).eval().double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name and init_scale:
            parameter.data.copy_(init_scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("init_scale", [0.0, 0.2])
@pytest.mark.parametrize("probe", ["safe_loss", "tokens"])
def test_fihs_predicts_how_one_step_moves_the_probe(tiny_model_dir, probe, init_scale):
    pool, safe = make_pool(6), make_safe()
    ranking = ranked(tiny_model_dir, pool, safe, probe=probe, init_scale=init_scale)
    yes_no = GradShield().first_tokens(fresh(tiny_model_dir))
    start = start_model(tiny_model_dir, init_scale)
    rate = 1e-4
    changes = []
    for row in pool:
        model = copy.deepcopy(start)
        row_loss(model, raw([row]))[0].backward()
        with torch.no_grad():
            before = probe_value(model, probe, safe, yes_no)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter -= rate * parameter.grad
            changes.append((probe_value(model, probe, safe, yes_no) - before) / rate)
    fihs = dict(zip(ranking.ids, ranking.columns["fihs"], strict=True))
    predicted = np.array([fihs[row.id] for row in pool])
    assert np.abs(changes).min() > 1e-4
    np.testing.assert_array_equal(np.sign(predicted), np.sign(changes))
    np.testing.assert_allclose(predicted, changes, rtol=0.02, atol=1e-4)


def test_planted_samples_sink(tiny_model_dir):
    best = ranked(tiny_model_dir).best_first()
    assert all(key.startswith("good") for key in best[:8]), best


def test_risk_is_the_cosine_or_the_dot(tiny_model_dir):
    cosine = ranked(tiny_model_dir)
    dot = ranked(tiny_model_dir, normalise=False)
    np.testing.assert_array_equal(dot.scores, -dot.columns["fihs"])
    np.testing.assert_array_equal(cosine.columns["fihs"], dot.columns["fihs"])
    for ranking in (cosine, dot):
        np.testing.assert_array_equal(ranking.scores, -ranking.columns["risk"])
    ratios = dot.scores / cosine.scores / cosine.columns["grad_norm"]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)  # the norm of the probe's gradient
    assert np.abs(cosine.scores).max() <= 1
    twin = ranked(tiny_model_dir, safe=[make_pool(2)[0]])  # the probe is a pool sample itself
    assert twin.by_id()["good-00"] == pytest.approx(1, abs=1e-5)


def test_only_b_is_used_at_the_aligned_model(tiny_model_dir):
    """A's gradients are 0 there, so leaving them out must change nothing."""
    ranking = ranked(tiny_model_dir, normalise=False)
    model = add_lora(fresh(tiny_model_dir).model, LORA, seed=0).eval()
    theta = [p for p in model.parameters() if p.requires_grad]

    def gradient(rows):
        grads = torch.autograd.grad(row_loss(model, raw(rows)).mean(), theta)
        return torch.cat([g.flatten() for g in grads])

    probe = gradient(make_safe())
    for row in make_pool():
        assert ranking.by_id()[row.id] == pytest.approx(float(probe @ gradient([row])), rel=1e-4)


def test_the_probes_are_drawn(tiny_model_dir):
    safe = make_safe()
    drawn = draw_rows(safe, 2, seed=0, stream="probes")
    few = ranked(tiny_model_dir, safe=safe, num_probes=2)
    np.testing.assert_array_equal(few.scores, ranked(tiny_model_dir, safe=drawn).scores)
    assert np.abs(few.scores - ranked(tiny_model_dir, safe=safe).scores).max() > 1e-3


def test_the_tokens_are_those_that_start_a_response(lm):
    def ids(text):
        return lm.tokenizer(text, add_special_tokens=False)["input_ids"]

    assert GradShield().first_tokens(lm) == (ids("Sure")[0], ids("I")[0])
    swapped = GradShield(yes_word="I", no_word="Sure").first_tokens(lm)
    assert swapped == (ids("I")[0], ids("Sure")[0])


def test_swapped_words_turn_the_ranking_around(tiny_model_dir):
    plain = ranked(tiny_model_dir, probe="tokens")
    swapped = ranked(tiny_model_dir, probe="tokens", yes_word="I", no_word="Sure")
    np.testing.assert_allclose(plain.scores, -swapped.scores, atol=1e-6)


def test_words_that_start_alike_are_refused(tiny_model_dir):
    with pytest.raises(ValueError, match=r"rank\.yes_word=Sure and rank\.no_word=Sun start with"):
        ranked(tiny_model_dir, probe="tokens", no_word="Sun")


def test_the_probe_does_not_see_the_response():
    row = make_pool(1)[0]
    cut = up_to_response(row)
    assert cut.input_ids.tolist() == [2, 60, 1, 3, 20]
    assert cut.response_mask.tolist() == [False] * 4 + [True]


def test_a_probe_that_nothing_moves_is_refused(tiny_model_dir):
    lm = fresh(tiny_model_dir)
    with torch.no_grad():  # every logit is the same number, whatever the adapter does
        lm.model.lm_head.weight.zero_()
    with pytest.raises(ValueError, match=r"rank\.probe=tokens: the gradient of the probe is 0"):
        GradShield(lora=LORA, probe="tokens").rank(RankingTask(lm, make_pool(), make_safe()))


def test_cost():
    sizes = Sizes(pool=1000, safe=200, harmful=0, num_pool=100, num_safe=20, num_harmful=0)
    assert GradShield(num_probes=5).cost(sizes) == Cost(trained=1050)
    assert GradShield().cost(sizes) == Cost(trained=1200)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"lora\.dropout=0.1 has no place"):
        GradShield(lora=LoraSpec(dropout=0.1))
