"""Interpolation: exact at both ends, linear between them, or refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from seal.artifacts.adapter import load_adapter
from seal.data.tokenize import Encoded
from seal.mergers.interpolate import Interpolate
from seal.models import LoraSpec, ModelSpec, load_model
from seal.stages.merge import merge
from seal.stages.train import TrainSettings, train
from tiny_model import make_model, make_tokenizer

TOKENS = torch.arange(5, 45).reshape(2, 20)


@pytest.fixture
def spec(tiny_model_dir) -> ModelSpec:
    return ModelSpec(path=str(tiny_model_dir))


def trained(spec, folder, **settings):
    """What is far from the base."""
    tokens = np.arange(5, 25, dtype=np.int32)
    row = Encoded("x", tokens, tokens > 8, False)
    args = {"learning_rate": 0.05, "num_train_epochs": 4}
    return train(spec, [row], TrainSettings(args=args, **settings), folder, seed=0)


def whole(adapter) -> ModelSpec:
    return ModelSpec(path=str(adapter.path))


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    return lm.model(input_ids=TOKENS, use_cache=False).logits


def at(weight: float) -> Interpolate:
    return Interpolate(of="all", weight=weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ends_of_an_adapter_are_the_base_and_the_trained_model(tiny_model_dir, tmp_path, dtype):
    spec = ModelSpec(path=str(tiny_model_dir), dtype=dtype)
    adapter = trained(spec, tmp_path / "t", lora=LoraSpec(r=3, alpha=5))
    base, there = logits(load_model(spec)), logits(load_model(spec, adapter.path))
    assert not torch.equal(base, there)
    assert torch.equal(logits(at(0).load(spec, adapter)), base)
    assert torch.equal(logits(at(1).load(spec, adapter)), there)
    between = logits(at(0.5).load(spec, adapter))
    assert not torch.equal(between, base)
    assert not torch.equal(between, there)


def test_a_scaled_adapter_is_the_line_between_two_merged_models(spec, tmp_path):
    """The factors' product takes w, not w squared, whatever scales the adapter."""
    adapter = trained(spec, tmp_path / "t", lora=LoraSpec(r=3, alpha=5), peft={"use_rslora": True})
    whole_one = whole_model(spec, adapter, tmp_path / "whole")
    base, end = load_model(spec).model, load_model(whole_one).model
    ends = dict(end.named_parameters())
    for name, value in base.named_parameters():
        value.data += 0.3 * (ends[name].data - value.data)
    with torch.no_grad():
        expected = base(input_ids=TOKENS, use_cache=False).logits
    found = at(0.3).load(spec, adapter)
    names = [lm.identity for lm in (load_model(spec), load_model(spec, adapter.path), found,
                                    at(0.4).load(spec, adapter))]  # fmt: skip
    assert all(names.count(name) == 1 for name in names), "else others' passes were taken for its"
    assert found.identity == Interpolate(of="b", weight=0.3).load(spec, adapter).identity
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=1e-5)

    folder = tmp_path / "scaled"
    folder.mkdir()
    saved = at(0.3).save(spec, adapter, folder)
    assert (saved.kind, saved.base, saved.seed) == ("lora", adapter.base, adapter.seed)
    torch.testing.assert_close(logits(load_model(spec, saved.path)), expected, rtol=0, atol=1e-5)
    merged = whole_model(spec, saved, tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(merged)), expected, rtol=0, atol=1e-5)
    assert load_adapter(tmp_path / "t") == adapter, "what was trained is left as it was"
    assert torch.equal(logits(load_model(spec, adapter.path)), logits(at(1).load(spec, adapter)))


def whole_model(spec, adapter, folder) -> ModelSpec:
    return ModelSpec(path=str(merge(spec, adapter, folder)))


def test_whole_models_are_interpolated_weight_by_weight(spec, tmp_path):
    adapter = trained(spec, tmp_path / "t", tuning="full")
    base, there = load_model(spec), load_model(whole(adapter))
    assert torch.equal(logits(at(0).load(spec, adapter)), logits(base))
    assert torch.equal(logits(at(1).load(spec, adapter)), logits(there))
    assert at(0.5).load(spec, adapter).identity not in (base.identity, there.identity)
    ends = dict(there.model.named_parameters())
    starts = dict(base.model.named_parameters())
    for name, value in at(0.25).load(spec, adapter).model.named_parameters():
        by_hand = 0.75 * starts[name].double() + 0.25 * ends[name].double()
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), by_hand, rtol=1e-6, atol=1e-7)
    folder = tmp_path / "saved"
    folder.mkdir()
    saved = at(0.25).save(spec, adapter, folder)
    assert saved.kind == "full"
    assert torch.equal(logits(load_model(whole(saved))), logits(at(0.25).load(spec, adapter)))


def test_whole_models_in_half_precision_are_rounded_once(tiny_model_dir, spec, tmp_path):
    adapter = trained(spec, tmp_path / "t", tuning="full")
    half = ModelSpec(path=str(tiny_model_dir), dtype="bfloat16")
    there = ModelSpec(path=str(adapter.path), dtype="bfloat16")
    starts = dict(load_model(half).model.named_parameters())
    ends = dict(load_model(there).model.named_parameters())
    for name, value in at(0.25).load(half, adapter).model.named_parameters():
        exact = 0.75 * starts[name].double() + 0.25 * ends[name].double()
        assert value.dtype == torch.bfloat16
        # float32 may fall on the other side of a tie
        assert (value == exact.bfloat16()).double().mean() > 0.998, name


def test_an_adapter_with_more_than_factors_is_refused(spec, tmp_path):
    adapter = trained(spec, tmp_path / "t", peft={"use_dora": True})
    with pytest.raises(ValueError, match=r"has weights beside its factors A and B \(first: .*magn"):
        at(0.5).load(spec, adapter)
    with pytest.raises(ValueError, match=r"Remove that from train\.peft, or take the merge out of"):
        at(0.5).save(spec, adapter, tmp_path)


def test_an_adapter_that_changes_the_base_is_refused(spec, tmp_path):
    adapter = trained(spec, tmp_path / "t")
    path = adapter.path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": "pissa"}))
    with pytest.raises(ValueError, match="the adapter has init_lora_weights=pissa, which changes"):
        at(0.5).load(spec, adapter)


def test_whole_models_of_other_shapes_are_refused(spec, tmp_path):
    tokenizer = make_tokenizer()
    make_model(len(tokenizer) + 8).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    adapter = trained(ModelSpec(path=str(tmp_path / "wide")), tmp_path / "t", tuning="full")
    with pytest.raises(ValueError, match="have different weights, so there is no line from one"):
        at(0.5).load(spec, adapter)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), None])
def test_a_weight_is_a_share_of_the_way(weight):
    with pytest.raises(ValidationError, match="weight"):
        Interpolate.model_validate({"of": "all", "weight": weight})


def test_a_merge_is_known_by_the_weights_that_it_is_made_of(spec, tmp_path):
    adapter = trained(spec, tmp_path / "t", lora=LoraSpec(r=3, alpha=5))
    before = at(0.5).load(spec, adapter).identity
    shutil.copytree(tmp_path / "t", tmp_path / "copy")
    copied = load_adapter(tmp_path / "copy")
    assert at(0.5).load(spec, copied).identity == before
    assert at(0.4).load(spec, adapter).identity != before
    file = adapter.path / "adapter_model.safetensors"
    weights = load_file(file)
    first = sorted(weights)[0]
    save_file({**weights, first: weights[first] + 1}, file)
    assert at(0.5).load(spec, adapter).identity != before
