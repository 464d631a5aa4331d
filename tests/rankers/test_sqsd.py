import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from rankers.conftest import make_harmful, make_pool, make_safe, make_task
from reference.published_seal import row_loss
from seal.models import LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers import gradients, levels
from seal.rankers.ranker import Cost, RankingTask, Sizes
from seal.rankers.sqsd import Factors, Sqsd, update_cosine

LORA = LoraSpec(r=4, alpha=4, target_modules="all-linear")
SMALL = {"lora": LORA, "epochs": 3, "batch_size": 2, "learning_rate": 3e-3}


def fresh(folder):
    return load_model(ModelSpec(path=str(folder)))


def ranked(folder, pool=None, safe=None, harmful=None, **fields):
    task = make_task(
        fresh(folder), pool or make_pool(), safe or make_safe(), harmful or make_harmful()
    )
    return Sqsd(**{**SMALL, **fields}).rank(task)


def factors(a, b):
    return Factors(torch.tensor(a), torch.tensor(b))


def random_case(num=5, d_in=7, d_out=6, r=3, r_direction=2):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    gradient = Factors(draw(num, r, d_in), draw(num, d_out, r))
    state = Factors(draw(r, d_in), draw(d_out, r))
    return gradient, state, Factors(draw(r_direction, d_in), draw(d_out, r_direction))


# --- the cosine ---------------------------------------------------------------------------------


def test_a_module_of_one_number_by_hand():
    gradient, state = factors([[[0.0]]], [[[2.0]]]), factors([[1.0]], [[0.0]])  # dV = -2
    danger = float(update_cosine(gradient, state, factors([[1.0]], [[1.0]])))  # V = +1
    safety = float(update_cosine(gradient, state, factors([[1.0]], [[-1.0]])))  # V = -1
    assert (danger, safety) == (-1, 1)
    assert danger - safety == -2  # SQSD: a safe sample


def test_low_rank_is_dense():
    gradient, state, direction = random_case()
    found = update_cosine(gradient, state, direction)
    dense = direction.b @ direction.a
    for place in range(5):
        step = -(gradient.b[place] @ state.a + state.b @ gradient.a[place])
        cosine = torch.cosine_similarity(step.flatten(), dense.flatten(), dim=0)
        assert float(found[place]) == pytest.approx(float(cosine), abs=1e-5)
    assert found.abs().min() > 0.01


def test_the_cosine_knows_no_scale():
    gradient, state, direction = random_case()
    found = update_cosine(gradient, state, direction)
    for scale in (1e-9, 1e4):
        scaled = Factors(scale * gradient.a, scale * gradient.b)
        torch.testing.assert_close(update_cosine(scaled, state, direction), found)
    torch.testing.assert_close(
        update_cosine(gradient, state, Factors(-direction.a, direction.b)), -found
    )


def test_nothing_pulls_nowhere():
    gradient, state, direction = random_case()
    none = Factors(torch.zeros_like(direction.a), direction.b)
    assert (update_cosine(gradient, state, none) == 0).all()
    still = Factors(torch.zeros_like(gradient.a), torch.zeros_like(gradient.b))
    assert (update_cosine(still, state, direction) == 0).all()


# --- the ranker ---------------------------------------------------------------------------------


@pytest.mark.parametrize("danger_state", ["aligned", "danger"])
def test_planted_samples_sink(tiny_model_dir, danger_state):
    ranking = ranked(tiny_model_dir, danger_state=danger_state)
    best = ranking.best_first()
    assert all(key.startswith("good") for key in best[:8]), best
    np.testing.assert_array_equal(ranking.scores, -ranking.columns["sqsd"])
    np.testing.assert_allclose(
        ranking.columns["sqsd"], ranking.columns["danger"] - ranking.columns["safety"]
    )
    danger = dict(zip(ranking.ids, ranking.columns["danger"], strict=True))
    assert danger["planted-01"] > danger["good-00"]


