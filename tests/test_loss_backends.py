import inspect
import logging
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from seal.loss_backends import choice, chunks, liger, trl_fused
from seal.loss_backends.backend import IGNORED, Head, LossBackend, nll_of
from seal.loss_backends.choice import BACKENDS, choose, refusal, set_loss_backend
from seal.loss_backends.heads import find_head
from seal.loss_backends.self_test import self_test
from tiny_model import make_model

ON_CPU = ["plain_chunked", "torch_chunked", "trl"]


def make_head(num_words=57, *, bias=False, dtype=torch.float32, scale=1.0, softcap=None) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(12, num_words, bias=bias, dtype=dtype)
        layer.weight.data *= 8
    return Head(layer, layer.weight, layer.bias, scale, softcap)


def make_inputs(num_tokens, num_words=57, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(num_tokens, 12, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(num_words, (num_tokens,), generator=generator)
    labels[0] = IGNORED
    return hidden, labels, torch.randn(num_tokens, generator=generator)


def written_out(hidden, labels, head):
    """-log p(label), token by token, without any of our code."""
    losses = []
    for vector, label in zip(hidden, labels.tolist(), strict=True):
        logits = head.weight @ vector + (0 if head.bias is None else head.bias)
        logits = logits * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        losses.append(logits.sum() * 0 if label == IGNORED else -logits.log_softmax(-1)[label])
    return torch.stack(losses)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    monkeypatch.setattr(choice, "_tested", {})
    choice._warn_once.cache_clear()


HEADS = {
    "bare": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.25},
    "capped": {"softcap": 5.0},
    "all": {"bias": True, "scale": 0.5, "softcap": 4.0},
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", ON_CPU)
def test_losses_and_gradients_are_those_of_the_written_out_loss(name, kind, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 57 * 4)  # 4 tokens at a time, then 3
    monkeypatch.setattr(trl_fused, "_SMALL_TILE", 10)
    head = make_head(**HEADS[kind])
    if BACKENDS[name].refusal(head) is not None:
        assert (name, kind) in {("torch_chunked", "capped"), ("torch_chunked", "all")}
        return
    hidden, labels, upstream = make_inputs(23)
    inputs = [hidden, *head.layer.parameters()]
    expected = written_out(hidden, labels, head)
    found = BACKENDS[name].token_nll(hidden, labels, head)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found[0] == 0
    for one, other in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ON_CPU)
def test_nothing_else_is_needed_to_score_without_a_graph(name):
    head, (hidden, labels, _) = make_head(), make_inputs(9)
    expected = written_out(hidden, labels, head)
    with torch.inference_mode():
        found = BACKENDS[name].token_nll(hidden, labels, head)
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)


