from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers.modeling_flash_attention_utils as flash
from transformers import AutoConfig, AutoModelForCausalLM

from rankers.conftest import encoded, make_pool, make_safe
from seal import microbatches, packing
from seal.data.batches import collate, pack
from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded
from seal.loss_backends.choice import set_loss_backend
from seal.losses import mean_nll, response_logits, sample_nll, token_nll
from seal.models import LoraSpec, ModelSpec, add_lora, load_model, loaded_identity
from seal.packing import is_packed, set_batches
from seal.rankers.loss import Loss
from seal.rankers.ranker import RankingTask
from seal.rankers.seal import Seal
from seal.tables import Losses, Reading, Tables
from seal.tasks.likelihood import response_nll
from test_losses import ARCHITECTURES, BACKENDS, HEADS, RAGGED, random_model

TWO_PIECES = Encoded(
    "two pieces",
    np.array([2, 60, 1, 20, 21, 1, 2, 61, 1, 22, 1], dtype=np.int32),
    np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1], dtype=bool),
    is_truncated=False,
)
ROWS = [
    *RAGGED,
    encoded("one-token prompt", [2], [9] * 7),
    TWO_PIECES,
    encoded("no prompt", [], [30, 31, 32]),  # its first token is in the response mask
    encoded("one of each", [5], [6]),
]
# Positions that are counted by the model itself, or a bias that knows no samples.
REFUSED = {
    "falcon": ARCHITECTURES["falcon"],
    "bloom": ARCHITECTURES["bloom"],
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 128},
    "opt": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128,
        "ffn_dim": 32, "word_embed_proj_dim": 16,
    },
}  # fmt: skip


def fresh(folder, batches="auto", **settings):
    return load_model(ModelSpec(path=str(folder), batches=batches, **settings))


def one_by_one(model, row):
    """Losses of a sample alone, from its full logits; none for its first token."""
    ids = torch.tensor(row.input_ids.astype(np.int64))[None]
    log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    places = [place for place in np.flatnonzero(row.response_mask) if place > 0]
    return torch.stack([-log_p[place - 1, row.input_ids[place]] for place in places])


def with_gradients(model, batch):
    """Token losses, sample losses, and the gradient of an uneven sum of the sample losses."""
    found = token_nll(model, batch)
    per_sample = sample_nll(found)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    total = (torch.linspace(-1, 3, len(per_sample)) * per_sample).sum()
    return found, per_sample, torch.autograd.grad(total, trained, allow_unused=True)


def check_equal(model, rows, expected, packed):
    for row, one, other in zip(rows, *(parts(found) for found, _, _ in (expected, packed)),
                               strict=True):  # fmt: skip
        alone = one_by_one(model, row)
        torch.testing.assert_close(one, alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[1], expected[1], atol=1e-5, rtol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected[2] if gradient is not None)
    for one, other in zip(packed[2], expected[2], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def parts(found):
    return found.nll.split(found.counts.tolist())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["plain", *BACKENDS])
@pytest.mark.parametrize("adapted", [False, True])
def test_packed_is_padded(tiny_model_dir, attention, name, adapted):
    model = fresh(tiny_model_dir, attn_implementation=attention).model
    if adapted:
        model = add_lora(model, LoraSpec(r=2, target_modules="all-linear"), seed=0)
        for key, weight in model.named_parameters():
            if ".lora_B." in key:
                weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    set_loss_backend(model, name)
    expected = with_gradients(model, collate(ROWS, 0))
    packed = with_gradients(model, pack(ROWS))
    assert expected[0].counts.tolist() == [4, 2, 17, 7, 5, 2, 1]
    assert packed[0].counts.tolist() == [4, 2, 17, 7, 5, 2, 1]
    check_equal(model, ROWS, expected, packed)


@pytest.mark.parametrize("kind", {**ARCHITECTURES, **HEADS, **REFUSED})
def test_an_architecture_packs_to_the_same_losses_or_is_refused(kind):
    if kind in HEADS:
        model = random_model(kind)
    else:
        special = {"bos_token_id": 1, "eos_token_id": 1}
        settings = {**ARCHITECTURES, **REFUSED}[kind]
        config = AutoConfig.for_model(kind, **special, **settings)
        model = AutoModelForCausalLM.from_config(config).eval()
    set_batches(model, "packed")
    if kind in REFUSED:
        with pytest.raises(ValueError, match=r"^model\.batches=packed is refused: .* alone\. Set "):
            is_packed(model)
        return
    assert is_packed(model)
    torch.testing.assert_close(
        mean_nll(model, pack(ROWS)), mean_nll(model, collate(ROWS, 0)), atol=1e-5, rtol=1e-5
    )


