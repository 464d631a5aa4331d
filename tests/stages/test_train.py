"""Training: exactly the ranked tokens, by TRL's trainer, reproducibly, or not at all."""

import copy
import json
import math
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoTokenizer, set_seed

from seal.artifacts.adapter import load_adapter
from seal.data.load import DataSpec
from seal.data.tokenize import Encoded
from seal.models import LoraSpec, ModelSpec, load_model, quiet_peft
from seal.stages import fitting
from seal.stages import train as stage
from seal.stages.train import MixSettings, TrainSettings, train
from seal.stages.trainer import WatchedTrainer

FAST = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


def row(name: str, length: int, mask: list[int] | slice) -> Encoded:
    """A sample of tokens that depend on its name, with the loss on some of them."""
    tokens = np.random.default_rng(list(name.encode())).integers(5, 300, length).astype(np.int32)
    response = np.zeros(length, dtype=bool)
    response[mask] = True
    return Encoded(name, tokens, response, False)


def samples(num: int, prefix: str = "s") -> list[Encoded]:
    return [row(f"{prefix}{i}", 6 + i % 7, slice(2 + i % 3, None)) for i in range(num)]


class Recording(WatchedTrainer):
    """The trainer, which also keeps what it was fed."""

    last: "Recording"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = []
        Recording.last = self

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.batches.append(copy.deepcopy(dict(inputs)))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def fed(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(tokens, labels) of every row that went through the model, without padding."""
        return [
            (tuple(ids[seen].tolist()), tuple(labels[seen].tolist()))
            for batch in self.batches
            for ids, labels, seen in zip(
                batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True
            )
        ]


@pytest.fixture
def recorded(monkeypatch) -> type[Recording]:
    monkeypatch.setattr(fitting, "WatchedTrainer", Recording)
    return Recording


@pytest.fixture
def spec(tiny_model_dir) -> ModelSpec:
    return ModelSpec(path=str(tiny_model_dir))


def expected_row(sample: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pairs = zip(sample.input_ids.tolist(), sample.response_mask.tolist(), strict=True)
    labels = tuple(token if carries_loss else -100 for token, carries_loss in pairs)
    return tuple(sample.input_ids.tolist()), labels


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in log_of(folder) if "loss" in entry]


def rates(folder: Path) -> list[float]:
    return [entry["learning_rate"] for entry in log_of(folder) if "learning_rate" in entry]


# ---------------------------------------------------------------- what is trained


def test_the_trainer_sees_exactly_our_labels_and_every_sample(spec, tmp_path, recorded):
    rows = [
        *samples(9),
        row("only the last token", 5, [4]),
        row("two turns", 12, [3, 4, 8, 9, 10]),
        row("all but the first", 4, slice(1, None)),
        row("longer than SFTConfig's max_length", 1100, [1099]),
        row("response far beyond it", 1300, slice(1200, None)),
    ]
    train(spec, rows, TrainSettings(args=FAST | {"num_train_epochs": 3}), tmp_path / "t", seed=0)
    fed = recorded.last.fed()
    for start in range(0, len(fed), len(rows)):
        epoch = fed[start : start + len(rows)]
        assert Counter(epoch) == Counter(expected_row(sample) for sample in rows)
    assert len(fed) == 3 * len(rows)


def test_padding_is_neither_attended_to_nor_trained(spec, tmp_path, recorded):
    train(spec, samples(8), TrainSettings(args=FAST), tmp_path / "t", seed=0)
    for batch in recorded.last.batches:
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_padding_free_feeds_the_same_labels(spec, tmp_path, recorded):
    rows = samples(5)
    args = FAST | {"padding_free": True, "num_train_epochs": 1, "per_device_train_batch_size": 5}
    train(spec, rows, TrainSettings(args=args), tmp_path / "t", seed=0)
    labels = recorded.last.batches[0]["labels"][0].tolist()
    expected = Counter(label for sample in rows for label in expected_row(sample)[1])
    assert Counter(labels) == expected
    train(spec, rows, TrainSettings(args=args | {"padding_free": False}), tmp_path / "u", seed=0)
    assert losses(tmp_path / "u") == pytest.approx(losses(tmp_path / "t"), abs=1e-5)


def test_an_adapter_changes_and_the_base_stays_bit_for_bit(spec, tmp_path, recorded):
    adapter = train(spec, samples(8), TrainSettings(args=FAST), tmp_path / "t", seed=0)
    base = load_model(spec).model.state_dict()
    trained = recorded.last.model.get_base_model().state_dict()
    kept = {n.replace(".base_layer.", "."): v for n, v in trained.items() if "lora_" not in n}
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)
    saved = load_file(adapter.path / "adapter_model.safetensors")
    assert len(saved) == 2 * 2 * 2  # layers x (q_proj, v_proj) x (A, B)
    assert all(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)


def test_the_adapter_loads_and_lowers_the_loss(spec, tmp_path):
    rows = [row("x", 20, slice(5, None))]
    settings = TrainSettings(
        args=FAST | {"num_train_epochs": 60}, lora=LoraSpec(target_modules="all-linear")
    )
    adapter = train(spec, rows, settings, tmp_path / "t", seed=0)
    assert load_adapter(tmp_path / "t") == adapter
    before = mean_nll(load_model(spec).model, rows[0])
    with quiet_peft():
        after = mean_nll(load_model(spec, adapter=adapter.path).model, rows[0])
    assert after < before - 0.1


@torch.no_grad()
def mean_nll(model, sample: Encoded) -> float:
    tokens = torch.tensor(sample.input_ids, dtype=torch.int64)[None]
    logits = model(tokens).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    return nll[torch.tensor(sample.response_mask[1:])].mean().item()


def test_full_tuning_gives_a_model_that_loads(spec, tmp_path, tiny_model_dir):
    adapter = train(
        spec, samples(8), TrainSettings(tuning="full", args=FAST), tmp_path / "t", seed=0
    )
    assert (adapter.kind, adapter.path) == ("full", tmp_path / "t" / "model")
    base = load_model(spec).model.state_dict()
    tuned = load_model(ModelSpec(path=str(adapter.path))).model.state_dict()
    assert all(not torch.equal(base[name], tuned[name]) for name in base)
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (adapter.path / name).read_bytes() == (tiny_model_dir / name).read_bytes()


def test_full_tuning_saves_the_template_that_was_used(tiny_model_dir, tmp_path):
    other = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "other.jinja").write_text(other)
    spec = ModelSpec(path=str(tiny_model_dir), chat_template=tmp_path / "other.jinja")
    settings = TrainSettings(tuning="full", args=FAST)
    adapter = train(spec, samples(2), settings, tmp_path / "t", seed=0)
    assert AutoTokenizer.from_pretrained(adapter.path).chat_template == other


def test_special_tokens_of_the_model_survive_full_tuning(tiny_model_dir, tmp_path):
    """Trainers rewrite them by the tokenizer's: an Instruct model's second stop token would go."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_model_dir, folder)
    generation = {"eos_token_id": [7, 8], "pad_token_id": 9, "temperature": 0.6, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    spec = ModelSpec(path=str(folder))
    settings = TrainSettings(tuning="full", args=FAST)
    adapter = train(spec, samples(2), settings, tmp_path / "t", seed=0)
    saved = json.loads((adapter.path / "generation_config.json").read_text())
    assert {name: saved[name] for name in generation} == generation


def test_a_tokenizer_without_pad_token(tiny_model_dir, tmp_path, recorded):
    folder = tmp_path / "m"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    spec = ModelSpec(path=str(folder))
    settings = TrainSettings(tuning="full", args=FAST)
    adapter = train(spec, samples(5), settings, tmp_path / "t", seed=0)
    assert Counter(recorded.last.fed()[:5]) == Counter(map(expected_row, samples(5)))
    assert AutoTokenizer.from_pretrained(adapter.path).pad_token is None


def test_lora_on_a_half_precision_base(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir), dtype="bfloat16")
    adapter = train(spec, samples(4), TrainSettings(args=FAST), tmp_path / "t", seed=0)
    saved = load_file(adapter.path / "adapter_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}


# ---------------------------------------------------------------- the loss and the steps


def test_the_batch_loss_is_the_mean_over_tokens(spec, tmp_path):
    rows = [
        row("short", 6, [5]),
        row("long", 40, slice(2, None)),
        row("middle", 12, slice(6, None)),
    ]
    args = FAST | {"per_device_train_batch_size": 3, "num_train_epochs": 1}
    train(spec, rows, TrainSettings(args=args), tmp_path / "t", seed=0)
    model = load_model(spec).model
    means = [mean_nll(model, sample) for sample in rows]
    sizes = [1, 38, 6]
    of_tokens = sum(m * n for m, n in zip(means, sizes, strict=True)) / sum(sizes)
    of_samples = sum(means) / 3
    assert losses(tmp_path / "t") == pytest.approx([of_tokens], abs=1e-5)
    assert abs(of_tokens - of_samples) > 1e-3


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_accumulation_equals_a_larger_batch(spec, tmp_path, tuning):
    rows = samples(10)  # does not divide by 4: the last step of an epoch is smaller
    trajectories = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        args = {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
        }
        folder = tmp_path / str(batch)
        train(spec, rows, TrainSettings(tuning=tuning, args=args), folder, seed=0)
        trajectories.append(losses(folder))
    assert len(trajectories[0]) == 6  # 2 epochs of 3 steps
    assert trajectories[1] == pytest.approx(trajectories[0], abs=1e-5)
    assert trajectories[2] == pytest.approx(trajectories[0], abs=1e-5)


def test_one_sample_is_a_step_per_epoch_by_default(spec, tmp_path):
    adapter = train(spec, samples(1), TrainSettings(), tmp_path / "t", seed=0)
    assert (adapter.num_samples, adapter.num_steps) == (1, 2)


def test_arguments_reach_the_trainer(spec, tmp_path):
    args = FAST | {"warmup_steps": 2, "lr_scheduler_type": "linear", "max_steps": 4}
    train(spec, samples(8), TrainSettings(args=args), tmp_path / "t", seed=0)
    assert rates(tmp_path / "t") == pytest.approx([0, 0.5e-2, 1e-2, 0.5e-2])


def test_warmup_is_honoured_by_the_default_schedule(spec, tmp_path):
    args = FAST | {"warmup_steps": 2, "max_steps": 4}
    train(spec, samples(8), TrainSettings(args=args), tmp_path / "t", seed=0)
    assert rates(tmp_path / "t") == pytest.approx([0, 0.5e-2, 1e-2, 1e-2])


def test_lora_settings_reach_peft(spec, tmp_path):
    settings = TrainSettings(
        args=FAST,
        lora=LoraSpec(r=3, alpha=5, target_modules=("o_proj",)),
        peft={"use_rslora": True, "layers_to_transform": [1]},
    )
    adapter = train(spec, samples(4), settings, tmp_path / "t", seed=0)
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 5, True)
    saved = load_file(adapter.path / "adapter_model.safetensors")
    assert {name.split(".lora_")[0] for name in saved} == {
        "base_model.model.model.layers.1.self_attn.o_proj"
    }


def test_gradient_checkpointing_changes_nothing(spec, tmp_path):
    for name, on in (("off", False), ("on", True)):
        args = FAST | {"gradient_checkpointing": on}
        train(spec, samples(6), TrainSettings(args=args), tmp_path / name, seed=0)
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), abs=1e-6)


