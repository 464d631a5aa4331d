import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from rankers.conftest import encoded, make_pool
from seal.data.batches import collate
from seal.loss_backends import choice
from seal.loss_backends.backend import LossBackend
from seal.loss_backends.choice import set_loss_backend
from seal.losses import losses_and_entropy, mean_nll, response_logits, sample_nll, token_nll
from seal.models import LoraSpec, ModelSpec, add_lora, load_model


@pytest.fixture
def model(tiny_model_dir):
    return load_model(ModelSpec(path=str(tiny_model_dir))).model


def one_by_one(model, row):
    """-log p of each response token, from the full logits of the unpadded sample."""
    ids = torch.tensor(row.input_ids.astype(np.int64))[None]
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    places = np.flatnonzero(row.response_mask)
    return [-float(log_p[place - 1, row.input_ids[place]]) for place in places]


RAGGED = [
    encoded("a", [2, 60, 1, 3], [20, 21, 22, 1]),
    encoded("b", [2, 60, 61, 62, 63, 64, 1, 3], [30, 1]),
    encoded("c", [2, 3], [9] * 17),
]


def test_padding_changes_no_loss(model):
    batch = collate(RAGGED, pad_id=0)
    losses = token_nll(model, batch)
    assert losses.counts.tolist() == [4, 2, 17]
    for row, nll in zip(RAGGED, losses.nll.split([4, 2, 17]), strict=True):
        np.testing.assert_allclose(nll.detach(), one_by_one(model, row), atol=1e-5)


def test_losses_and_entropy_from_one_softmax():
    log_p = torch.tensor([[0.5, 0.25, 0.25], [1e-30, 1.0, 1e-30]]).log()
    nll, entropy = losses_and_entropy(log_p, torch.tensor([1, 1]))
    np.testing.assert_allclose(nll, [np.log(4), 0], atol=1e-6)
    np.testing.assert_allclose(entropy, [1.5 * np.log(2), 0], atol=1e-6)


def test_sample_loss_is_the_mean_over_its_own_response_tokens(model):
    batch = collate(RAGGED, pad_id=0)
    expected = [np.mean(one_by_one(model, row)) for row in RAGGED]
    np.testing.assert_allclose(mean_nll(model, batch), expected, atol=1e-5)


def test_the_pad_id_is_never_seen(model):
    one, other = (mean_nll(model, collate(RAGGED, pad_id=pad)) for pad in (0, 77))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_first_token_is_predicted_from_nothing_and_not_from_padding(model):
    row, longer = encoded("no prompt", [], [30, 31, 32]), encoded("long", [2] * 9, [20, 21])
    alone = float(mean_nll(model, collate([row], 0)))
    np.testing.assert_allclose(
        float(mean_nll(model, collate([longer, row], 0))[1]), alone, atol=1e-5
    )
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([[30, 31, 32]])).logits[0].log_softmax(-1)
    np.testing.assert_allclose(alone, -float(log_p[0, 31] + log_p[1, 32]) / 2, atol=1e-5)


def test_two_turns_are_one_mean(model):
    row = encoded("x", [2, 60, 1, 3], [20, 21, 1])
    ids = np.concatenate([row.input_ids, row.input_ids])
    both = type(row)("x", ids, np.concatenate([row.response_mask, row.response_mask]), False)
    np.testing.assert_allclose(
        float(mean_nll(model, collate([both], 0))), np.mean(one_by_one(model, both)), atol=1e-5
    )


def test_gradient_of_a_weighted_sum_equals_the_weighted_sum_of_gradients(model):
    rows, weights = make_pool(4), torch.tensor([0.1, 2.0, 0.0, 0.7])
    head = model.get_input_embeddings().weight
    (weights * sample_nll(token_nll(model, collate(rows, 0)))).sum().backward()
    together = head.grad.clone()
    head.grad = None
    for row, weight in zip(rows, weights, strict=True):
        (weight * sample_nll(token_nll(model, collate([row], 0)))[0]).backward()
    torch.testing.assert_close(together, head.grad, atol=1e-6, rtol=1e-5)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128}
