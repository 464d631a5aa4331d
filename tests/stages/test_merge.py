"""Merging: exact, checked, or refused."""

import json
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from seal.artifacts.adapter import Adapter
from seal.data.tokenize import Encoded
from seal.models import LoraSpec, ModelSpec, load_model, quiet_peft
from seal.stages.merge import merge
from seal.stages.train import TrainSettings, train


@pytest.fixture
def spec(tiny_model_dir) -> ModelSpec:
    return ModelSpec(path=str(tiny_model_dir))


def trained(spec: ModelSpec, folder, **settings) -> Adapter:
    """An adapter that is far from zero."""
    tokens = np.arange(5, 25, dtype=np.int32)
    row = Encoded("x", tokens, tokens > 8, False)
    settings.setdefault("lora", LoraSpec(r=3, alpha=5))
    args = {"learning_rate": 0.05, "num_train_epochs": 4}
    return train(spec, [row], TrainSettings(args=args, **settings), folder, seed=0)


def by_hand(spec: ModelSpec, adapter: Adapter, scale: float) -> dict[str, torch.Tensor]:
    """W + s * B @ A in float32, rounded once to the type of W."""
    base = load_model(spec).model.state_dict()
    saved = load_file(adapter.path / "adapter_model.safetensors")
    expected = dict(base)
    for name, a in saved.items():
        if "lora_A" not in name:
            continue
        target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        delta = scale * (saved[name.replace("lora_A", "lora_B")] @ a)
        assert delta.abs().max() > 1e-3
        expected[target] = (base[target].float() + delta).to(base[target].dtype)
    return expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_exact_and_the_rest_is_untouched(tiny_model_dir, tmp_path, dtype):
    spec = ModelSpec(path=str(tiny_model_dir), dtype=dtype)
    adapter = trained(spec, tmp_path / "t")
    folder = merge(spec, adapter, tmp_path / "merged")
    assert folder == tmp_path / "merged"
    merged = load_model(ModelSpec(path=str(folder))).model.state_dict()
    expected = by_hand(spec, adapter, 5 / 3)
    assert merged.keys() == expected.keys()
    changed = 0
    for name, value in expected.items():
        assert merged[name].dtype == value.dtype
        if "q_proj" in name or "v_proj" in name:
            rtol = 1e-6 if dtype == "float32" else 0.01
            torch.testing.assert_close(merged[name], value, rtol=rtol, atol=1e-7)
            changed += 1
        else:
            assert torch.equal(merged[name], value)
    assert changed == 4


def test_merged_in_half_precision_is_rounded_once(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir), dtype="bfloat16")
    adapter = trained(spec, tmp_path / "t")
    folder = merge(spec, adapter, tmp_path / "m")
    merged = load_model(ModelSpec(path=str(folder))).model.state_dict()
    expected = by_hand(spec, adapter, 5 / 3)
    different = sum(int((merged[name] != expected[name]).sum()) for name in expected)
    assert different <= 2  # the two sums may round apart in float32, next to a tie in bfloat16


def test_logits_equal_those_of_base_and_adapter(spec, tmp_path):
    adapter = trained(spec, tmp_path / "t", lora=LoraSpec(target_modules="all-linear"))
    folder = merge(spec, adapter, tmp_path / "merged")
    tokens = torch.arange(5, 35)[None]
    with torch.no_grad(), quiet_peft():
        expected = load_model(spec, adapter=adapter.path).model(tokens).logits
        found = load_model(ModelSpec(path=str(folder))).model(tokens).logits
        base = load_model(spec).model(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - base).abs().max() > 1e-2


@pytest.mark.parametrize(
    "peft_fields",
    [{"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["norm"]}],
)
def test_variants_of_lora(spec, tmp_path, peft_fields):
    adapter = trained(spec, tmp_path / "t", peft=peft_fields)
    merge(spec, adapter, tmp_path / "merged")  # checks the logits itself


def test_modules_that_are_trained_whole_keep_the_type_of_the_base(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir), dtype="bfloat16")
    adapter = trained(spec, tmp_path / "t", peft={"modules_to_save": ["norm"]})
    folder = merge(spec, adapter, tmp_path / "merged")
    saved = load_file(folder / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}


def test_tokenizer_and_template_come_along(spec, tmp_path, tiny_model_dir):
    folder = merge(spec, trained(spec, tmp_path / "t"), tmp_path / "merged")
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tiny_model_dir / name).read_bytes()
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        (tiny_model_dir / "config.json").read_text()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "t"]


def test_the_template_that_was_used_comes_along(tiny_model_dir, tmp_path):
    other = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "other.jinja").write_text(other)
    spec = ModelSpec(path=str(tiny_model_dir), chat_template=tmp_path / "other.jinja")
    folder = merge(spec, trained(spec, tmp_path / "t"), tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(folder).chat_template == other


def test_a_wrong_merge_is_noticed_and_nothing_is_kept(spec, tmp_path, monkeypatch):
    adapter = trained(spec, tmp_path / "t")
    right = peft.tuners.lora.layer.Linear.get_delta_weight
    monkeypatch.setattr(
        peft.tuners.lora.layer.Linear, "get_delta_weight", lambda self, name: 2 * right(self, name)
    )
    text = r"merged model's logits differ .* by \S+ of their norm; 1e-04 is allowed for torch\.fl"
    with pytest.raises(RuntimeError, match=text):
        merge(spec, adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_an_adapter_with_nan_is_not_merged(spec, tmp_path):
    adapter = trained(spec, tmp_path / "t")
    path = adapter.path / "adapter_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="NaN"):
        merge(spec, adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_whole_model(spec, tmp_path):
    adapter = Adapter(tmp_path / "model", "full", spec.path, 1, 1, 0)
    text = r"is a whole model \(train\.tuning: full\), so there is nothing to merge\. Use it as it"
    with pytest.raises(ValueError, match=text):
        merge(spec, adapter, tmp_path / "merged")


def test_another_base(spec, tmp_path):
    adapter = replace(trained(spec, tmp_path / "t"), base="models/other")
    text = r"was trained on models/other, but model\.path is .*Set model\.path=models/other; if"
    with pytest.raises(ValueError, match=text):
        merge(spec, adapter, tmp_path / "merged")


def test_the_base_under_another_name(tiny_model_dir, tmp_path, monkeypatch):
    adapter = trained(ModelSpec(path=str(tiny_model_dir)), tmp_path / "t")
    monkeypatch.chdir(tiny_model_dir.parent)
    assert merge(ModelSpec(path=tiny_model_dir.name), adapter, tmp_path / "m").is_dir()


def test_a_taken_folder(spec, tmp_path):
    adapter = Adapter(tmp_path / "adapter", "lora", spec.path, 1, 1, 0)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "x").touch()
    with pytest.raises(ValueError, match=r"exists already and is not an empty folder\. Delete it"):
        merge(spec, adapter, tmp_path / "merged")


def test_an_empty_folder_is_used(spec, tmp_path):
    (tmp_path / "merged").mkdir()
    merge(spec, trained(spec, tmp_path / "t"), tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
