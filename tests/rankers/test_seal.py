import numpy as np
import pytest
import torch

from rankers.conftest import make_pool, make_safe
from reference.published_seal import published_logits, row_loss
from seal import interrupts
from seal.artifacts.ranking import make_ranking
from seal.checkpoint import Checkpoints, CheckpointSettings
from seal.data.batches import epoch_order
from seal.models import LoraSpec, ModelSpec, load_model
from seal.rankers import levels as levels_module
from seal.rankers.levels import make_levels
from seal.rankers.ranker import RankingTask, Sizes
from seal.rankers.seal import Seal, averaged

LEARN = {"batch_size": 4, "micro_batch_size": 4, "learning_rate": 2e-2}


def fresh(folder):
    return load_model(ModelSpec(path=str(folder)))


def raw(rows):
    ordered = sorted(rows, key=lambda row: row.id)
    return [(row.input_ids.tolist(), row.response_mask.tolist()) for row in ordered]


@pytest.mark.parametrize("algorithm", ["memory_efficient", "penalty"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_planted_samples_sink(tiny_model_dir, algorithm, tuning):
    ranker = Seal(
        algorithm=algorithm, tuning=tuning, epochs=15, lora=LoraSpec(target_modules="all-linear"),
        gamma_start=0.1, gamma_step=0.0, **LEARN,
    )  # fmt: skip
    ranking = ranker.rank(RankingTask(fresh(tiny_model_dir), make_pool(), make_safe()))
    best = ranking.best_first()
    assert all(key.startswith("good") for key in best[:8]), best


def test_published_update_gives_the_published_logits(tiny_model_dir):
    pool, safe = make_pool(), make_safe(5)
    ranker = Seal(
        algorithm="memory_efficient", tuning="full", update="adam", epochs=3, batch_size=4,
        micro_batch_size=3, learning_rate=1e-3, gamma_step=0.03, seed=7,
    )  # fmt: skip
    ranking = ranker.rank(RankingTask(fresh(tiny_model_dir), pool, safe))
    rounds = [epoch_order(5, seed=7, stream="safe", epoch=i).tolist() for i in range(10)]
    expected = published_logits(
        fresh(tiny_model_dir).model, raw(pool), raw(safe),
        [epoch_order(16, seed=7, stream="pool", epoch=i).tolist() for i in range(3)],
        [place for one in rounds for place in one],
        batch_size=4, lr=1e-3, selector_lr=5e-3, decay=0.03,
    )  # fmt: skip
    np.testing.assert_allclose(ranking.columns["logit"], expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(ranking.scores, ranking.columns["logit"].astype(np.float64))


def straight_line_penalty(folder, pool, safe, pool_orders, safe_order, *, beta, alpha, gamma):
    """Algorithm 1, batches of 4, sgd selector, written out; returns final gaps and logits."""
    theta, hat = fresh(folder).model, fresh(folder).model
    adams = [torch.optim.Adam(m.requires_grad_(True).parameters(), lr=beta, betas=(0.9, 0.95))
             for m in (theta, hat)]  # fmt: skip
    num = len(pool)
    omega = torch.full((num,), 0.1)
    used = 0
    for order in pool_orders:
        for start in range(0, num, 4):
            b = order[start : start + 4]
            s = safe_order[used : used + len(b)]
            used += len(b)
            w = (num * torch.softmax(omega, 0))[b]
            gaps = []
            for model, adam, upper in ((theta, adams[0], True), (hat, adams[1], False)):
                l_pool = row_loss(model, [pool[i] for i in b])
                total = (w * l_pool).mean()
                if upper:
                    total = (1 - gamma) * row_loss(
                        model, [safe[i] for i in s]
                    ).mean() + gamma * total
                adam.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                adam.step()
                gaps.append(l_pool.detach())
            g = gaps[0] - gaps[1]
            omega[b] -= alpha * w * (g - (w * g).sum() / w.sum())
    with torch.no_grad():
        g = row_loss(theta, pool) - row_loss(hat, pool)
    w = num * torch.softmax(omega, 0)
    omega -= alpha * w * (g - (w * g).mean())  # the closing step; w has mean 1
    return g.numpy(), omega.numpy()


def test_algorithm_1_equals_its_straight_line_version(tiny_model_dir):
    pool, safe = make_pool(14), make_safe(4)  # the last batch of an epoch holds 2
    ranker = Seal(
        algorithm="penalty", tuning="full", epochs=2, batch_size=4, micro_batch_size=4,
        learning_rate=1e-3, selector_learning_rate=0.5, gamma_start=0.3, gamma_step=0.0, seed=1,
    )  # fmt: skip
    ranking = ranker.rank(RankingTask(fresh(tiny_model_dir), pool, safe))
    gaps, omega = straight_line_penalty(
        tiny_model_dir, raw(pool), raw(safe),
        [epoch_order(14, seed=1, stream="pool", epoch=i).tolist() for i in range(2)],
        [p for i in range(8) for p in epoch_order(4, seed=1, stream="safe", epoch=i).tolist()],
        beta=1e-3, alpha=0.5, gamma=0.3,
    )  # fmt: skip
    np.testing.assert_allclose(ranking.columns["gap"], gaps, atol=2e-5)
    np.testing.assert_allclose(ranking.columns["logit"], omega, atol=2e-5)
    np.testing.assert_array_equal(ranking.scores, ranking.columns["logit"].astype(np.float64))


def test_micro_batches_change_memory_only(tiny_model_dir):
    rankings = [
        Seal(epochs=2, batch_size=8, micro_batch_size=size, learning_rate=1e-2, gamma_start=0.2)
        .rank(RankingTask(fresh(tiny_model_dir), make_pool(), make_safe()))
        for size in (1, 3, 16)
    ]  # fmt: skip
    for other in rankings[1:]:
        np.testing.assert_allclose(other.scores, rankings[0].scores, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["memory_efficient", "penalty"])
def test_columns(tiny_model_dir, algorithm):
    pool = make_pool(10)
    ranking = Seal(algorithm=algorithm, epochs=3, **LEARN).rank(
        RankingTask(fresh(tiny_model_dir), pool, make_safe())
    )
    columns = ranking.columns
    assert list(columns) == [
        "logit", "gap", "first_loss", "last_loss", "num_visits", "last_visit",
    ]  # fmt: skip
    assert columns["num_visits"].tolist() == [3] * 10  # 10 is no multiple of the batch size
    assert sorted(columns["last_visit"]) == list(range(20, 30))
    by_place = epoch_order(10, seed=0, stream="pool", epoch=2)
    assert columns["last_visit"][by_place].tolist() == list(range(20, 30))
    with torch.no_grad():
        first = row_loss(fresh(tiny_model_dir).model, raw(pool)).numpy()
    at_start = epoch_order(10, seed=0, stream="pool", epoch=0)[:4]
    np.testing.assert_allclose(columns["first_loss"][at_start], first[at_start], atol=1e-5)
    if algorithm == "memory_efficient":
        np.testing.assert_array_equal(columns["gap"], columns["last_loss"])


def test_a_short_safe_set_cycles_and_every_pool_sample_is_visited(tiny_model_dir):
    ranking = Seal(epochs=1, **LEARN).rank(
        RankingTask(fresh(tiny_model_dir), make_pool(), make_safe(1))
    )
    assert ranking.columns["num_visits"].tolist() == [1] * 16


def test_with_gamma_0_the_model_does_not_depend_on_the_pool(tiny_model_dir):
    probe = make_pool(2)
    kwargs = {"epochs": 1, "gamma_start": 0.0, **LEARN}
    one = Seal(**kwargs).rank(RankingTask(fresh(tiny_model_dir), make_pool(8), make_safe()))
    # the same number of other samples besides the two that are compared
    others = [row for row in make_pool(16) if row.id not in {r.id for r in make_pool(8)}][:6]
    two = Seal(**kwargs).rank(RankingTask(fresh(tiny_model_dir), probe + others, make_safe()))
    for row in probe:
        losses = [r.columns["last_loss"][r.ids.index(row.id)] for r in (one, two)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_gamma_schedules_by_hand():
    per_epoch = Seal(gamma_start=0.1, gamma_step=0.2, epochs=3)
    assert [per_epoch.gamma(step, 4) for step in (0, 3, 4, 11)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5]
    )
    per_step = Seal(gamma_start=0.1, gamma_step=0.2, epochs=3, gamma_per="step")
    assert [per_step.gamma(step, 4) for step in (0, 2, 4, 11)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.65]
    )


def test_paper_defaults():
    ranker = Seal()
    assert (ranker.learning_rate, ranker.selector_learning_rate) == (1e-5, 5e-3)
    assert (ranker.epochs, ranker.batch_size) == (3, 64)
    assert [ranker.gamma(step, 1) for step in range(3)] == [0, 0.03, 0.06]
    assert (ranker.lora.r, ranker.lora.alpha, ranker.lora.dropout) == (16, 16, 0)
    assert ranker.algorithm == "memory_efficient"


def test_gamma_out_of_range():
    with pytest.raises(
        ValueError, match=r"gamma must stay in \[0, 1\]; it would rise from 0.5 to 1.1"
    ):
        Seal(gamma_start=0.5, gamma_step=0.3, epochs=3)
    assert Seal(gamma_step=0.5, epochs=3).gamma(2, 1) == 1


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"lora.dropout=0.1 would make the losses"):
        Seal(lora=LoraSpec(dropout=0.1))


def test_a_loss_that_is_not_finite_names_the_samples(tiny_model_dir):
    lm = fresh(tiny_model_dir)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[65] = float("nan")  # the prompt of planted-05
    with pytest.raises(ValueError, match=r"loss of \d+ samples is not finite: .*Lower"):
        Seal(epochs=2, **LEARN).rank(RankingTask(lm, make_pool(), make_safe()))


def test_base_weights_are_frozen_and_both_levels_start_equal(lm):
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    theta, theta_hat = make_levels(
        lm, num_levels=2, tuning="lora", lora=LoraSpec(), learning_rate=1e-2, betas=(0.9, 0.95),
        max_grad_norm=1.0, micro_batch_size=4, seed=0,
    )  # fmt: skip
    assert [p.shape for p in theta.parameters.values()] == [
        p.shape for p in theta_hat.parameters.values()
    ]
    for one, other in zip(theta.parameters.values(), theta_hat.parameters.values(), strict=True):
        assert one is not other
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    rows = make_pool(4)
    shares = torch.full((4,), 0.25)
    kept = [p.clone() for p in theta_hat.parameters.values()]
    first = theta.descend(rows, shares).losses
    for was, now in zip(kept, theta_hat.parameters.values(), strict=True):
        assert torch.equal(was, now), "a step on theta moved theta_hat"
    torch.testing.assert_close(theta_hat.descend(rows, shares).losses, first)
    assert (theta.descend(rows, shares).losses < first).any()
    after = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): value
        for name, value in theta.lm.model.named_parameters()
    }
    for name, was in before.items():
        assert torch.equal(was, after[name]), name


