"""An adapter folder as the model: its base with it in every stage, and trained on from there."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from seal.artifacts.adapter import Adapter
from seal.cli import main
from seal.data.tokenize import Encoded
from seal.mergers.interpolate import Interpolate
from seal.models import LoraSpec, ModelSpec, load_model, load_tokenizer, loaded_identity, quiet_peft
from seal.stages.merge import merge
from seal.stages.train import TrainSettings, train

TOKENS = torch.arange(5, 45).reshape(2, 20)
ROW = np.arange(5, 25, dtype=np.int32)
ROWS = [Encoded("x", ROW, ROW > 8, False)]


def make_adapter(base: Path, folder: Path, *, seed: int = 3, **settings) -> Path:
    """An adapter with large random factors, saved by PEFT itself."""
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"], **settings}
    model = AutoModelForCausalLM.from_pretrained(base)
    with quiet_peft(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about tied embeddings
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) * 0.2
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS, use_cache=False).logits.float()


def as_peft_reads_it(folder: Path) -> torch.Tensor:
    """A stranger's way: the base that the adapter names, and the adapter over it."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    with quiet_peft():
        model = AutoModelForCausalLM.from_pretrained(base)
        return logits(peft.PeftModel.from_pretrained(model, str(folder)).eval())


def trained(spec: ModelSpec, folder: Path, **settings) -> Adapter:
    settings.setdefault("lora", LoraSpec(r=3, alpha=5, target_modules=("q_proj", "v_proj")))
    args = {"learning_rate": 0.05, "num_train_epochs": 4}
    return train(spec, ROWS, TrainSettings(args=args, **settings), folder, seed=0)


@pytest.fixture
def adapter(tiny_model_dir, tmp_path) -> Path:
    return make_adapter(tiny_model_dir, tmp_path / "user")


def test_the_model_is_the_base_with_the_adapter_in_it(tiny_model_dir, adapter):
    found = load_model(ModelSpec(path=str(adapter)))
    assert not isinstance(found.model, peft.PeftModel)
    assert not [name for name, _ in found.model.named_parameters() if "lora" in name]
    torch.testing.assert_close(logits(found.model), as_peft_reads_it(adapter), rtol=1e-4, atol=1e-5)
    base = logits(load_model(ModelSpec(path=str(tiny_model_dir))).model)
    assert (logits(found.model) - base).abs().max() > 0.01


