"""Training that goes wrong: what it says, and that nothing half-done is left behind."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from seal.data.tokenize import Encoded
from seal.models import ModelSpec
from seal.stages.train import TrainSettings, train

FAST = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
BROKEN = TrainSettings(tuning="full", args=FAST | {"learning_rate": 1e30})


@pytest.fixture
def spec(tiny_model_dir) -> ModelSpec:
    return ModelSpec(path=str(tiny_model_dir))


def samples(num: int) -> list[Encoded]:
    tokens = np.arange(5, 15, dtype=np.int32)
    return [Encoded(f"s{place}", tokens + place, tokens > 8, False) for place in range(num)]


def test_a_model_that_training_has_broken(spec, tmp_path):
    text = (
        r"the gradient is not finite at step 2 of 4\. Nothing was kept\. Lower "
        r"train\.args\.learning_rate \(it is 1e\+30\), or warm up with train\.args\.warmup_steps\."
    )
    with pytest.raises(ValueError, match=text):
        train(spec, samples(8), BROKEN, tmp_path / "t", seed=0)
    assert not (tmp_path / "t").exists()


def test_weights_broken_by_the_last_step(spec, tmp_path):
    settings = TrainSettings(args=FAST | {"learning_rate": 1e39, "max_steps": 1})
    with pytest.raises(ValueError, match=r"the weight \S*lora_\S* is not finite at step 1 of 1"):
        train(spec, samples(4), settings, tmp_path / "t", seed=0)
    assert not (tmp_path / "t").exists()


def test_a_loss_that_nobody_logs(spec, tmp_path):
    args = BROKEN.args | {"logging_strategy": "no"}
    with pytest.raises(ValueError, match=r"the gradient is not finite at step 2 of 4"):
        train(spec, samples(8), TrainSettings(tuning="full", args=args), tmp_path / "t", seed=0)


def test_a_failure_leaves_a_folder_as_it_was(spec, tmp_path):
    (tmp_path / "excluded.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="not finite"):
        train(spec, samples(8), BROKEN, tmp_path, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["excluded.jsonl"]


def test_success_keeps_what_else_is_in_the_folder(spec, tmp_path):
    (tmp_path / "excluded.jsonl").write_text("mine")
    (tmp_path / ".partial").mkdir()  # a killed run's
    (tmp_path / ".partial" / "metrics.jsonl").write_text("theirs\n")
    train(spec, samples(4), TrainSettings(args=FAST), tmp_path, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter",
        "adapter.json",
        "excluded.jsonl",
        "metrics.jsonl",
    ]
    assert "theirs" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_folder_that_holds_a_result(spec, tmp_path):
    train(spec, samples(2), TrainSettings(args=FAST), tmp_path, seed=0)
    text = r"holds the result of a training already \(adapter, metrics\.jsonl, adapter\.json\)\. D"
    with pytest.raises(ValueError, match=text):
        train(spec, samples(2), TrainSettings(args=FAST), tmp_path, seed=0)


def test_no_samples(spec, tmp_path):
    with pytest.raises(ValueError, match=r"no samples to train on\. Look at the selection"):
        train(spec, [], TrainSettings(), tmp_path / "t", seed=0)
    assert not (tmp_path / "t").exists()


def test_full_tuning_of_half_precision(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir), dtype="bfloat16")
    text = (
        r"train\.tuning=full needs float32 weights, but .* is loaded in torch\.bfloat16 "
        r"\(model\.dtype=bfloat16\).*Set model\.dtype=float32 .*, or train\.tuning=lora"
    )
    with pytest.raises(ValueError, match=text):
        train(spec, samples(2), TrainSettings(tuning="full"), tmp_path / "t", seed=0)


def test_full_tuning_with_a_generation_config_that_cannot_be_saved(tiny_model_dir, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(tiny_model_dir, folder)
    broken = {"eos_token_id": 1, "do_sample": False, "temperature": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"its generation_config\.json contradicts itself.*Corr"):
        train(
            ModelSpec(path=str(folder)),
            samples(2),
            TrainSettings(tuning="full"),
            tmp_path / "t",
            seed=0,
        )


def test_another_gpu_than_the_first(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir), device="cuda:1")
    with pytest.raises(ValueError, match=r"model\.device=cuda:1: .*CUDA_VISIBLE_DEVICES=1"):
        train(spec, samples(2), TrainSettings(), tmp_path / "t", seed=0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"args": {"learing_rate": 1}}, r"train\.args\.learing_rate: .*Did you mean 'lear"),
        ({"args": {"packing": True}}, r"train\.args\.packing cannot be set"),
        ({"peft": {"use_rslra": True}}, r"train\.peft\.use_rslra: .*Did you mean 'use_rslora'"),
        ({"tuning": "full", "peft": {"bias": "all"}}, r"train\.tuning is full, which has none"),
        ({"tuning": "full", "lora": {"r": 4}}, r"train\.tuning is full, which has none"),
        ({"tunning": "full"}, r"tunning\n +Extra inputs are not permitted"),
    ],
)
def test_settings_are_checked_when_they_are_made(settings, text):
    with pytest.raises(ValidationError, match=text):
        TrainSettings.model_validate(settings)


def test_settings_survive_their_own_dump():
    settings = TrainSettings(tuning="full", args={"learning_rate": "1e-4"})
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings
