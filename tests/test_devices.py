"""Which device a process gets, and models in fewer bits."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from seal import devices
from seal.data.tokenize import Encoded
from seal.devices import quantized, resolve_device
from seal.models import ModelSpec, load_model, loaded_identity
from seal.processes import Processes
from seal.stages.merge import merge
from seal.stages.train import TrainSettings, train
from tiny_model import make_tokenizer

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `quantized` is missing"
)


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "processes", lambda: Processes(1, 2))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


@pytest.mark.usefixtures("second_of_two")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_gets_the_gpu_of_its_number(name):
    assert resolve_device(name) == torch.device("cuda:1")


@pytest.mark.usefixtures("second_of_two")
def test_one_gpu_for_several_processes_is_refused():
    with pytest.raises(ValueError, match=r"model\.device=cuda:0: one GPU, but 2 processes"):
        resolve_device("cuda:0")


@pytest.mark.usefixtures("second_of_two")
def test_a_launch_on_the_cpu_stays_there(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_quantization_is_a_part_of_the_identity_where_it_is_set(tiny_model_dir):
    plain = ModelSpec(path=str(tiny_model_dir))
    spec = plain.model_copy(update={"quantization": "4bit"})
    assert "quantization" not in loaded_identity(plain)
    assert loaded_identity(spec) == {**loaded_identity(plain), "quantization": "4bit"}
    assert spec.unquantized() == plain


def test_without_the_package(monkeypatch, tiny_model_dir):
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    assert quantized(None, torch.device("cpu")) == {}
    with pytest.raises(ValueError, match=r"needs bitsandbytes.*pip install 'seal\[quantized\]'"):
        load_model(ModelSpec(path=str(tiny_model_dir), quantization="4bit"))


@pytest.fixture
def quantizable(tmp_path) -> ModelSpec:
    """A model whose layers are as wide as bitsandbytes' blocks on a CPU."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "m")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    return ModelSpec(path=str(tmp_path / "m"), quantization="4bit", device="cpu")


def samples() -> list[Encoded]:
    tokens = np.arange(5, 15, dtype=np.int32)
    return [Encoded(f"s{place}", tokens + place, tokens > 8, False) for place in range(8)]


@torch.no_grad()
def logits(spec: ModelSpec, adapter: Path | None = None) -> torch.Tensor:
    return load_model(spec, adapter).model(input_ids=torch.arange(5, 15)[None]).logits.float()


@needs_bitsandbytes
def test_an_adapter_on_a_model_in_four_bits(quantizable, tmp_path):
    """Loads near to the whole model, trains, and merges into the whole one."""
    whole = quantizable.unquantized()
    layer = load_model(quantizable).model.get_submodule("model.layers.0.self_attn.q_proj")
    assert (layer.weight.dtype, type(layer).__name__) == (torch.uint8, "Linear4bit")
    distance = (logits(quantizable) - logits(whole)).norm() / logits(whole).norm()
    assert 1e-3 < distance < 0.1  # nf4 rounds
    args = {"learning_rate": 1e-2, "per_device_train_batch_size": 4}
    settings = TrainSettings(args={**args, "gradient_accumulation_steps": 1})
    adapter = train(quantizable, samples(), settings, tmp_path / "t", seed=0)
    log = [
        json.loads(line) for line in (tmp_path / "t" / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert log[3]["loss"] < log[0]["loss"]
    assert {
        value.dtype for value in load_file(adapter.path / "adapter_model.safetensors").values()
    } == {torch.bfloat16}
    folder = merge(whole, adapter, tmp_path / "merged")
    merged = logits(ModelSpec(path=str(folder)))
    assert torch.allclose(merged, logits(whole, adapter.path), atol=1e-4)
    assert not torch.allclose(merged, logits(whole), atol=1e-4)


@needs_bitsandbytes
def test_all_weights_cannot_be_trained_in_four_bits(quantizable, tmp_path):
    settings = TrainSettings(tuning="full")
    with pytest.raises(ValueError, match=r"train\.tuning=full changes all weights, but model\.q"):
        train(quantizable, samples(), settings, tmp_path / "t", seed=0)