def contamination(model):
    """How far another first sample of equal length moves the losses of the ones after it."""
    first, *others = ROWS
    changed = replace(first, input_ids=(first.input_ids + 100).astype(np.int32))
    with torch.no_grad():
        one, other = (parts(token_nll(model, pack([row, *others]))) for row in (first, changed))
    assert (one[0] - other[0]).abs().max() > 1e-3
    return max(float((a - b).abs().max()) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_sample_sees_another_one(tiny_model_dir, attention):
    assert contamination(fresh(tiny_model_dir, attn_implementation=attention).model) < 1e-6


def forget_positions(model, monkeypatch):
    real = model.forward

    def forward(position_ids, **rest):  # noqa: ARG001
        return real(**rest)

    monkeypatch.setattr(model, "forward", forward)


def test_without_position_ids_samples_see_each_other_and_the_model_is_refused(
    tiny_model_dir, monkeypatch
):
    model = fresh(tiny_model_dir, "packed").model
    forget_positions(model, monkeypatch)
    assert contamination(model) > 1e-4
    with pytest.raises(ValueError, match=r"LlamaForCausalLM with sdpa attention predicts some"):
        is_packed(model)


def test_with_an_attention_mask_samples_would_see_each_other(tiny_model_dir, monkeypatch):
    model = fresh(tiny_model_dir).model
    real = model.forward

    def masked(input_ids, attention_mask, **rest):
        assert attention_mask is None
        return real(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **rest)

    monkeypatch.setattr(model, "forward", masked)
    assert contamination(model) > 1e-4


def test_a_first_token_in_the_response_is_scored_in_no_layout(tiny_model_dir):
    model = fresh(tiny_model_dir).model
    row, longer = encoded("no prompt", [], [30, 31, 32]), encoded("long", [2] * 9, [20, 21])
    (alone,) = parts(token_nll(model, collate([row], 0)))
    for batch in (collate([longer, row], 0), pack([longer, row])):
        _, found = parts(token_nll(model, batch))
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    assert len(alone) == 2


# --- which models pack ---------------------------------------------------------------------------


def test_a_cpu_pads_unless_told_otherwise(tiny_model_dir):
    found = [is_packed(fresh(tiny_model_dir, name).model) for name in ("auto", "padded", "packed")]
    assert found == [False, False, True]


def test_the_setting_is_part_of_no_identity(tiny_model_dir):
    one, other = (
        loaded_identity(ModelSpec(path=str(tiny_model_dir), batches=name))
        for name in ("padded", "packed")
    )
    assert one == other
    with pytest.raises(ValueError, match="batches"):
        ModelSpec(path="x", batches="dense")


def test_a_foreign_model_is_refused():
    model = torch.nn.Linear(2, 2)
    assert not is_packed(model)
    set_batches(model, "packed")
    with pytest.raises(ValueError, match="packed is refused: Linear: not a model of transformers"):
        is_packed(model)


def attention_alone(q, k, v, scale):
    """Causal attention of one sequence [T, heads, D]."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(0, 1)


@pytest.fixture
def flash_calls(monkeypatch):
    """transformers' own way to flash attention, with kernels written out; lengths of each call."""
    calls = []

    def dense(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):  # noqa: ARG001
        calls.append([q.shape[1]] * len(q))
        pieces = zip(q, k, v, strict=True)
        return torch.stack([attention_alone(*one, softmax_scale) for one in pieces])

    def varlen(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,  # noqa: ARG001
        softmax_scale=None,
        causal=False,
    ):
        assert int(max_seqlen_q) == int(max_seqlen_k) == int(cu_seqlens_q.diff().max())
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert causal
        lengths = cu_seqlens_q.diff().tolist()
        calls.append(lengths)
        pieces = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
        return torch.cat([attention_alone(*one, softmax_scale) for one in pieces])

    found = (dense, varlen, None, flash._pad_input, flash._unpad_input)
    for name in (
        "_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn",
        "_pad_fn", "_unpad_fn", "_process_flash_kwargs_fn", "_process_with_kvcache_kwargs_fn",
    ):  # fmt: skip
        monkeypatch.setattr(flash, name, None)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *_, **__: found)
    return calls


def test_flash_attention_packs_and_gets_the_lengths_of_the_samples(tiny_model_dir, flash_calls):
    model = fresh(tiny_model_dir).model
    expected = with_gradients(model, collate(ROWS, 0))
    model.config._attn_implementation_internal = "flash_attention_2"
    assert is_packed(model)
    flash_calls.clear()
    found = with_gradients(model, pack(ROWS))
    assert flash_calls == [[len(row.input_ids) for row in ROWS]] * 2  # the two blocks
    check_equal(model, ROWS, expected, found)
    assert contamination(model) < 1e-6


