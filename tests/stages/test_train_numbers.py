"""Steps that are not finite, and what does not fit into memory: no result changes by them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaModel

from seal.checkpoint import Checkpoints, CheckpointSettings
from seal.data.tokenize import Encoded
from seal.models import LoraSpec, ModelSpec
from seal.stages import fitting, training_memory
from seal.stages.train import TrainSettings, train
from seal.stages.trainer import Watch, WatchedTrainer, labels_of

ARGS = {
    "learning_rate": 1e-2,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}


def row(name: str, length: int) -> Encoded:
    tokens = np.random.default_rng(list(name.encode())).integers(5, 300, length).astype(np.int32)
    return Encoded(name, tokens, np.arange(length) > 2, False)


@pytest.fixture
def spec(tiny_model_dir) -> ModelSpec:
    return ModelSpec(path=str(tiny_model_dir))


@pytest.fixture
def rows() -> list[Encoded]:
    return [row(f"s{number:02}", 6 + number % 7) for number in range(16)]


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


class Poisoned(WatchedTrainer):
    """A trainer in which some samples give a loss, or a gradient alone, that is not finite."""

    bad: Encoded
    value = float("nan")
    spoils_gradient_only = False
    fed: list = []
    moments: list = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        assert self.optimizer is not None
        states = [dict(state) for state in self.optimizer.state.values()]
        Poisoned.moments.append([state["exp_avg"].clone() for state in states])
        Poisoned.fed.append(self.watch.names(inputs))
        is_bad = self.bad.id in Poisoned.fed[-1]
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not is_bad:
            return loss
        return Spoiled.apply(loss) if self.spoils_gradient_only else loss * self.value


class Spoiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):  # noqa: ARG004
        return loss.clone()

    @staticmethod
    def backward(ctx, *_):  # noqa: ARG004
        return torch.tensor(float("inf"))


@pytest.fixture
def poisoned(monkeypatch, rows) -> type[Poisoned]:
    monkeypatch.setattr(fitting, "WatchedTrainer", Poisoned)
    monkeypatch.setattr(Poisoned, "bad", rows[5], raising=False)
    monkeypatch.setattr(Poisoned, "fed", [])
    monkeypatch.setattr(Poisoned, "moments", [])
    return Poisoned


@pytest.mark.parametrize("only", [False, True], ids=["loss", "gradient"])
def test_a_bad_step_is_left_out_and_its_samples_are_named(
    spec, rows, tmp_path, poisoned, monkeypatch, only
):
    monkeypatch.setattr(poisoned, "spoils_gradient_only", only)
    train(spec, rows, TrainSettings(args=ARGS), tmp_path / "t", seed=0)
    steps = [[*a, *b] for a, b in zip(poisoned.fed[::2], poisoned.fed[1::2], strict=True)]
    (place,) = (number for number, names in enumerate(steps) if "s05" in names)
    micro_batch = next(names for names in poisoned.fed if "s05" in names)
    log = log_of(tmp_path / "t")
    (skipped,) = (entry for entry in log if "skipped" in entry)
    what = "gradient" if only else "training loss (nan)"
    named = sorted(steps[place] if only else micro_batch)
    assert skipped == {"step": place + 1, "skipped": f"{what} is not finite", "samples": named}
    entries = {entry["step"]: entry for entry in log if "loss" in entry}
    assert entries[place + 1]["loss"] is None
    assert entries[place + 1]["grad_norm"] is None
    others = [entry["loss"] for step, entry in entries.items() if step != place + 1]
    assert len(others) == 3
    assert log[-1]["train_loss"] == pytest.approx(sum(others) / 3, rel=1e-6)
    # Adam has not moved: before the step's first pass and before the next step's, it is the same.
    assert 0 < place < 3
    before, after = poisoned.moments[2 * place], poisoned.moments[2 * place + 2]
    assert len(before) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(value.isfinite().all() for value in weights(tmp_path / "t").values())


def test_a_run_without_the_bad_step_is_the_same(spec, rows, tmp_path, poisoned, monkeypatch):
    """The others' losses are those of a training on the same steps, in which it makes none."""
    args = ARGS | {"logging_steps": 4}
    train(spec, rows, TrainSettings(args=args), tmp_path / "t", seed=0)
    (entry,) = (entry for entry in log_of(tmp_path / "t") if "loss" in entry)

    class Absent(Poisoned):
        def compute_loss(self, model, inputs, *arguments, **kwargs):
            loss = WatchedTrainer.compute_loss(self, model, inputs, *arguments, **kwargs)
            return loss * (0.0 if self.in_bad_step() else 1.0)

        def in_bad_step(self):
            return self.state.global_step == bad_step

        def training_step(self, *arguments, **kwargs):
            loss = WatchedTrainer.training_step(self, *arguments, **kwargs)
            if self.in_bad_step() and self.accelerator.sync_gradients:
                self._forget_gradient()
            return loss

    steps = [[*a, *b] for a, b in zip(poisoned.fed[::2], poisoned.fed[1::2], strict=True)]
    bad_step = next(number for number, names in enumerate(steps) if "s05" in names)
    monkeypatch.setattr(fitting, "WatchedTrainer", Absent)
    train(spec, rows, TrainSettings(args=args), tmp_path / "u", seed=0)
    (other,) = (entry for entry in log_of(tmp_path / "u") if "loss" in entry)
    assert entry["loss"] == pytest.approx(other["loss"] * 4 / 3, rel=1e-6)
    found, expected = weights(tmp_path / "t"), weights(tmp_path / "u")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("poisoned")