def test_rows_without_share_cost_no_backward(lm, monkeypatch):
    (theta,) = make_levels(
        lm, num_levels=1, tuning="lora", lora=LoraSpec(), learning_rate=1e-2, betas=(0.9, 0.95),
        max_grad_norm=1.0, micro_batch_size=2, seed=0,
    )  # fmt: skip
    with_graph = []
    plain = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda self: (with_graph.append(1), plain(self))[1]
    )
    theta.descend(make_pool(8), torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0, 0]))
    assert len(with_graph) == 1


def test_half_precision_weights_cannot_be_tuned_in_full(tiny_model_dir):
    lm = load_model(ModelSpec(path=str(tiny_model_dir), dtype="bfloat16"))
    with pytest.raises(ValueError, match=r"rank\.tuning=full needs float32"):
        Seal(tuning="full", epochs=1).rank(RankingTask(lm, make_pool(), make_safe()))


# --- several seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["memory_efficient", "penalty"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_several_seeds_are_the_mean_of_single_ones(tiny_model_dir, algorithm, tuning):
    """Each seed begins at the aligned model: what the one before left does not reach it."""
    settings = {"algorithm": algorithm, "tuning": tuning, "epochs": 2, **LEARN}

    def ranked(**more):
        task = RankingTask(fresh(tiny_model_dir), make_pool(), make_safe())
        return Seal(**settings, **more).rank(task)

    singles = {seed: ranked(seed=seed) for seed in (5, 6, 7)}
    both = ranked(seed=5, num_seeds=3)
    for seed, single in singles.items():
        np.testing.assert_array_equal(both.columns[f"logit_{seed}"], single.columns["logit"])
        np.testing.assert_array_equal(
            both.columns[f"last_visit_{seed}"], single.columns["last_visit"]
        )
    z = [
        (single.scores - single.scores.mean()) / single.scores.std() for single in singles.values()
    ]
    np.testing.assert_allclose(both.scores, np.mean(z, axis=0), atol=1e-12)
    for name in ("logit", "gap", "first_loss", "last_loss"):
        mean = np.mean([single.columns[name] for single in singles.values()], axis=0)
        np.testing.assert_allclose(both.columns[name], mean, rtol=1e-6)
    assert both.columns["num_visits"].tolist() == [6] * 16
    assert np.abs(np.subtract(singles[5].scores, singles[6].scores)).max() > 0


