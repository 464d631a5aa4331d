import numpy as np
import pytest
import torch
from torch import nn

from rankers.conftest import encoded, make_pool
from seal.data.batches import collate
from seal.models import LanguageModel, LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers.gradients import (
    Projection,
    SampleGradients,
    refuse_dropout,
    response_loss,
)

LENGTHS = [(1, 1), (4, 2), (9, 5), (2, 7), (6, 3)]  # prompt and response tokens


def make_rows():
    rng = np.random.default_rng(0)
    return [
        encoded(f"row-{i}", [2, *rng.integers(5, 200, p)], rng.integers(5, 200, r).tolist())
        for i, (p, r) in enumerate(LENGTHS)
    ]


def with_adapter(lm: LanguageModel, *, b_scale: float = 0.1, **lora) -> LanguageModel:
    """The model with an adapter whose B is not 0."""
    lora = {"r": 3, "alpha": 7, "target_modules": "all-linear", **lora}
    model = add_lora(lm.model, LoraSpec(**lora), seed=1).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(b_scale * torch.randn(parameter.shape, generator=generator))
    return LanguageModel(model, lm.tokenizer, lm.encoder, lm.pad_id)


def one_by_one(lm: LanguageModel, rows) -> torch.Tensor:
    """Autograd on one row after the other, with a loss that is written out here."""
    found = []
    for row in rows:
        lm.model.zero_grad()
        ids = torch.from_numpy(row.input_ids).long()[None]
        log_p = lm.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nll = -log_p[torch.arange(len(log_p)), ids[0, 1:]]
        nll[torch.from_numpy(row.response_mask)[1:]].mean().backward()
        trained = [p for p in lm.model.parameters() if p.requires_grad]
        found.append(torch.cat([p.grad.flatten() for p in trained]))
    return torch.stack(found)


def in_order(pieces, num: int) -> torch.Tensor:
    found: dict[int, torch.Tensor] = {}
    for places, gradients in pieces:
        found.update(zip(places, gradients, strict=True))
    assert sorted(found) == list(range(num))
    return torch.stack([found[place] for place in range(num)])


@pytest.mark.parametrize("micro_batch_size", [1, 2, 5])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_equal_to_autograd_one_by_one(lm, micro_batch_size, targets):
    lm, rows = with_adapter(lm, target_modules=targets), make_rows()
    expected = one_by_one(lm, rows)
    assert expected.abs().max(dim=1).values.min() > 0.01  # there is something to compare
    lm.model.zero_grad()
    gradients = SampleGradients(lm, micro_batch_size=micro_batch_size)
    found = in_order(gradients.each(rows), len(rows))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients.mean(rows), expected.mean(dim=0), atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in lm.model.parameters())


def test_the_parts_say_whose_gradient_it_is(lm):
    lm, rows = with_adapter(lm), make_rows()[:1]
    gradients = SampleGradients(lm, micro_batch_size=1)
    ((_, flat),) = gradients.each(rows)
    response_loss(lm.model, collate(rows, lm.pad_id)).sum().backward()
    named = {name: p for name, p in lm.model.named_parameters() if p.requires_grad}
    assert [part.name for part in gradients.parts] == list(named)
    assert len(named) == 2 * 2 * 7  # two layers of seven matrices, A and B
    for part in gradients.parts:
        mine = flat[0, part.start : part.end].view(part.layer.weight.shape)
        torch.testing.assert_close(mine, named[part.name].grad, atol=1e-5, rtol=1e-4)


def test_at_the_start_b_alone_carries_gradient(lm):
    lm = with_adapter(lm, b_scale=0.0)
    gradients = SampleGradients(lm, micro_batch_size=4)
    ((_, flat),) = gradients.each(make_rows()[:3])
    for part in gradients.parts:
        is_zero = bool((flat[:, part.start : part.end] == 0).all())
        assert is_zero == (".lora_A." in part.name), part.name


def test_any_value_can_be_differentiated(lm):
    lm, rows = with_adapter(lm), make_rows()
    gradients = SampleGradients(lm, micro_batch_size=2)
    tripled = gradients.each(rows, lambda model, batch: 3 * response_loss(model, batch))
    torch.testing.assert_close(
        in_order(tripled, 5), 3 * in_order(gradients.each(rows), 5), atol=1e-5, rtol=1e-4
    )


def test_chunks_are_the_same_in_larger_pieces(lm, monkeypatch):
    lm, rows = with_adapter(lm), make_rows()
    gradients = SampleGradients(lm, micro_batch_size=1)
    monkeypatch.setattr("seal.rankers.gradients._CHUNK", 2 * gradients.size)
    pieces = list(gradients.chunks(rows))
    assert [len(places) for places, _ in pieces] == [2, 2, 1]
    torch.testing.assert_close(in_order(pieces, 5), in_order(gradients.each(rows), 5))