def test_in_half_precision_the_sum_is_rounded_once(tiny_model_dir, adapter):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).state_dict()
    found = load_model(ModelSpec(path=str(adapter), dtype="bfloat16")).model.state_dict()
    saved = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (saved[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = (base[f"{name}.weight"].float() + 3 * b @ a).bfloat16()
    assert int((found[f"{name}.weight"] != expected).sum()) <= 2
    assert all(value.dtype == torch.bfloat16 for value in found.values())


@pytest.mark.parametrize(
    ("start", "peft_fields"),
    [
        ({}, {"use_rslora": True, "alpha_pattern": {"v_proj": 9}}),
        ({"use_rslora": True, "r": 4}, {"rank_pattern": {"q_proj": 1}}),
        ({"rank_pattern": {"up_proj": 5}, "alpha_pattern": {"layers.1.self_attn.q_proj": 1}}, {}),
        ({"target_modules": ["o_proj"], "layers_to_transform": [1]}, {}),
    ],
)
def test_training_goes_on_from_the_adapter_and_saves_both_as_one(
    tiny_model_dir, tmp_path, start, peft_fields
):
    folder = make_adapter(tiny_model_dir, tmp_path / "user", **start)
    spec = ModelSpec(path=str(folder))
    before = load_file(folder / "adapter_model.safetensors")

    made = trained(spec, tmp_path / "train", peft=peft_fields)
    # The same training from the merged model, as any user could do it by hand.
    load_model(spec).model.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "merged")
    by_hand = trained(
        ModelSpec(path=str(tmp_path / "merged")), tmp_path / "by-hand", peft=peft_fields
    )
    expected = as_peft_reads_it(by_hand.path)

    for found in (as_peft_reads_it(made.path), logits(load_model(spec, made.path).model)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - as_peft_reads_it(folder)).abs().max() > 0.01  # something was learnt
    assert load_file(folder / "adapter_model.safetensors").keys() == before.keys()
    config = json.loads((made.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model_dir)


def test_what_was_trained_on_an_adapter_is_merged_with_it(adapter, tmp_path):
    spec = ModelSpec(path=str(adapter))
    made = trained(spec, tmp_path / "train")
    folder = merge(spec, made, tmp_path / "merged")
    found = logits(load_model(ModelSpec(path=str(folder))).model)
    torch.testing.assert_close(found, as_peft_reads_it(made.path), rtol=1e-4, atol=1e-4)


def test_interpolation_ends_at_the_adapter_that_was_started_from(adapter, tmp_path):
    spec = ModelSpec(path=str(adapter))
    made = trained(spec, tmp_path / "train")
    ends = {0.0: logits(load_model(spec).model), 1.0: logits(load_model(spec, made.path).model)}
    for weight, expected in ends.items():
        merger = Interpolate(of="all", weight=weight)
        torch.testing.assert_close(
            logits(merger.load(spec, made).model), expected, rtol=1e-4, atol=1e-4
        )
        saved = merger.save(spec, made, tmp_path / f"at-{weight}")
        torch.testing.assert_close(as_peft_reads_it(saved.path), expected, rtol=1e-4, atol=1e-4)
    assert (ends[0.0] - ends[1.0]).abs().max() > 0.01


def test_all_weights_are_trained_from_the_merged_ones(adapter, tmp_path):
    made = trained(
        ModelSpec(path=str(adapter), dtype="float32"),
        tmp_path / "t",
        tuning="full",
        lora=LoraSpec(),
    )
    whole = load_file(made.path / "model.safetensors")
    start = load_model(ModelSpec(path=str(adapter))).model.state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    steps = (whole[name] - start[name]).abs().max()
    assert 0 < steps < 0.3  # four steps of Adam at .05
    assert AutoTokenizer.from_pretrained(made.path).chat_template is not None


def test_identity_hashes_the_adapter_and_its_base(tiny_model_dir, tmp_path):
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    folder = make_adapter(base, tmp_path / "user")
    spec = ModelSpec(path=str(folder))
    before = loaded_identity(spec)
    assert (
        loaded_identity(spec)
        == before
        == {**{name: load_model(spec).identity[name] for name in before}}
    )
    seen = [before]
    for path in (base / "model.safetensors", base / "config.json", folder / "adapter_config.json"):
        if path.suffix == ".json":
            path.write_text(path.read_text() + "\n")
        else:
            tensors = load_file(path)
            tensors["model.norm.weight"] += 1
            save_file(tensors, path, metadata={"format": "pt"})
        now = loaded_identity(spec)
        assert now not in seen
        seen.append(now)


def test_the_base_may_lie_beside_the_adapter(tiny_model_dir, tmp_path, monkeypatch):
    shutil.copytree(tiny_model_dir, tmp_path / "models" / "base")
    folder = make_adapter(tiny_model_dir, tmp_path / "models" / "user")
    expected = logits(load_model(ModelSpec(path=str(folder))).model)
    config = json.loads((folder / "adapter_config.json").read_text())
    for named in ("../base", "models/base"):  # of the adapter's folder, and of the working folder
        monkeypatch.chdir(tmp_path)
        config["base_model_name_or_path"] = named
        (folder / "adapter_config.json").write_text(json.dumps(config))
        assert torch.equal(logits(load_model(ModelSpec(path="models/user")).model), expected)


def test_the_adapters_own_tokenizer_and_template_come_first(tiny_model_dir, adapter):
    spec = ModelSpec(path=str(adapter))
    base = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert load_tokenizer(spec).chat_template == base.chat_template
    own = base.chat_template + "{# mine #}"
    (adapter / "chat_template.jinja").write_text(own)
    assert load_tokenizer(spec).chat_template == own
    assert load_tokenizer(spec).get_vocab() == base.get_vocab()
    base.chat_template = base.chat_template + "{# saved with it #}"
    base.save_pretrained(adapter)
    assert load_tokenizer(spec).chat_template.endswith("{# saved with it #}")


def spoil(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def pickled(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: spoil(f, peft_type="IA3"), "an adapter of the kind IA3; as a model"),
        (lambda f: spoil(f, base_model_name_or_path=None), "does not say which model"),
        (lambda f: spoil(f, base_model_name_or_path="gone/away"), "is an adapter on gone/away"),
        (pickled, r"pickled weights \(adapter_model.bin\) are not read"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "no readable JSON"),
        (
            lambda f: save_file({"a": torch.ones(1)}, f / "model.safetensors"),
            "both a whole model",
        ),
        (
            lambda f: save_file({"a": torch.ones(1)}, f / "adapter_model.safetensors"),
            "not an adapter that fits its base",
        ),
    ],
)
def test_what_is_no_model_is_refused(adapter, change, said):
    change(adapter)
    with pytest.raises(ValueError, match=said):
        load_model(ModelSpec(path=str(adapter)))


def test_an_adapter_on_an_adapter_is_refused_with_a_command(tiny_model_dir, adapter, tmp_path):
    second = make_adapter(tiny_model_dir, tmp_path / "second")
    spoil(second, base_model_name_or_path=str(adapter))
    with pytest.raises(ValueError, match=f"seal merge-adapter {adapter} OUT"):
        load_model(ModelSpec(path=str(second)))


def test_quantized_weights_are_not_merged_into(adapter):
    with pytest.raises(ValueError, match="cannot be worked into weights of 4bit"):
        load_model(ModelSpec(path=str(adapter), quantization="4bit"))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"use_dora": True}, "rescales the sum"),
        ({"bias": "lora_only"}, r"has biases \(bias=lora_only\)"),
        ({"modules_to_save": ["down_proj"]}, "holds whole layers"),
    ],
)
def test_what_cannot_be_saved_as_one_is_merged_first(tiny_model_dir, tmp_path, capsys, start, said):
    folder = make_adapter(tiny_model_dir, tmp_path / "user", **start)
    expected = as_peft_reads_it(folder)
    found = logits(load_model(ModelSpec(path=str(folder))).model)  # to rank and measure it is fine
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=said) as caught:
        trained(ModelSpec(path=str(folder)), tmp_path / "t")
    assert f"seal merge-adapter {folder} OUT" in str(caught.value)

    out = tmp_path / "whole"
    assert main(["merge-adapter", str(folder), str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(out)), expected, rtol=1e-4, atol=1e-4
    )
    trained(ModelSpec(path=str(out)), tmp_path / "t")
    assert main(["merge-adapter", str(folder), str(out)]) == 2
    assert main(["merge-adapter", str(tiny_model_dir), str(tmp_path / "o")]) == 2


def test_an_adapter_to_train_that_cannot_be_joined_is_refused(adapter, tmp_path):
    with pytest.raises(ValueError, match=r"train.peft: the adapter to train .*use_dora"):
        trained(ModelSpec(path=str(adapter)), tmp_path / "t", peft={"use_dora": True})


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_an_adapter_on_shared_embeddings_is_refused(tiny_model_dir, tmp_path, module):
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    folder = make_adapter(base, tmp_path / "user", target_modules=["q_proj", module])
    with pytest.raises(ValueError, match=f"this adapter trains {module} of"):
        load_model(ModelSpec(path=str(folder)))