def test_one_seed_is_the_plain_ranking_and_two_are_not(tiny_model_dir):
    log = []
    task = RankingTask(fresh(tiny_model_dir), make_pool(), make_safe(), log=log.append)
    Seal(epochs=1, **LEARN).rank(task)
    assert "seed" not in log[0]
    log.clear()
    shown = []
    task = RankingTask(
        fresh(tiny_model_dir), make_pool(), make_safe(), log=log.append,
        progress=lambda what, *_: shown.append(what),
    )  # fmt: skip
    Seal(epochs=1, seed=3, num_seeds=2, **LEARN).rank(task)
    assert [record["seed"] for record in log] == [3] * 4 + [4] * 4
    assert sorted(set(shown)) == [f"seed {seed}: ranking with SEAL" for seed in (3, 4)]


def test_equal_scores_of_one_seed_do_not_outweigh_another():
    ids = ("a", "b")

    def single(scores):
        columns = dict.fromkeys(("logit", "gap", "first_loss", "last_loss"), np.array(scores))
        ones = np.ones(2, dtype=np.int64)
        columns |= {"num_visits": ones, "last_visit": ones}
        return make_ranking(ids, np.array(scores), columns)

    found = averaged({0: single([2.0, 2.0]), 1: single([0.0, 4.0]), 2: single([-7e3, 7e3])})
    np.testing.assert_allclose(found.scores, [-2 / 3, 2 / 3])