def test_half_precision_models_have_fp32_gradients(tiny_model_dir):
    plain = load_model(ModelSpec(path=str(tiny_model_dir)))
    half = load_model(ModelSpec(path=str(tiny_model_dir), dtype="bfloat16"))
    rows = make_pool(4)
    (_, exact), (_, rough) = (
        next(SampleGradients(with_adapter(one), micro_batch_size=4).each(rows))
        for one in (plain, half)
    )
    assert rough.dtype == torch.float32
    cosines = torch.cosine_similarity(exact, rough, dim=1)
    assert (cosines > 0.98).all(), cosines


def test_what_is_no_linear_layer_is_refused(lm):
    lm = with_adapter(lm)
    lm.model.get_parameter("base_model.model.model.norm.weight").requires_grad_(True)
    with pytest.raises(ValueError, match=r"rank\.lora\.target_modules: .*norm\.weight is not the"):
        SampleGradients(lm, micro_batch_size=2)


class Flattened(nn.Module):
    """A model in which the tokens of all samples pass a layer in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, batch):
        tokens = self.layer(torch.ones(batch.input_ids.numel(), 4))
        return tokens.view(*batch.input_ids.shape, 4).sum(dim=(1, 2))


def test_tokens_in_one_list_are_refused(lm):
    flat = LanguageModel(Flattened(), lm.tokenizer, lm.encoder, lm.pad_id)
    gradients = SampleGradients(flat, micro_batch_size=2)
    with pytest.raises(ValueError, match=r"layer\.weight sees the tokens of all samples"):
        list(gradients.each(make_pool(2), lambda model, batch: model(batch)))


def test_a_gradient_that_is_not_finite_names_the_sample(lm):
    lm, rows = with_adapter(lm), make_pool(4)

    def value(model, batch):
        factor = [float("nan") if key == "planted-01" else 1.0 for key in batch.ids]
        return response_loss(model, batch) * torch.tensor(factor)

    with pytest.raises(ValueError, match=r"gradient of 1 samples is not finite: planted-01\."):
        list(SampleGradients(lm, micro_batch_size=1).each(rows, value))


# --- projection ---------------------------------------------------------------------------------


def test_projection_in_blocks_is_the_whole_matrix_at_once():
    project = Projection(2500, 100, seed=3)  # two whole blocks and a part; 100 is no multiple of 64
    matrix = torch.cat([project.signs(0, 1024), project.signs(1, 1024), project.signs(2, 452)])
    assert matrix.shape == (2500, 100)
    assert set(matrix.unique().tolist()) == {-1.0, 1.0}
    vectors = torch.randn(4, 2500, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project(vectors), vectors @ matrix / 10, atol=1e-4, rtol=1e-4)


def test_signs_are_independent_coins():
    matrix = Projection(10_000, 512, seed=0).signs(0, 1024)
    assert abs(float(matrix.mean())) < 5 / (1024 * 512) ** 0.5
    gram = matrix.T @ matrix / 1024
    gram.fill_diagonal_(0)
    assert float(gram.abs().max()) < 6 / 1024**0.5  # no two dimensions alike
    rows = matrix @ matrix.T / 512
    rows.fill_diagonal_(0)
    assert float(rows.abs().max()) < 6 / 512**0.5  # no two parameters alike
    other = Projection(10_000, 512, seed=0).signs(1, 1024)
    assert abs(float((matrix * other).mean())) < 0.01
    assert not torch.equal(matrix, Projection(10_000, 512, seed=1).signs(0, 1024))
    assert torch.equal(matrix, Projection(10_000, 512, seed=0).signs(0, 1024))


def test_projected_cosines_are_close():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 20_000, generator=generator)
    vectors = base + torch.randn(12, 20_000, generator=generator)
    projected = Projection(20_000, 8192, seed=0)(vectors)
    exact, rough = (torch.nn.functional.normalize(v, dim=1) for v in (vectors, projected))
    error = (exact @ exact.T - rough @ rough.T).abs()
    assert float(error.max()) < 0.05


def test_few_parameters_are_not_projected():
    vectors = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    for dim in (50, 8192):
        assert torch.equal(Projection(50, dim, seed=0)(vectors), vectors)
    assert Projection(50, 49, seed=0)(vectors).shape == (2, 49)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"lora\.dropout=0.1 has no place"):
        refuse_dropout(LoraSpec(dropout=0.1))
    refuse_dropout(LoraSpec())
