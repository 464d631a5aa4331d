import numpy as np
import pytest
import torch

from seal.rankers.selector import (
    AdamSelector,
    SgdSelector,
    effective_sample_share,
    sample_weights,
)


def test_softmax_weights_have_mean_one():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert float(sample_weights(logits, "softmax").mean()) == pytest.approx(1, abs=1e-6)
    assert float(sample_weights(torch.zeros(4), "sigmoid").mean()) == 1


def test_effective_sample_share_by_hand():
    assert effective_sample_share(torch.ones(8)) == 1
    # (1 + 3)^2 / (2 * (1 + 9)) = 16 / 20
    assert effective_sample_share(torch.tensor([1.0, 3.0])) == pytest.approx(0.8)


def test_sgd_step_by_hand():
    selector = SgdSelector(4, "softmax", learning_rate=0.5)
    selector.update(torch.tensor([1, 3]), torch.tensor([2.0, 4.0]))
    # equal weights of 1, mean gap 3: the gradient is (2 - 3, 4 - 3)
    np.testing.assert_allclose(selector.logits.numpy(), [0.1, 0.6, 0.1, -0.4], atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_sgd_on_all_samples_is_the_gradient_of_the_weighted_gap(activation):
    generator = torch.Generator().manual_seed(1)
    logits, gap = torch.randn(6, generator=generator), torch.randn(6, generator=generator)
    selector = SgdSelector(6, activation, learning_rate=1.0)
    selector.load_state({"logits": logits})
    selector.update(torch.arange(6), gap)
    free = logits.clone().requires_grad_()
    (sample_weights(free, activation) * gap).sum().backward()
    torch.testing.assert_close(selector.logits, logits - free.grad, atol=1e-5, rtol=1e-5)


def test_a_common_shift_of_the_gap_moves_nothing_under_softmax():
    plain, shifted = (SgdSelector(5, "softmax", 0.1) for _ in range(2))
    batch, gap = torch.tensor([0, 2, 4]), torch.tensor([1.0, 5.0, 2.0])
    plain.update(batch, gap)
    shifted.update(batch, gap + 7)
    torch.testing.assert_close(plain.logits, shifted.logits, atol=1e-6, rtol=0)


def visit_everything(selector, losses, order):
    for start in range(0, len(order), 8):
        batch = torch.from_numpy(order[start : start + 8])
        selector.update(batch, losses[batch])
    return selector.logits.detach().numpy()


def test_published_update_carries_the_visit_order_and_ours_does_not():
    # Exchangeable samples: same loss distribution, random order. What correlates with the position
    # of the visit can only come from the update.
    rng = np.random.default_rng(0)
    losses = torch.from_numpy(rng.gamma(4.0, 0.5, size=2000)).float()
    order = rng.permutation(2000)
    position = np.argsort(order)

    def correlation(logits):
        return abs(np.corrcoef(np.argsort(np.argsort(logits)), position)[0, 1])

    ours = visit_everything(SgdSelector(2000, "softmax", 5e-3), losses, order)
    published = visit_everything(AdamSelector(2000, "softmax", 5e-3), losses, order)
    assert correlation(published) > 0.3
    assert correlation(ours) < 0.05
    # and ours is the order of the losses, up to the noise of a batch's baseline
    assert (
        np.corrcoef(np.argsort(np.argsort(ours)), np.argsort(np.argsort(-losses.numpy())))[0, 1]
        > 0.8
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_is_kept_of_the_others_is_what_they_are(activation):
    """Weights and effective share after many steps are those of the logits, taken all at once."""
    generator = torch.Generator().manual_seed(2)
    selector = SgdSelector(300, activation, learning_rate=0.3)
    for _ in range(400):
        batch = torch.randperm(300, generator=generator)[:7]
        selector.update(batch, 3 * torch.randn(7, generator=generator))
    assert selector.logits.std() > 1
    expected = sample_weights(selector.logits.double(), activation)
    found = selector.weights(torch.arange(300))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    assert selector.effective_share() == pytest.approx(effective_sample_share(expected), rel=1e-9)


@pytest.mark.parametrize("kind", [SgdSelector, AdamSelector])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gone_on_with_it_makes_the_same_steps_bit_for_bit(kind, activation):
    def steps(selector, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            batch = torch.randperm(20, generator=generator)[:4]
            selector.update(batch, torch.randn(4, generator=generator))

    whole, first, second = (kind(20, activation, 0.1) for _ in range(3))
    steps(whole, range(30))
    steps(first, range(17))
    second.load_state({name: value.clone() for name, value in first.state().items()})
    steps(second, range(17, 30))
    assert torch.equal(second.logits, whole.logits)
    everyone = torch.arange(20)
    assert torch.equal(second.weights(everyone), whole.weights(everyone))
    assert second.effective_share() == whole.effective_share(), "the sums were added up anew"