def test_the_cost_is_that_of_every_seed():
    sizes = Sizes(pool=1000, safe=300, harmful=0, num_pool=50, num_safe=30, num_harmful=0)
    one, three = (Seal(num_seeds=num).cost(sizes) for num in (1, 3))
    assert three.trained == pytest.approx(3 * one.trained)
    assert three.forward == pytest.approx(3 * one.forward)


def test_the_aligned_model_is_as_it_was_when_adapters_are_taken_off(tiny_model_dir):
    lm = fresh(tiny_model_dir)
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    Seal(epochs=1, algorithm="penalty", **LEARN).rank(RankingTask(lm, make_pool(), make_safe()))
    after = dict(lm.model.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


# ---- gone on with, left out, and made smaller


class StopError(Exception):
    """Stands for whatever ends a process."""


RESUMED = {
    "memory_efficient": {"gamma_start": 0.1},
    "penalty": {"algorithm": "penalty"},
    "published": {"update": "adam", "weights": "sigmoid"},
    "full": {"tuning": "full", "algorithm": "penalty"},
    "two seeds": {"num_seeds": 2},
}


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED.keys())
def test_a_run_that_is_interrupted_anywhere_ends_with_the_same_bits(
    tiny_model_dir, tmp_path, settings
):
    ranker = Seal(epochs=2, **{**LEARN, **settings})  # 8 steps, or twice as many

    def rank(root, stop_after=10**9):
        log, num_seen = [], 0

        def progress(*_):
            nonlocal num_seen
            num_seen += 1
            if num_seen > stop_after:
                raise StopError

        task = RankingTask(
            fresh(tiny_model_dir), make_pool(), make_safe(5), progress=progress, log=log.append,
            checkpoints=Checkpoints(root, {}, CheckpointSettings(seconds=0)),
        )  # fmt: skip
        return ranker.rank(task), log

    expected, expected_log = rank(tmp_path / "whole")
    for place, stops in enumerate([(1,), (4, 2), (7,), (1, 1, 1)]):
        for stop in stops:
            with pytest.raises(StopError):
                rank(tmp_path / str(place), stop)
        ranking, log = rank(tmp_path / str(place))
        assert ranking.scores.tobytes() == expected.scores.tobytes()
        assert ranking.columns.keys() == expected.columns.keys()
        for name, column in expected.columns.items():
            assert ranking.columns[name].tobytes() == column.tobytes(), name
        assert log == expected_log