def test_swapped_sets_flip_the_sign(tiny_model_dir):
    """With both gradients taken at the adapter itself, at its own scale, the two are alike."""
    even = {"danger_state": "danger", "safety_scaling": None}
    plain = ranked(tiny_model_dir, **even)
    swapped = ranked(tiny_model_dir, safe=make_harmful(), harmful=make_safe(), **even)
    np.testing.assert_allclose(plain.scores, -swapped.scores, atol=1e-6)
    assert np.abs(plain.scores).min() > 1e-3


def test_the_size_of_a_loss_does_not_count(tiny_model_dir, monkeypatch):
    """What is divided by the length of a response, or not, gives the same ranking."""
    plain = ranked(tiny_model_dir)
    each = gradients.SampleGradients.each

    def scaled(self, rows, value=gradients.response_loss):
        for places, found in each(self, rows, value):
            factors = torch.tensor([10.0 ** (int(rows[i].id[-2:]) - 8) for i in places])
            yield places, found * factors[:, None]

    monkeypatch.setattr(gradients.SampleGradients, "each", scaled)
    np.testing.assert_allclose(ranked(tiny_model_dir).scores, plain.scores, atol=1e-4)


@pytest.fixture
def models(monkeypatch):
    """The models that adapters are put on: a ranker keeps its own to itself."""
    made = []

    def remember(model, lora, *, seed, name="default"):
        made.append(add_lora(model, lora, seed=seed, name=name))
        return made[-1]

    monkeypatch.setattr(levels, "add_lora", remember)
    return made


def dense_pull(model, row, at, direction):
    """sum_m cos(dV_m, V_m) from dense matrices, autograd on one row."""
    model.set_adapter(at)
    model.zero_grad()
    row_loss(model, [(row.input_ids.tolist(), row.response_mask.tolist())])[0].backward()
    total = 0.0
    for module in lora_layers(model):
        a, b = module.lora_A[at].weight, module.lora_B[at].weight
        step = -(b.grad @ a + b @ a.grad).detach()
        aim = (module.lora_B[direction].weight @ module.lora_A[direction].weight).detach()
        total += float(torch.cosine_similarity(step.flatten(), aim.flatten(), dim=0))
    return total


def lora_layers(model):
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def test_where_the_gradients_are_taken(tiny_model_dir, models):
    """The aligned model for danger; for safety its own adapter, at the scale that is asked for."""
    pool = make_pool(4)
    lora = LoraSpec(r=2, alpha=6, target_modules=("q_proj", "down_proj"))
    task = make_task(fresh(tiny_model_dir), pool, make_safe(), make_harmful())
    ranking = Sqsd(**{**SMALL, "lora": lora}, safety_scaling=0.8, seed=3).rank(task)
    model = models[0]
    add_lora(model, lora, seed=3, name="again").eval()  # B = 0: the aligned model
    for module in lora_layers(model):
        assert (module.scaling["theta"], module.scaling["theta_hat"]) == (3, 0.8)
    for row in pool:
        place = ranking.ids.index(row.id)
        danger = dense_pull(model, row, "again", "theta")
        assert ranking.columns["danger"][place] == pytest.approx(danger, abs=1e-4)
        safety = dense_pull(model, row, "theta_hat", "theta_hat")
        assert ranking.columns["safety"][place] == pytest.approx(safety, abs=1e-4)
        assert abs(danger) > 0.01
        assert abs(safety) > 0.01


def test_harmful_references_are_needed(lm):
    with pytest.raises(ValueError, match=r"rank\.method=sqsd needs harmful references"):
        Sqsd(**SMALL).rank(RankingTask(lm, make_pool(), make_safe()))


def test_paper_defaults():
    ranker = Sqsd()
    assert (ranker.learning_rate, ranker.safety_scaling) == (5e-6, 1)
    assert (ranker.lora.r, ranker.lora.alpha) == (8, 16)
    assert ranker.lora.target_modules == "all-linear"


def test_cost():
    sizes = Sizes(pool=1000, safe=200, harmful=60, num_pool=100, num_safe=20, num_harmful=3)
    assert Sqsd(epochs=2).cost(sizes) == Cost(trained=2 * 260 + 2000)
