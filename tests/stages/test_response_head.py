"""The output layer of training: TRL's numbers, from the response tokens alone."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from seal.data.tokenize import Encoded
from seal.loss_backends import choice, chunks
from seal.models import ModelSpec, load_model
from seal.stages import fitting, response_head
from seal.stages.train import TrainSettings, train

ARGS = {"learning_rate": 1e-2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}
METRICS = ("loss", "entropy", "mean_token_accuracy", "grad_norm", "num_tokens")


def samples(num):
    made = []
    for i in range(num):
        length = 6 + 5 * i % 23
        tokens = np.random.default_rng(i).integers(5, 300, length).astype(np.int32)
        mask = np.arange(length) >= 2 + i % 4
        mask[-1] = i % 3 > 0  # holes, too
        made.append(Encoded(f"s{i}", tokens, mask, False))
    return made


@pytest.fixture
def spec(tiny_model_dir):
    return ModelSpec(path=str(tiny_model_dir))


def trained(spec, folder, settings):
    adapter = train(spec, samples(8), settings, folder, seed=0)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return log, load_file(next(adapter.path.glob("*.safetensors")))


@pytest.fixture
def is_used(monkeypatch):
    """Calls of our own output layer."""
    calls = []
    original = response_head.response_outputs
    monkeypatch.setattr(
        response_head, "response_outputs", lambda *args: calls.append(1) or original(*args)
    )
    return calls


@pytest.mark.parametrize(
    ("tuning", "extra"),
    [
        ("lora", {"gradient_accumulation_steps": 3}),  # micro-batches of unequal numbers of tokens
        ("lora", {"padding_free": True}),
        ("lora", {"loss_type": "dft"}),
        ("lora", {"label_smoothing_factor": 0.2}),
        ("lora", {"neftune_noise_alpha": 5.0, "gradient_checkpointing": True}),
        ("lora", {"average_tokens_across_devices": False, "gradient_accumulation_steps": 2}),
        ("full", {"gradient_accumulation_steps": 3}),
        ("full", {"bf16": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@pytest.mark.filterwarnings("ignore:.*label_smoothing_factor.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*[Pp]adding-free.*:UserWarning")
def test_a_training_is_that_of_trls_own_output_layer(
    spec, tmp_path, monkeypatch, is_used, tuning, extra
):
    settings = TrainSettings(tuning=tuning, args=ARGS | {"num_train_epochs": 1} | extra)
    log, weights = trained(spec, tmp_path / "ours", settings)
    assert len(is_used) == 3
    monkeypatch.setattr(fitting, "put_response_head", lambda model: False)  # noqa: ARG005
    expected_log, expected = trained(spec, tmp_path / "trl", settings)
    assert len(is_used) == 3
    tolerance = 2e-2 if "bf16" in extra else 1e-5
    for one, other in zip(log, expected_log, strict=True):
        assert one.keys() == other.keys()
        for name in other.keys() & set(METRICS):
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance)
    if "bf16" in extra:
        return
    for name, values in expected.items():
        torch.testing.assert_close(weights[name], values, atol=2e-5, rtol=1e-4)


def test_a_batch_without_any_loss_reaches_every_weight(spec):
    model = load_model(spec).model.requires_grad_(True)
    hidden = torch.randn(2, 5, model.config.hidden_size, requires_grad=True)
    head = response_head.find_head(model)
    said = response_head.response_outputs(hidden, torch.full((2, 5), -100), head)
    (-said.log_probs.sum()).backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert not hidden.grad.any()
    assert not head.weight.grad.any()
    assert not said.label_mask.any()


@pytest.mark.parametrize("is_frozen", [True, False])
def test_outputs_are_those_of_all_the_logits(spec, is_frozen, monkeypatch):
    model = load_model(spec).model.requires_grad_(not is_frozen)
    head = response_head.find_head(model)
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 3 * head.weight.shape[0])  # 3 tokens at a time
    if not is_frozen:
        monkeypatch.setattr(choice, "LOGITS_BUDGET", 0)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, model.config.hidden_size, generator=generator).requires_grad_()
    labels = torch.randint(300, (3, 7), generator=generator)
    labels[0, :4] = labels[1, 3] = labels[2] = -100
    upstream = torch.randn(3, 6, generator=generator)
    said = response_head.response_outputs(hidden, labels, head)

    log_p = (hidden[:, :-1] @ head.weight.T).double().log_softmax(-1)
    mask = labels[:, 1:] != -100
    expected = log_p.gather(2, labels[:, 1:, None].clamp(min=0)).squeeze(2) * mask
    entropy = -(log_p.exp() * log_p).sum(-1) * mask
    torch.testing.assert_close(said.log_probs.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said.entropy.double(), entropy, atol=1e-5, rtol=1e-5)
    assert torch.equal(said.is_top1.bool(), (log_p.argmax(-1) == labels[:, 1:]) & mask)
    assert torch.equal(said.label_mask, mask)
    assert not said.entropy.requires_grad

    inputs = [hidden] if is_frozen else [hidden, head.weight]
    found = torch.autograd.grad(said.log_probs, inputs, upstream)
    right = torch.autograd.grad(expected, inputs, upstream.double())
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


class Rows(TorchDispatchMode):
    """Counts the logits that are made, in rows."""

    def __init__(self, num_words):
        super().__init__()
        self.num_words = num_words
        self.num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_product = func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        if is_product and result.dim() == 2 and result.shape[1] == self.num_words:
            self.num += len(result)
        return result


def test_logits_are_made_once_and_of_response_tokens_only(spec, tmp_path):
    rows = samples(6)
    num = load_model(spec).model.config.vocab_size
    args = ARGS | {"per_device_train_batch_size": 6, "num_train_epochs": 1}
    with Rows(num) as counted:
        train(spec, rows, TrainSettings(args=args), tmp_path / "t", seed=0)
    probes = 2 * 4  # of the output layer: its own, and the model's
    probes += 5 + 2 * 5 + 2 * 2 * 12  # of padding: a row alone, beside another, and padded twice
    assert counted.num - probes in range(sum(int(row.response_mask[1:].sum()) for row in rows) + 5)


@pytest.mark.parametrize("name", ["trl", "torch_chunked"])
def test_a_backend_of_another_name_leaves_training_to_trl(tiny_model_dir, tmp_path, is_used, name):
    spec = ModelSpec(path=str(tiny_model_dir), loss_backend=name)
    train(spec, samples(3), TrainSettings(args=ARGS), tmp_path / "t", seed=0)
    assert not is_used


def test_on_cuda_only_a_plain_backend_takes_training_from_trl(spec, monkeypatch):
    model = load_model(spec).model
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert not response_head.put_response_head(model)
    choice.set_loss_backend(model, "plain_chunked")
    assert response_head.put_response_head(model)