def test_asked_to_stop_it_ends_its_step_and_saves(tiny_model_dir, tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, CheckpointSettings(seconds=1e9))
    steps = []

    def log(record):
        steps.append(record["step"])
        if record["step"] == 2:
            interrupts.ask()

    task = RankingTask(
        fresh(tiny_model_dir), make_pool(), make_safe(), log=log, checkpoints=checkpoints
    )
    with pytest.raises(KeyboardInterrupt):
        Seal(epochs=2, **LEARN).rank(task)
    assert steps == [0, 1, 2]
    assert checkpoints.latest().step == 3


def test_asked_between_looking_and_saving_it_stops_after_the_next_step(
    tiny_model_dir, tmp_path, monkeypatch
):
    checkpoints = Checkpoints(tmp_path, {}, CheckpointSettings(seconds=1e9))
    is_due = Checkpoints.due

    def due(self):
        found = is_due(self)
        if not interrupts.asked():
            interrupts.ask()  # the signal comes just after
        return found

    monkeypatch.setattr(Checkpoints, "due", due)
    task = RankingTask(fresh(tiny_model_dir), make_pool(), make_safe(), checkpoints=checkpoints)
    with pytest.raises(KeyboardInterrupt):
        Seal(epochs=2, **LEARN).rank(task)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 2


def with_losses(monkeypatch, change):
    """Change the losses that levels see: `change(ids, losses, call)`, calls counted from 1."""
    calls = 0

    def counted(losses, batch):
        nonlocal calls
        calls += 1
        return change(batch.ids, losses, calls)

    real = levels_module.token_nll

    def token_nll(model, batch):
        found = real(model, batch)
        values = counted(found.nll, batch)
        return found._replace(nll=values)

    monkeypatch.setattr(levels_module, "token_nll", token_nll)


def test_a_step_with_a_loss_that_is_not_finite_is_left_out(tiny_model_dir, monkeypatch):
    order = epoch_order(16, seed=0, stream="pool", epoch=0)
    pool = sorted(make_pool(), key=lambda row: row.id)
    bad = pool[order[5]].id  # in the second step of four

    def broken_once(ids, losses, call):
        return losses * float("nan") if bad in ids and call > 1 and not seen.add(call) else losses

    seen = set()
    with_losses(monkeypatch, broken_once)
    log = []
    ranker = Seal(epochs=1, batch_size=4, learning_rate=1e-3, gamma_start=0.2)
    lm = fresh(tiny_model_dir)
    ranking = ranker.rank(RankingTask(lm, make_pool(), make_safe(), log=log.append))
    (skipped,) = (record for record in log if "skipped" in record)
    assert skipped["step"] == 1
    assert "is not finite" in skipped["skipped"]
    assert "grad_norm" not in skipped
    visited = dict(zip(ranking.ids, ranking.columns["num_visits"], strict=True))
    assert {key for key, num in visited.items() if num == 0} == {pool[i].id for i in order[4:8]}
    assert np.isfinite(ranking.scores).all()


