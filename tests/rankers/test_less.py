import numpy as np
import pytest
import torch

from rankers.conftest import encoded, make_harmful, make_pool, make_safe, make_task
from reference.published_less import published_scores
from seal.data.batches import epoch_order
from seal.models import LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers.draws import draw_rows
from seal.rankers.less import Less, Moments, adam_direction, best_task_mean
from seal.rankers.ranker import Cost, RankingTask, Sizes
from seal.rankers.warm_up import Schedule

LORA = LoraSpec(r=4, alpha=8, target_modules=("q_proj", "v_proj"))
SMALL = {"lora": LORA, "warmup_fraction": 0.5, "batch_size": 3, "learning_rate": 1e-2}
BETAS = (0.9, 0.999)


def fresh(folder):
    return load_model(ModelSpec(path=str(folder)))


def moments(first, second):
    return Moments(torch.tensor([first]), torch.tensor([second]))


def raw(rows):
    ordered = sorted(rows, key=lambda row: row.id)
    return [(row.input_ids.tolist(), row.response_mask.tolist()) for row in ordered]


# --- worked examples ----------------------------------------------------------------------------


def test_adam_form_by_hand():
    found = adam_direction(torch.tensor([[0.2]]), moments(0.1, 0.01), BETAS)
    # 0.9 * 0.1 + 0.1 * 0.2 = 0.11; 0.999 * 0.01 + 0.001 * 0.04 = 0.01003
    assert float(found) == pytest.approx(1.09835, abs=1e-5)


def test_what_is_added_to_the_root_is_inside_it():
    found = adam_direction(torch.tensor([[1e-5]]), moments(0.0, 0.0), BETAS)
    assert float(found) == pytest.approx(0.0100, abs=1e-4)
    outside = 1e-6 / ((0.001 * 1e-10) ** 0.5 + 1e-8)
    assert outside == pytest.approx(3.07, abs=0.01)


def test_mean_over_targets_then_best_task():
    # two checkpoints with shares .75 and .25; two tasks with two targets each
    first, second = np.array([[0.2, 0.4, 0.6, 0.0]]), np.array([[0.0, 0.2, 0.8, 0.2]])
    similarity = 0.75 * first + 0.25 * second
    assert best_task_mean(similarity, num_tasks=2).tolist() == pytest.approx([0.35])
    assert best_task_mean(similarity[:, :2], num_tasks=1).tolist() == pytest.approx([0.25])


def test_rates_are_those_of_the_released_checkpoints():
    schedule = Schedule(4, 128, 2e-5, 0.03, seed=0)
    rates = np.array([schedule.rate(step, 420) for step in range(420)])
    published = [1.6877e-05, 1.2859e-05, 7.703e-06, 2.5616e-06]  # of LESS's README
    np.testing.assert_allclose(rates.reshape(4, 105).mean(axis=1), published, rtol=0.02)
    assert rates.max() == pytest.approx(2e-5)
    assert rates.min() > 0


@pytest.mark.parametrize(("num_steps", "rates"), [(1, [1.0]), (4, [1, 1, 2 / 3, 1 / 3])])
def test_a_training_of_a_few_steps_has_no_step_of_rate_0(num_steps, rates):
    schedule = Schedule(1, 1, 1.0, 0.03, seed=0)
    assert [schedule.rate(step, num_steps) for step in range(num_steps)] == pytest.approx(rates)


# --- the ranker ---------------------------------------------------------------------------------


def straight_line(folder, ranker, pool, safe):
    """Scores of the straight-line version, with the adapter that the ranker starts from."""
    lm = fresh(folder)
    model = add_lora(lm.model, ranker.lora, seed=ranker.seed, name="theta").eval()
    ordered = sorted(pool, key=lambda row: row.id)
    warm = draw_rows(ordered, 8, seed=ranker.seed, stream="warm-up")
    epochs = range(ranker.warmup_epochs)
    orders = [epoch_order(8, seed=ranker.seed, stream="warm-up", epoch=i).tolist() for i in epochs]
    return published_scores(
        model, raw(ordered), raw(safe), raw(warm), orders,
        batch_size=ranker.batch_size, peak=ranker.learning_rate, warmup_ratio=ranker.warmup_ratio,
    )  # fmt: skip


def test_equal_to_the_straight_line_version(tiny_model_dir):
    pool, safe = make_pool(), make_safe(5)
    ranker = Less(**SMALL, warmup_epochs=3, seed=2)
    found = ranker.rank(make_task(fresh(tiny_model_dir), pool, safe, []))
    expected = straight_line(tiny_model_dir, ranker, pool, safe)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(found.scores, expected, atol=2e-4)


def test_planted_samples_sink(tiny_model_dir):
    task = make_task(fresh(tiny_model_dir), make_pool(), make_safe(), make_harmful())
    best = Less(**SMALL).rank(task).best_first()
    assert all(key.startswith("good") for key in best[:8]), best