def test_auto_pads_where_flash_attention_does_not_keep_samples_apart(
    tiny_model_dir, flash_calls, monkeypatch, caplog
):
    model = fresh(tiny_model_dir).model
    model.config._attn_implementation_internal = "flash_attention_2"
    forget_positions(model, monkeypatch)
    packing._warn_once.cache_clear()
    assert not is_packed(model)
    assert not is_packed(model)
    (record,) = caplog.records
    assert record.message.startswith("batches are padded, not packed: LlamaForCausalLM with flash_")
    assert flash_calls


# --- what they are used for ----------------------------------------------------------------------


@pytest.fixture
def layouts(monkeypatch):
    """How the batches of losses were made."""
    made = []
    real_pack, real_collate = microbatches.pack, microbatches.collate
    monkeypatch.setattr(
        microbatches, "pack", lambda rows: made.append("packed") or real_pack(rows)
    )  # fmt: skip
    monkeypatch.setattr(
        microbatches, "collate",
        lambda rows, pad_id: made.append("padded") or real_collate(rows, pad_id),
    )  # fmt: skip
    return made


def ragged_pool():
    """A pool in which equal lengths are rare."""
    return [
        replace(
            row,
            input_ids=np.concatenate([np.full(place, 7, np.int32), row.input_ids]),
            response_mask=np.concatenate([np.zeros(place, dtype=bool), row.response_mask]),
        )
        for place, row in enumerate(make_pool())
    ]


@pytest.mark.parametrize(
    "ranker",
    [
        Seal(epochs=2, batch_size=4, learning_rate=1e-3, gamma_start=0.2),
        Seal(algorithm="memory_efficient", tuning="full", epochs=1, batch_size=4,
             micro_batch_size=3, learning_rate=1e-3, gamma_start=0.2),
        Loss(),
    ],
    ids=["penalty", "memory_efficient", "loss"],
)  # fmt: skip
def test_whole_rankings_are_equal(tiny_model_dir, layouts, ranker):
    found = {}
    for name in ("padded", "packed"):
        layouts.clear()
        task = RankingTask(fresh(tiny_model_dir, name), ragged_pool(), make_safe())
        found[name] = ranker.rank(task)
        assert set(layouts) == {name}
    one, other = found["padded"], found["packed"]
    assert list(one.ids) == list(other.ids)
    assert np.ptp(one.scores) > 1e-4
    np.testing.assert_allclose(other.scores, one.scores, atol=1e-5, rtol=0)


class Widths(Reading):
    """A reading that is not made for packed batches."""

    def read(self, lm, batch):  # noqa: ARG002
        assert batch.lengths is None
        return [{"width": np.array([batch.input_ids.shape[1]])} for _ in batch.ids]


def test_only_losses_are_read_from_packed_batches(tiny_model_dir, layouts):
    lm = fresh(tiny_model_dir, "packed")
    rows = [row for row in ROWS if row.id != "no prompt"]
    tables = Tables()
    plain = tables.read(Losses(), lm, rows, what="")
    assert set(layouts) == {"packed"}
    layouts.clear()
    both = tables.read(Losses(entropy=True), lm, rows, what="")
    tables.read(Widths(), lm, rows, what="")
    assert set(layouts) == {"padded"}
    for place in range(len(rows)):
        one, other = plain.row(place), both.row(place)
        np.testing.assert_allclose(one["nll"], other["nll"], atol=1e-5)
        assert one["num_bytes"].tolist() == other["num_bytes"].tolist()
    assert np.ptp([plain.row(place)["num_bytes"][0] for place in range(len(rows))]) > 0


def test_likelihoods_are_equal(tiny_model_dir, layouts):
    turns = [("What colour is the sea?", "The sea is blue."), ("Name one.", "Seals."), ("A", "No")]
    samples = [
        Sample(f"s{place}", (Message("user", one),), (Message("assistant", other),))
        for place, (one, other) in enumerate(turns)
    ]
    places = {sample.id: sample.id for sample in samples}
    padded, packed = (
        response_nll(fresh(tiny_model_dir, name), samples, places, max_length=64, batch_size=2)
        for name in ("padded", "packed")
    )
    assert layouts == ["padded"] * 2 + ["packed"] * 2
    assert packed == pytest.approx(padded, abs=1e-5)


def test_what_reads_logits_refuses_packed_batches(tiny_model_dir):
    with pytest.raises(AssertionError):
        response_logits(fresh(tiny_model_dir).model, pack(ROWS))