def test_a_gradient_that_is_not_finite_leaves_everything_as_it_was(lm, monkeypatch):
    (theta,) = make_levels(
        lm, num_levels=1, tuning="lora", lora=LoraSpec(), learning_rate=1e-2, betas=(0.9, 0.95),
        max_grad_norm=1.0, micro_batch_size=4, seed=0,
    )  # fmt: skip
    before = {name: value.clone() for name, value in theta.state().items()}
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: real(*args) * float("inf"))
    with pytest.raises(ValueError, match=r"the gradient is inf on a step .* Lower"):
        theta.descend(make_pool(4), torch.full((4,), 0.25))
    assert theta.state().keys() == before.keys()
    for name, value in theta.state().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("most", "num_logged"), [(2, 2), (0, 0)])
def test_it_gives_up_after_too_many_left_out(tiny_model_dir, monkeypatch, most, num_logged):
    with_losses(monkeypatch, lambda _, losses, call: losses * float("nan") if call > 1 else losses)
    log = []
    ranker = Seal(epochs=1, max_skipped_steps=most, **LEARN)
    task = RankingTask(fresh(tiny_model_dir), make_pool(), make_safe(16), log=log.append)
    with pytest.raises(ValueError, match=rf"max_skipped_steps={most} such steps were left out"):
        ranker.rank(task)
    assert len(log) == num_logged


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
])  # fmt: skip
def test_memory_that_runs_out_halves_the_passes_and_changes_no_result(
    tiny_model_dir, monkeypatch, caplog, error
):
    def rank():
        ranker = Seal(epochs=2, batch_size=8, learning_rate=1e-2, gamma_start=0.2)
        return ranker.rank(RankingTask(fresh(tiny_model_dir), make_pool(), make_safe()))

    expected = rank().scores
    sizes = []

    def small(ids, losses, _):
        sizes.append(len(ids))
        if len(ids) > 3:
            raise error
        return losses

    with_losses(monkeypatch, small)
    np.testing.assert_allclose(rank().scores, expected, atol=1e-6)
    assert sizes[:4] == [16, 8, 4, 2]
    assert max(sizes[3:]) == 2
    assert "memory ran out with 16 samples at a time; going on with 8" in caplog.text


def test_a_rehearsal_finds_what_does_not_fit_and_moves_nothing(lm, monkeypatch):
    (theta,) = make_levels(
        lm, num_levels=1, tuning="lora", lora=LoraSpec(), learning_rate=1e-2, betas=(0.9, 0.95),
        max_grad_norm=1.0, micro_batch_size=None, seed=0,
    )  # fmt: skip
    before = {name: value.clone() for name, value in theta.state().items()}
    sizes = []

    def small(ids, losses, _):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return losses

    with_losses(monkeypatch, small)
    theta.rehearse(make_pool(8))
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert theta.micro_batches.max_rows == 2
    for name, value in theta.state().items():
        assert torch.equal(value, before[name])
    assert all(weight.grad is None for weight in theta.parameters.values())


def test_memory_that_runs_out_for_one_sample_names_it(tiny_model_dir, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with_losses(monkeypatch, never)
    task = RankingTask(fresh(tiny_model_dir), make_pool(), make_safe())
    with pytest.raises(ValueError, match=r"single sample at a time; the longest, \S+, has \d+ tok"):
        Seal(epochs=1, **LEARN).rank(task)