def test_it_is_given_up_after_that_many(spec, rows, tmp_path):
    settings = TrainSettings(args=ARGS | {"num_train_epochs": 3}, max_skipped_steps=1)
    text = (
        r"training loss \(nan\) is not finite at step [5-8] of 12, for a batch with .*s05.*; "
        r"train\.max_skipped_steps=1 such steps were left out before\. Nothing was kept"
    )
    with pytest.raises(ValueError, match=text):
        train(spec, rows, settings, tmp_path / "t", seed=0)
    assert not (tmp_path / "t").exists()


def test_nothing_but_bad_steps(spec, rows, tmp_path, poisoned, monkeypatch):
    monkeypatch.setattr(poisoned, "compute_loss", lambda *a, **k: (
        WatchedTrainer.compute_loss(*a, **k) * float("inf")
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"loss or gradient of every step is not finite"):
        train(spec, rows, TrainSettings(args=ARGS), tmp_path / "t", seed=0)


def test_a_state_that_is_not_finite_is_never_saved(spec, rows, tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", {"a": 1}, CheckpointSettings(seconds=0))
    settings = TrainSettings(args=ARGS | {"learning_rate": 1e39})
    with pytest.raises(ValueError, match=r"state of \S*lora_\S* is not finite at step 1 of 4"):
        train(spec, rows, settings, tmp_path / "t", seed=0, checkpoints=checkpoints)
    assert checkpoints.latest() is None


@pytest.mark.usefixtures("poisoned")
def test_skipped_steps_are_remembered_by_a_checkpoint(spec, rows, tmp_path, monkeypatch):
    """Stopped after every step, the log and the weights are those of one go."""
    settings = TrainSettings(args=ARGS | {"num_train_epochs": 2}, lora=LoraSpec(dropout=0.2))
    train(spec, rows, settings, tmp_path / "whole", seed=0)

    class StopError(Exception):
        pass

    def checkpoints():
        return Checkpoints(tmp_path / "c", {"a": 1}, CheckpointSettings(seconds=0))

    save = Checkpoints.save_state

    def save_and_stop(self, *args):
        save(self, *args)
        raise StopError

    num = 0
    while num < 20:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save_state", save_and_stop)
            try:
                train(spec, rows, settings, tmp_path / "t", seed=0, checkpoints=checkpoints())
            except StopError:
                num += 1
            else:
                break
    assert num == 8  # one for each step, the last one's included
    whole, parts = log_of(tmp_path / "whole"), log_of(tmp_path / "t")
    times = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    for entry in (*whole, *parts):
        for name in times:
            entry.pop(name, None)
    assert parts == whole
    assert sum("skipped" in entry for entry in parts) == 2
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(weights(tmp_path / "t")[name], expected[name]) for name in expected)


@pytest.mark.parametrize("padding_free", [False, True])
def test_samples_are_found_by_their_tokens(rows, padding_free):
    twin = Encoded("s03#2", rows[3].input_ids, rows[3].response_mask, False)
    other = Encoded("masked", rows[3].input_ids, rows[3].response_mask & False, False)
    watch = Watch([*rows, twin, other], 0, print)
    chosen = [rows[3], rows[0]]
    labels = [torch.tensor(labels_of(one)) for one in chosen]
    tokens = [torch.tensor(one.input_ids) for one in chosen]
    if padding_free:
        batch = {
            "input_ids": torch.cat(tokens)[None],
            "labels": torch.cat(labels)[None],
            "position_ids": torch.cat([torch.arange(len(one)) for one in tokens])[None],
        }
    else:
        pad = torch.nn.utils.rnn.pad_sequence
        batch = {
            "input_ids": pad(tokens, batch_first=True, padding_value=0),
            "labels": pad(labels, batch_first=True, padding_value=-100),
            "attention_mask": pad([torch.ones_like(one) for one in tokens], batch_first=True),
        }
    assert watch.names(batch) == ["s03", "s03#2", "s00"]


# ---------------------------------------------------------------- memory


@pytest.fixture
def small_device(monkeypatch):
    """A device with room for so many samples at a time; returns what was tried."""
    tried = []

    def limit(room: int, *, begins_at: int = 0) -> list[int]:
        real = WatchedTrainer.compute_loss

        def compute_loss(self, model, inputs, *args, **kwargs):
            tried.append(len(inputs["input_ids"]))
            if tried[-1] > room and len(tried) > begins_at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
            return real(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(WatchedTrainer, "compute_loss", compute_loss)
        return tried

    return limit


def test_smaller_micro_batches_give_the_same_result(spec, rows, tmp_path, small_device, caplog):
    """The token mean is over the accumulated batch, so only rounding tells them apart."""
    args = ARGS | {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    rows = rows[:13]  # ragged: the last step has five samples
    train(spec, rows, TrainSettings(args=args), tmp_path / "whole", seed=0)
    small_device(2)
    with caplog.at_level(logging.WARNING):
        train(spec, rows, TrainSettings(args=args), tmp_path / "small", seed=0)
    assert "memory ran out with 8 samples at a time; going on with 4" in caplog.text
    assert "(per_device_train_batch_size=2, gradient_accumulation_steps=4)" in caplog.text
    for found, expected in zip(log_of(tmp_path / "small"), log_of(tmp_path / "whole"), strict=True):
        for name in ("loss", "grad_norm", "num_tokens"):
            assert found.get(name) == pytest.approx(expected.get(name), abs=1e-6)
    expected = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "small").items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_no_room_for_a_single_sample(spec, rows, tmp_path, small_device):
    tried = small_device(0)
    text = (
        r"memory runs out with a single sample at a time; the longest, s06, has 12 tokens \(CUDA "
        r"out of memory.*\)\. Lower tokenization\.max_length, .*model\.quantization"
    )
    with pytest.raises(ValueError, match=text):
        train(spec, rows, TrainSettings(args=ARGS), tmp_path / "t", seed=0)
    assert tried == [2, 1]
    assert not (tmp_path / "t").exists()


def test_no_room_for_the_model_itself(spec, rows, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(fitting, "load_model", full)
    text = r"does not fit into the memory of model\.device=auto \(CUDA out .*model\.quantization"
    with pytest.raises(ValueError, match=text):
        train(spec, rows, TrainSettings(args=ARGS), tmp_path / "t", seed=0)


def test_it_goes_on_from_the_checkpoint(spec, rows, tmp_path, small_device):
    checkpoints = Checkpoints(tmp_path / "c", {"a": 1}, CheckpointSettings(seconds=0))
    train(spec, rows, TrainSettings(args=ARGS), tmp_path / "whole", seed=0)
    tried = small_device(1, begins_at=5)  # two steps of two passes fit, the third does not
    train(spec, rows, TrainSettings(args=ARGS), tmp_path / "t", seed=0, checkpoints=checkpoints)
    assert tried == [2] * 6 + [1] * 8
    losses = [
        [e["loss"] for e in log_of(tmp_path / name) if "loss" in e] for name in ("t", "whole")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_longest_samples_are_tried_first(spec, rows, tmp_path, monkeypatch):
    """With the rehearsal of a GPU: it finds what the order of samples would have hidden."""
    seen = []
    monkeypatch.setattr(training_memory, "may_run_out", lambda _: True)
    train(spec, rows, TrainSettings(args=ARGS), tmp_path / "rehearsed", seed=0)
    real = LlamaModel.forward

    def forward(self, *args, **kwargs):
        if not self.training:  # padding is tried before
            return real(self, *args, **kwargs)
        seen.append(tuple(kwargs["input_ids"].shape))
        if seen[-1][0] > 1 and seen[-1][1] == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    train(spec, rows, TrainSettings(args=ARGS), tmp_path / "t", seed=0)
    assert seen[:2] == [(2, 12), (1, 12)]
    monkeypatch.undo()
    train(spec, rows, TrainSettings(args=ARGS), tmp_path / "plain", seed=0)
    found = (tmp_path / "rehearsed" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert found == (tmp_path / "plain" / "adapter" / "adapter_model.safetensors").read_bytes()