GROUPED = {**SMALL, "num_key_value_heads": 1, "intermediate_size": 32}
ARCHITECTURES = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 128},
    "gpt_neox": {**SMALL, "intermediate_size": 32},
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 8},
    "mistral": GROUPED,
    "phi3": {**GROUPED, "pad_token_id": 0},
    "falcon": SMALL,
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 128},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_padding_changes_no_loss_in_any_architecture(kind):
    special = {"bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, **{**special, **ARCHITECTURES[kind]})
    model = AutoModelForCausalLM.from_config(config).eval()
    alone = [float(mean_nll(model, collate([row], 0))) for row in RAGGED]
    np.testing.assert_allclose(mean_nll(model, collate(RAGGED, 0)), alone, atol=1e-5)


BACKENDS = ["plain_chunked", "torch_chunked", "trl"]
HEADS = {
    "llama": GROUPED,
    "gpt2": ARCHITECTURES["gpt2"],  # the output layer is tied to the embeddings
    "gpt_neox": ARCHITECTURES["gpt_neox"],
    "phi": {**SMALL, "intermediate_size": 32},  # a bias
    "gemma2": {**ARCHITECTURES["gemma2"], "final_logit_softcapping": 3.0},
    "cohere": {**GROUPED, "num_key_value_heads": 2, "logit_scale": 0.0625},  # multiplies by it
    "granite": {**GROUPED, "logits_scaling": 8.0},  # divides by it
    "mixtral": {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1},
}


def random_model(kind):
    config = AutoConfig.for_model(kind, **{"bos_token_id": 1, "eos_token_id": 1, **HEADS[kind]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.get_output_embeddings().weight.data *= 20  # logits of a size at which a cap shows
    if kind == "phi":
        model.lm_head.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    return model


def losses_and_gradients(model, name):
    set_loss_backend(model, name)
    losses = token_nll(model, collate(RAGGED, 0))
    weights = torch.linspace(-1, 3, losses.nll.numel())
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad((weights * losses.nll).sum(), trained, allow_unused=True)
    return losses, gradients


@pytest.mark.parametrize(
    ("kind", "adapted"),
    [*((kind, False) for kind in HEADS), ("llama", True), ("phi", True), ("gemma2", True)],
)
@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_gives_the_plain_losses_and_gradients(name, kind, adapted):
    model = random_model(kind)
    if adapted:
        model = add_lora(model, LoraSpec(r=2, target_modules="all-linear"), seed=0)
        for key, weight in model.named_parameters():
            if ".lora_B." in key:
                weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    if (name, kind) == ("torch_chunked", "gemma2"):
        set_loss_backend(model, name)
        with pytest.raises(ValueError, match=r"torch_chunked is refused: it cannot cap .* at 3\."):
            token_nll(model, collate(RAGGED, 0))
        return
    (expected, counts), expected_gradients = losses_and_gradients(model, "plain")
    (found, found_counts), gradients = losses_and_gradients(model, name)
    assert torch.equal(counts, found_counts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert any(gradient.abs().max() > 0 for gradient in expected_gradients if gradient is not None)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_the_setting_of_a_model_reaches_its_copies_and_adapters(tiny_model_dir):
    spec = ModelSpec(path=str(tiny_model_dir), loss_backend="liger")
    model = load_model(spec).model
    for other in (model, copy.deepcopy(model), add_lora(model, LoraSpec(r=2), seed=0)):
        with pytest.raises(ValueError, match=r"model\.loss_backend=liger is refused: "):
            token_nll(other, collate(RAGGED, 0))


def test_an_unknown_backend_is_no_setting():
    with pytest.raises(ValueError, match="loss_backend"):
        ModelSpec(path="x", loss_backend="fast")


def test_an_adapter_on_the_output_layer_keeps_the_plain_loss(monkeypatch, caplog):
    monkeypatch.setattr(choice, "LOGITS_BUDGET", 0)
    plain = random_model("phi")
    model = add_lora(plain, LoraSpec(r=2, target_modules=("lm_head",)), seed=0)
    choice._warn_once.cache_clear()
    token_nll(model, collate(RAGGED, 0))
    (record,) = caplog.records
    assert "all the logits at once, for PhiForCausalLM: its output layer" in record.message
    assert "peft.tuners.lora.layer.Linear" in record.message
    set_loss_backend(model, "trl")
    with pytest.raises(ValueError, match="trl is refused: PhiForCausalLM: its output layer"):
        token_nll(model, collate(RAGGED, 0))


class Counting(LossBackend):
    name = "counting"

    def __init__(self):
        self.rows = []

    def refusal(self, head):  # noqa: ARG002
        return None

    def token_nll(self, hidden, labels, head):
        self.rows.append(len(hidden))
        return head.nll(hidden, labels)


def test_only_response_tokens_are_projected_and_every_block_runs_once(model, monkeypatch):
    backend = Counting()
    monkeypatch.setitem(choice.BACKENDS, "counting", backend)
    set_loss_backend(model, "counting")
    runs = []
    for block in model.get_decoder().layers:
        block.register_forward_hook(lambda *_: runs.append(1))
    token_nll(model, collate(RAGGED, 0))  # the first use: the head is probed, the backend tested
    assert len(runs) == len(model.get_decoder().layers)
    assert backend.rows[-1] == sum(int(row.response_mask.sum()) for row in RAGGED)


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.made.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("name", ["plain", "counting"])
def test_the_model_itself_makes_no_logits(name, model, monkeypatch):
    monkeypatch.setitem(choice.BACKENDS, "counting", Counting())
    set_loss_backend(model, name)
    batch = collate(RAGGED, 0)
    token_nll(model, batch)
    with Shapes() as shapes:
        token_nll(model, batch)
    num_words = model.config.vocab_size
    made = {shape for shape in shapes.made if len(shape) == 3 and shape[-1] == num_words}
    assert made == ({(3, 17, num_words)} if name == "plain" else {(3, 0, num_words)})


@pytest.mark.parametrize("name", BACKENDS)
def test_a_first_use_while_scoring(name, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(choice, "_tested", {})
    model = load_model(ModelSpec(path=str(tiny_model_dir), loss_backend=name)).model
    with torch.inference_mode():
        found = mean_nll(model, collate(RAGGED, 0))
    expected = [np.mean(one_by_one(model, row)) for row in RAGGED]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_losses_of_a_half_precision_model_are_made_in_float32(tiny_model_dir):
    model = load_model(ModelSpec(path=str(tiny_model_dir), dtype="bfloat16")).model
    batch = collate(RAGGED[:1], pad_id=0)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        found = token_nll(model, batch).nll
        assert response_logits(model, batch).logits.dtype == torch.float32
    assert (logits.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    places = torch.from_numpy(np.flatnonzero(RAGGED[0].response_mask))
    log_p = logits[0].double().log_softmax(-1)[places - 1]
    expected = -log_p[torch.arange(len(places)), batch.input_ids[0, places]]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