def test_a_target_in_the_pool_is_among_the_first(tiny_model_dir):
    target = encoded("target", [2, 120, 1, 3], [70, 71, 72, 1])
    twin = encoded("twin", [2, 120, 1, 3], [70, 71, 72, 1])
    task = make_task(fresh(tiny_model_dir), [*make_pool(), twin], [target], [])
    assert Less(**SMALL).rank(task).best_first()[0] == "twin"


def test_targets(tiny_model_dir):
    def rank(targets):
        task = make_task(fresh(tiny_model_dir), make_pool(), make_safe(), make_harmful())
        return Less(**SMALL, targets=targets).rank(task)

    safe, harmful, both = rank("safe"), rank("harmful"), rank("both")
    assert list(safe.columns) == ["safe_similarity"]
    assert list(harmful.columns) == ["harmful_similarity"]
    np.testing.assert_array_equal(safe.scores, safe.columns["safe_similarity"])
    np.testing.assert_array_equal(harmful.scores, -harmful.columns["harmful_similarity"])
    np.testing.assert_allclose(both.scores, safe.scores + harmful.scores, atol=1e-6)
    assert harmful.best_first()[0].startswith("good")
    assert harmful.best_first()[-1].startswith("planted")
    assert np.abs(safe.scores).max() <= 1


@pytest.mark.parametrize("targets", ["harmful", "both"])
def test_harmful_targets_need_harmful_references(lm, targets):
    task = RankingTask(lm, make_pool(), make_safe())
    with pytest.raises(ValueError, match=rf"rank\.targets={targets} needs harmful references"):
        Less(**SMALL, targets=targets).rank(task)


def test_projection_changes_little(tiny_model_dir):
    def rank(dim):
        task = make_task(fresh(tiny_model_dir), make_pool(), make_safe(), [])
        return Less(**{**SMALL, "lora": LoraSpec(r=16, target_modules="all-linear")}, dim=dim).rank(
            task
        )

    exact, rough = rank(100_000), rank(2048)
    difference = np.abs(exact.scores - rough.scores).max()
    assert 0 < difference < 0.05


def test_micro_batches_change_memory_only(tiny_model_dir):
    found = [
        Less(**SMALL, micro_batch_size=size)
        .rank(make_task(fresh(tiny_model_dir), make_pool(), make_safe(), []))
        .scores
        for size in (1, 5)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=2e-4)


def test_what_is_drawn(tiny_model_dir):
    """The safe set counts through the rows that are drawn, and through nothing else."""
    pool, safe = make_pool(), make_safe(6)
    ranker = Less(**SMALL, num_targets=2)
    drawn = draw_rows(safe, 2, seed=0, stream="targets")
    full, few = (
        ranker.rank(make_task(fresh(tiny_model_dir), pool, rows, [])) for rows in (safe, drawn)
    )
    np.testing.assert_array_equal(full.scores, few.scores)


def test_warm_up_is_logged(tiny_model_dir):
    records = []
    task = RankingTask(fresh(tiny_model_dir), make_pool(), make_safe(), log=records.append)
    Less(**SMALL, warmup_epochs=2).rank(task)
    assert [record["step"] for record in records] == list(range(6))  # 8 of 16 rows, 3 at a time
    assert {record["training"] for record in records} == {"LESS: warm-up"}
    assert records[-1]["loss"] < records[0]["loss"]


def test_paper_defaults():
    ranker = Less()
    assert (ranker.warmup_fraction, ranker.warmup_epochs, ranker.dim) == (0.05, 4, 8192)
    assert (ranker.learning_rate, ranker.warmup_ratio, ranker.batch_size) == (2e-5, 0.03, 32)
    assert (ranker.lora.r, ranker.lora.alpha, ranker.lora.dropout) == (128, 512, 0)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"lora\.dropout=0.1 has no place"):
        Less(lora=LoraSpec(dropout=0.1))


def test_cost():
    sizes = Sizes(pool=1000, safe=200, harmful=60, num_pool=100, num_safe=20, num_harmful=3)
    assert Less(num_targets=10).cost(sizes) == Cost(trained=4 * (1000 + 50 + 100))
    assert Less(num_targets=10, targets="both").cost(sizes) == Cost(trained=4 * 1210)
    assert Less(num_targets=10, targets="harmful").cost(sizes) == Cost(trained=4 * 1110)


def test_progress_is_told_after_every_pass(lm):
    """The chunks that are projected may hold the whole pool: silence until then would be hours."""
    told = []
    task = RankingTask(lm, make_pool(), make_safe(), progress=lambda *said: told.append(said))
    ranker = Less(
        lora=LoraSpec(r=2, target_modules=("q_proj",)), warmup_epochs=2, num_targets=4,
        micro_batch_size=4,
    )  # fmt: skip
    ranker.rank(task)
    done = [(now, total) for what, now, total in told if what == "LESS: gradients"]
    # 4 targets and 16 rows of the pool, 4 at a time, after each of two epochs.
    assert done == [(4 * number, 40) for number in range(1, 11)]
