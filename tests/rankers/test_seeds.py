"""A ranker's seed decides all that is drawn: rows, orders, adapters, projections, folds."""

import pytest
import torch

from rankers.conftest import make_harmful, make_pool, make_safe, make_task
from seal.data.batches import epoch_order
from seal.models import LoraSpec, ModelSpec, load_model
from seal.rankers.bi_anchor import BiAnchor
from seal.rankers.bi_anchor_gradient import BiAnchorGradient
from seal.rankers.grad_shield import GradShield
from seal.rankers.larf import Larf
from seal.rankers.less import Less
from seal.rankers.rds import Rds
from seal.rankers.seal import Seal
from seal.rankers.sqsd import Sqsd
from seal.rankers.toss import Toss
from seal.rankers.two_sided import TwoSided

# Where a seed is taken: the name that a ranker's module looks up -> the seed's place, if it has no
# name there, and what it is the seed of.
TAKEN = {
    "draws.draw_key": (1, "draw"),
    "larf.draw_key": (1, "draw"),
    "seal.epoch_order": (None, "order"),
    "warm_up.epoch_order": (None, "order"),
    "levels.add_lora": (None, "adapter"),
    "grad_shield.add_lora": (None, "adapter"),
    "sqsd.add_lora": (None, "adapter"),
    "bi_anchor_gradient.add_lora": (None, "adapter"),
    "less.Projection": (2, "projection"),
    "two_sided.fold_of": (2, "folds"),
    "two_sided.read_traces": (None, "traces"),
}
LORA = LoraSpec(r=2, alpha=2)
CASES = {
    "seal": (Seal(seed=5, epochs=1, batch_size=8, lora=LORA), {"order", "adapter"}),
    "less": (
        Less(seed=5, num_targets=2, warmup_epochs=1, dim=8, lora=LORA),
        {"draw", "order", "adapter", "projection"},
    ),
    "sqsd": (Sqsd(seed=5, epochs=1, lora=LORA), {"order", "adapter"}),
    "toss": (Toss(seed=5, epochs=1, lora=LORA), {"order", "adapter"}),
    "grad_shield": (GradShield(seed=5, num_probes=2, lora=LORA), {"draw", "adapter"}),
    "bi_anchor_gradient": (BiAnchorGradient(seed=5, max_anchors=2), {"draw"}),
    "larf": (Larf(seed=5, max_anchors=2, layer=0), {"draw"}),
    "bi_anchor": (BiAnchor(seed=5, max_anchors=2), {"draw"}),
    "rds": (Rds(seed=5, max_anchors=2), {"draw"}),
    "two_sided": (TwoSided(seed=5, max_safe=3, rounds=0), {"draw", "folds", "traces"}),
}


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_drawn_is_drawn_with_the_rankers_seed(tiny_model_dir, monkeypatch, name):
    ranker, kinds = CASES[name]
    seeds: set[tuple[str, int]] = set()

    def noted(real, place, kind):
        def call(*args, **named):
            seeds.add((kind, named["seed"] if "seed" in named else args[place]))
            return real(*args, **named)

        return call

    for path, (place, kind) in TAKEN.items():
        module, _, function = path.partition(".")
        module = __import__(f"seal.rankers.{module}", fromlist=[function])
        if function in vars(module):
            monkeypatch.setattr(module, function, noted(vars(module)[function], place, kind))
    lm = load_model(ModelSpec(path=str(tiny_model_dir)))
    ranker.rank(make_task(lm, make_pool(6), make_safe(), make_harmful()))
    assert seeds == {(kind, 5) for kind in kinds}


def test_two_seeds_that_visit_alike_still_begin_with_other_adapters(tiny_model_dir, monkeypatch):
    def alike(num, *, seed, stream, epoch):  # noqa: ARG001
        return epoch_order(num, seed=0, stream=stream, epoch=epoch)

    monkeypatch.setattr("seal.rankers.seal.epoch_order", alike)

    def rank(seed):
        lm = load_model(ModelSpec(path=str(tiny_model_dir)))
        task = make_task(lm, make_pool(8), make_safe(), [])
        return Seal(seed=seed, epochs=1, batch_size=4, learning_rate=1e-2).rank(task)

    first, again, other = rank(1), rank(1), rank(2)
    assert first.scores.tobytes() == again.scores.tobytes()
    assert (first.columns["last_visit"] == other.columns["last_visit"]).all()
    assert (first.scores != other.scores).any()


def test_what_stands_in_for_zero_in_an_adapter_is_of_the_seed(tiny_model_dir):
    def matrices(seed):
        lm = load_model(ModelSpec(path=str(tiny_model_dir)))
        model = GradShield(seed=seed, init_scale=0.1, lora=LORA)._with_adapter(lm).model
        return [value for name, value in model.named_parameters() if ".lora_B." in name]

    first, again, other = matrices(1), matrices(1), matrices(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