# ---------------------------------------------------------------- reproducibility


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_same_seed_same_bytes_other_seed_other_order(spec, tmp_path, recorded):
    settings = TrainSettings(args=FAST, lora=LoraSpec(dropout=0.1))
    fed = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name) % 1000)  # the caller's random state plays no part
        train(spec, samples(12), settings, tmp_path / name, seed=seed)
        fed.append(recorded.last.fed())
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")
    assert fed[0] == fed[1]
    assert fed[0] != fed[2]
    assert sorted(fed[0]) == sorted(fed[2])
    for name in ("adapter.json", "adapter/adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def seed_everything() -> None:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


def test_the_callers_random_state_is_left_alone(spec, tmp_path):
    seed_everything()
    expected = np.random.rand(), torch.rand(())
    seed_everything()
    train(spec, samples(2), TrainSettings(args=FAST), tmp_path / "t", seed=0)
    assert (np.random.rand(), torch.rand(())) == expected
    broken = TrainSettings(args=FAST | {"learning_rate": 1e39})
    seed_everything()
    with pytest.raises(ValueError, match="not finite"):
        train(spec, samples(2), broken, tmp_path / "u", seed=0)
    assert (np.random.rand(), torch.rand(())) == expected


def test_pythons_random_state_is_left_alone():
    """Apart from the others: beartype, which checks the calls of this suite, draws from it."""
    seed_everything()
    expected = random.random()
    seed_everything()
    with stage._private_randomness():
        set_seed(7)
    assert random.random() == expected


# ---------------------------------------------------------------- the log


def test_the_log_is_written_and_progress_told_and_nothing_printed(spec, tmp_path, capsys, caplog):
    seen = []
    settings = TrainSettings(args=FAST)
    train(spec, samples(8), settings, tmp_path / "t", seed=0, progress=lambda *a: seen.append(a))
    log = log_of(tmp_path / "t")
    assert seen == [("steps", step, 4) for step in (1, 2, 3, 4, 4)]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 4]
    assert all(isinstance(value, int | float) for entry in log for value in entry.values())
    assert "train_loss" in log[-1]
    assert capsys.readouterr().out == ""
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


# ---------------------------------------------------------------- mixing


def test_mixing(spec, tmp_path, recorded):
    mix = MixSettings(data=DataSpec(path="safe.jsonl"), share=0.25)
    settings = TrainSettings(args=FAST | {"num_train_epochs": 1}, mix=mix)
    first, second = samples(9), samples(20, "m")
    adapter = train(spec, first, settings, tmp_path / "t", seed=0, mix=second)
    fed = set(recorded.last.fed())
    assert adapter.num_samples == 12
    assert {expected_row(sample) for sample in first} <= fed
    assert len(fed & {expected_row(sample) for sample in second}) == 3


def test_mixing_without_samples(spec, tmp_path):
    mix = MixSettings(data=DataSpec(path="safe.jsonl"), share=0.25)
    with pytest.raises(ValueError, match=r"train\.mix: share=0\.25 .*no usable samples"):
        train(spec, samples(3), TrainSettings(mix=mix), tmp_path / "t", seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, math.nan])
def test_share_out_of_range(share):
    with pytest.raises(ValidationError, match=r"share\n.*(greater|less) than"):
        MixSettings(data=DataSpec(path="safe.jsonl"), share=share)