def test_losses_over_a_real_vocabulary_are_right_to_the_last_digits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 49_152, generator=generator) * 2
    labels = torch.randint(49_152, (20,), generator=generator)
    logits[torch.arange(20), labels] += 14  # a sum of one large number and many small ones
    expected = -logits.double().log_softmax(1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(nll_of(logits, labels).double(), expected, atol=4e-6, rtol=0)


def saved_bytes(function) -> int:
    """Of the tensors that are kept for the backward pass, each memory once."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = function()
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["torch_chunked", "trl"])
def test_no_logits_are_kept_for_the_backward_pass(name):
    num_tokens, num_words = 500, 3000
    head, (hidden, labels, _) = make_head(num_words), make_inputs(num_tokens, num_words)
    logits = num_tokens * num_words * 4
    inputs = (hidden.numel() + head.weight.numel() + 4 * num_tokens) * 4
    plain = saved_bytes(lambda: head.nll(hidden, labels))
    assert plain >= logits
    kept = saved_bytes(lambda: BACKENDS[name].token_nll(hidden, labels, head))
    assert 0 < kept <= inputs < logits / 10


def test_chunks_of_the_plain_loss_are_never_larger_than_said(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 3000 * 40)
    head, (hidden, labels, upstream) = make_head(3000), make_inputs(100, 3000)
    sizes = []
    original = Head.logits
    monkeypatch.setattr(Head, "logits", lambda *args: sizes.append(len(args[1])) or original(*args))
    (BACKENDS["plain_chunked"].token_nll(hidden, labels, head) * upstream).sum().backward()
    assert sizes[:3] == [40, 40, 20]  # forward; then again, in the backward pass
    assert sorted(sizes[3:]) == [20, 40, 40]


def test_logits_of_a_frozen_layer_are_made_once_and_not_kept(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 3000 * 40)
    head, (hidden, labels, upstream) = make_head(3000), make_inputs(100, 3000)
    head.layer.requires_grad_(False)
    (expected,) = torch.autograd.grad(head.nll(hidden, labels), hidden, upstream)
    sizes = []
    original = Head.logits
    monkeypatch.setattr(Head, "logits", lambda *args: sizes.append(len(args[1])) or original(*args))
    losses = BACKENDS["plain_chunked"].token_nll(hidden, labels, head)
    (kept,) = losses.grad_fn.saved_tensors
    assert kept.shape == hidden.shape
    (found,) = torch.autograd.grad(losses, hidden, upstream)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert sizes == [40, 40, 20]


class Wrong(LossBackend):
    """Right losses and, made of them, wrong gradients."""

    name: ClassVar[str] = "wrong"

    def __init__(self, spoil) -> None:
        self.spoil = spoil

    def refusal(self, head):  # noqa: ARG002
        return None

    def token_nll(self, hidden, labels, head):
        return self.spoil(head.nll(hidden, labels), labels)


class FirstUpstream(torch.autograd.Function):
    """What Liger did up to 0.8.1."""

    @staticmethod
    def forward(ctx, losses):  # noqa: ARG004
        return losses.clone()

    @staticmethod
    def backward(ctx, upstream):  # noqa: ARG004
        return upstream[0].expand_as(upstream)


class MeanUpstream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, losses):  # noqa: ARG004
        return losses.clone()

    @staticmethod
    def backward(ctx, upstream):  # noqa: ARG004
        return upstream.mean().expand_as(upstream)


def fail(*_):
    raise RuntimeError("no kernel image\nmore")


WRONG = {
    "first": (lambda losses, _: FirstUpstream.apply(losses), "gradient of hidden"),
    "mean": (lambda losses, _: MeanUpstream.apply(losses), "gradient of weight"),
    "off": (lambda losses, _: losses * 1.001, "losses by 1.0e-03"),
    "ignored": (lambda losses, labels: losses + 0.01 * (labels == IGNORED), "losses by"),
    "nan": (lambda losses, _: losses * float("nan"), "losses by nan"),
    "half": (lambda losses, _: losses.bfloat16(), "torch.bfloat16"),
    "fails": (fail, "its self-test raised RuntimeError: no kernel image"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_backend_fails_its_test(kind):
    spoil, said = WRONG[kind]
    problem = self_test(Wrong(spoil), make_head(bias=True))
    assert problem is not None
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["plain", *ON_CPU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_backend_passes_in_every_dtype(name, dtype):
    right = Wrong(lambda losses, _: losses)
    backend = right if name == "plain" else BACKENDS[name]
    for kind in HEADS if dtype == torch.float32 else ["bias"]:
        head = make_head(**HEADS[kind], dtype=dtype)
        if backend.refusal(head) is None:
            assert self_test(backend, head) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_never_rounded_to_half_precision(dtype):
    said = BACKENDS["torch_chunked"].refusal(make_head(dtype=dtype))
    assert said == f"it would round every loss to {str(dtype)[6:]}"


def test_the_test_leaves_the_random_state_alone_and_runs_while_scoring():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        assert self_test(BACKENDS["trl"], make_head()) is None
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_backend_is_tested_once_for_each_kind_of_head(monkeypatch):
    tests = []
    monkeypatch.setattr(choice, "self_test", lambda *args: tests.append(args))
    one, other = make_head(), make_head(bias=True)
    for head in (one, one, other, make_head(dtype=torch.bfloat16)):
        refusal(BACKENDS["plain_chunked"], head)
    refusal(BACKENDS["trl"], one)
    assert len(tests) == 4


def test_a_wrong_backend_that_was_asked_for_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(BACKENDS, "trl", Wrong(WRONG["first"][0]))
    model = make_model(320)
    set_loss_backend(model, "trl")
    with pytest.raises(ValueError, match=r"^model\.loss_backend=trl is refused: .*float32: losses"):
        choose(model, 8)


def test_auto_passes_over_a_wrong_backend_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(choice, "LOGITS_BUDGET", 0)
    monkeypatch.setattr(choice, "_ELSEWHERE", choice._ON_CUDA[1:])
    monkeypatch.setitem(BACKENDS, "torch_chunked", Wrong(WRONG["mean"][0]))
    model = make_model(320)
    with caplog.at_level(logging.WARNING):
        chosen = [choose(model, 8) for _ in range(3)]
    assert {one and one.backend.name for one in chosen} == {"plain_chunked"}
    (record,) = caplog.records
    assert "the loss backend torch_chunked is passed over: its self-test differs" in record.message


def test_auto_takes_the_plain_loss_at_last(monkeypatch, caplog):
    monkeypatch.setattr(choice, "LOGITS_BUDGET", 0)
    for name in ("torch_chunked", "plain_chunked"):
        monkeypatch.setitem(BACKENDS, name, Wrong(fail))
    assert choose(make_model(320), 8) is None
    assert "computed from all the logits at once" in caplog.records[-1].message


def test_auto_keeps_the_plain_loss_up_to_the_budget(monkeypatch):
    monkeypatch.setattr(choice, "LOGITS_BUDGET", 10 * 320 * 4)
    model = make_model(320)
    assert choose(model, 10) is None
    chosen = choose(model, 11)
    assert chosen is not None
    assert chosen.backend.name == "plain_chunked"
    set_loss_backend(model, "plain")
    assert choose(model, 11) is None


@pytest.mark.parametrize("why", ["frozen", "scoring"])
def test_auto_makes_no_logits_but_those_of_responses_where_they_are_made_once(why):
    model = make_model(320).requires_grad_(why != "frozen")
    with torch.set_grad_enabled(why == "frozen"):
        chosen = choose(model, 1)
    assert chosen is not None
    assert chosen.backend.name == "plain_chunked"


def test_auto_prefers_trl_on_cuda(monkeypatch):
    model = make_model(320)
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(choice, "_ELSEWHERE", choice._ON_CUDA)  # the weights are on the CPU
    chosen = choose(model, 1)  # however few the logits
    assert chosen is not None
    assert chosen.backend.name == "trl"


def test_torch_without_the_function_is_refused(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy")
    assert "needs torch 2.13 or newer" in BACKENDS["torch_chunked"].refusal(make_head())


def test_a_trl_with_other_arguments_is_refused(monkeypatch):
    function = trl_fused._function()
    assert tuple(inspect.signature(function.forward).parameters) == trl_fused._ARGUMENTS
    monkeypatch.setattr(function, "forward", lambda ctx, hidden, weight, targets: None)  # noqa: ARG005
    assert "takes other arguments than that of TRL 1.16" in BACKENDS["trl"].refusal(make_head())


def test_a_trl_without_the_function_is_refused(monkeypatch):
    import trl.kernels

    monkeypatch.delattr(trl.kernels, "ChunkedLogProbFunction")
    assert "has no trl.kernels.ChunkedLogProbFunction" in BACKENDS["trl"].refusal(make_head())


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ("0.8.1", "liger-kernel 0.8.1 computes wrong gradients"),
        ("0.5.10", "needs 0.8.2 or newer"),
        ("0.8.2", "it needs CUDA, and the model is on cpu"),
        ("0.10.0", "it needs CUDA"),
        ("1.0.dev3", "it needs CUDA"),
    ],
)
def test_liger_is_refused_below_0_8_2_and_without_cuda(installed, said, monkeypatch):
    monkeypatch.setattr(liger, "version", lambda _: installed)
    assert said in BACKENDS["liger"].refusal(make_head())


def test_liger_that_is_not_there_is_refused_with_the_way_to_get_it(monkeypatch):
    def version(name):
        raise liger.PackageNotFoundError(name)

    monkeypatch.setattr(liger, "version", version)
    model = make_model(320)
    set_loss_backend(model, "liger")
    with pytest.raises(ValueError, match=r"loss_backend=liger .* pip install 'seal\[gpu\]'\. Set"):
        choose(model, 8)


def test_a_foreign_model_keeps_its_own_loss(monkeypatch):
    monkeypatch.setattr(choice, "LOGITS_BUDGET", 0)
    foreign = nn.Linear(2, 2)
    assert choose(foreign, 8) is None
    set_loss_backend(foreign, "trl")
    with pytest.raises(ValueError, match="trl is refused: Linear: not a model of transformers"):
        choose(foreign, 8)


def test_the_head_of_a_model_that_changes_its_logits_is_refused(monkeypatch):
    model = make_model(320)
    original = type(model).forward

    def forward(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        output.logits = output.logits - 0.001 * output.logits.square()
        return output

    assert isinstance(find_head(model), Head)
    monkeypatch.setattr(type(model), "forward", forward)
    assert "logits are not its output layer's" in find_head(make_model(320))


def test_a_head_that_others_listen_to_is_left_alone():
    model = make_model(320)
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    assert "wants its logits" in find_head(model)
    handle.remove()
    assert isinstance(find_head(model), Head)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["plain_chunked", "torch_chunked", "trl", "liger"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backends_pass_on_cuda(name, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer = make_head(bias=False, dtype=dtype).layer.cuda()
    head = Head(layer, layer.weight, None)
    reason = BACKENDS[name].refusal(head)
    if reason is not None:  # not installed, for one: nothing was tested
        pytest.skip(reason)
    assert self_test(BACKENDS[name], head) is None
