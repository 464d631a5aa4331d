"""Folders that hold no usable model: one readable message each, and adapters that do not fit."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rankers.conftest import make_pool, make_safe
from seal.cli import main
from seal.data.sample import Message, Sample
from seal.data.tokenize import Tokenization
from seal.models import (
    LoraSpec,
    ModelSpec,
    NoModelError,
    add_lora,
    load_model,
    load_tokenizer,
    resolve_device,
    save_model,
)
from seal.rankers.loss import Loss
from seal.rankers.ranker import RankingTask
from tiny_model import make_model

MODULES = "down_proj, embed_tokens, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.fixture
def folder(tiny_model_dir, tmp_path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def set_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(make_model(320).state_dict(), folder / "pytorch_model.bin")


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


BROKEN = [
    pytest.param(remove("model.safetensors"), "model", "model.safetensors", id="no weights"),
    pytest.param(cut_weights, "model", "invalid header length", id="weights cut off"),
    pytest.param(write("model.safetensors", ""), "model", "header too small", id="empty weights"),
    pytest.param(pickle_weights, "model", "no file named model.safetensors", id="pickle"),
    pytest.param(remove("config.json"), "model", "model_type", id="no config"),
    pytest.param(write("config.json", "{"), "tokenizer", "not a valid JSON", id="broken config"),
    pytest.param(write("config.json", "[]"), "tokenizer", "mapping", id="config is a list"),
    pytest.param(write("config.json", '{"model_type": "zzz"}'), "model", "zzz", id="unknown type"),
    pytest.param(
        lambda folder: set_config(folder, hidden_size=32), "model", "mismatch", id="wrong shapes"
    ),
    pytest.param(remove("tokenizer.json"), "tokenizer", "tokenizer", id="no tokenizer"),
    pytest.param(write("tokenizer.json", "{"), "tokenizer", "Expecting", id="broken tokenizer"),
    pytest.param(write("tokenizer.json", "{}"), "tokenizer", "added_tokens", id="empty tokenizer"),
    pytest.param(write("tokenizer_config.json", "{"), "tokenizer", "Expecting", id="tok. config"),
]


@pytest.mark.parametrize(("damage", "what", "reason"), BROKEN)
def test_a_broken_folder_is_one_readable_error(folder, damage, what, reason):
    damage(folder)
    with pytest.raises(ValueError, match=f"no {what} could be loaded from this folder") as caught:
        load_model(ModelSpec(path=str(folder)))
    assert type(caught.value) is NoModelError  # and nothing of somebody else
    said = str(caught.value)
    assert said.startswith(f"model.path={folder}: no {what} could be loaded from this folder (")
    assert reason in said
    assert said.endswith(
        "). Give a folder that save_pretrained wrote, with config.json, safetensors weights and "
        "tokenizer files, or the name of a model on the Hub that this machine can reach."
    )
    assert "\n" not in said


def test_weights_that_are_missing_are_never_made_up(folder):
    set_config(folder, num_hidden_layers=3)
    with pytest.raises(
        ValueError,
        match=rf"^model\.path={re.escape(str(folder))}: 9 weights of the model are missing \(first:"
        r" model\.layers\.2\.input_layernorm\.weight\)\. Give a complete checkpoint",
    ):
        load_model(ModelSpec(path=str(folder)))


def test_tied_weights_are_not_missing(folder):
    lm = load_model(ModelSpec(path=str(folder)))
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight


def test_a_folder_that_is_empty_or_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from this folder \("):
        load_model(ModelSpec(path=str(tmp_path)))
    with pytest.raises(ValueError, match=r"nowhere: there is no such folder\. Give a folder that"):
        load_model(ModelSpec(path=str(tmp_path / "nowhere")))


def test_the_command_line_shows_no_traceback(folder, tmp_path, capsys):
    cut_weights(folder)
    for name, text in (("pool", "Question"), ("safe", "Other")):
        row = {"prompt": text, "completion": "Answer"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    code = main(
        ["rank", f"model.path={folder}", f"pool.path={tmp_path}/pool.jsonl",
         f"safe.path={tmp_path}/safe.jsonl", f"run_dir={tmp_path}/run"]
    )  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    assert "invalid header length" in said
    assert not (tmp_path / "run").exists()


def test_more_tokens_than_embeddings(tiny_model_dir, tmp_path):
    tokenizer = load_tokenizer(ModelSpec(path=str(tiny_model_dir)))
    tokenizer.save_pretrained(tmp_path)
    make_model(len(tokenizer) - 1).save_pretrained(tmp_path)
    message = (
        f"{tmp_path}: the tokenizer has {len(tokenizer)} tokens, but the model only "
        f"{len(tokenizer) - 1} embeddings. They do not belong together: take both from the same "
        "checkpoint, or resize the model's embeddings first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_model(ModelSpec(path=str(tmp_path)))


def test_more_embeddings_than_tokens_is_usual(tiny_model_dir, tmp_path):
    tokenizer = load_tokenizer(ModelSpec(path=str(tiny_model_dir)))
    tokenizer.save_pretrained(tmp_path)
    make_model(len(tokenizer) + 64).save_pretrained(tmp_path)
    assert load_model(ModelSpec(path=str(tmp_path))).pad_id == 0


def test_without_a_pad_token_batches_of_any_length_score_the_same(tiny_model_dir, tmp_path):
    tokenizer = load_tokenizer(ModelSpec(path=str(tiny_model_dir)))
    tokenizer.pad_token = None
    load_model(ModelSpec(path=str(tiny_model_dir))).model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = load_model(ModelSpec(path=str(tmp_path)))
    assert (lm.tokenizer.pad_token_id, lm.pad_id) == (None, 0)
    with_pad = load_model(ModelSpec(path=str(tiny_model_dir)))
    # Rows of different lengths, so that there is padding at all.
    rows = lm.encoder.encode(
        [_sample(f"s{length}", "Why?", "The sea is blue. " * length) for length in range(1, 9)],
        Tokenization(max_length=512),
    )
    together = [
        Loss().rank(RankingTask(model, rows, make_safe())).by_id() for model in (with_pad, lm)
    ]
    assert together[0] == together[1]
    for row in rows:
        alone = Loss().rank(RankingTask(lm, [row], make_safe())).by_id()
        assert alone[row.id] == pytest.approx(together[1][row.id], abs=1e-5)


def _sample(key: str, question: str, answer: str) -> Sample:
    return Sample(key, (Message("user", question),), (Message("assistant", answer),))


# --- devices ------------------------------------------------------------------------------------


def test_devices_that_are_there():
    assert resolve_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x"])
def test_names_that_are_no_device(name):
    with pytest.raises(
        ValueError,
        match=rf"^model\.device={name}: not the name of a device \(.*\)\. Give auto, cpu",
    ):
        resolve_device(name)


def test_a_device_that_this_machine_does_not_have(tiny_model_dir):
    with pytest.raises(
        ValueError,
        match=r"^model\.device=cuda:99: this machine has no such device \(.*\)\. Give auto",
    ):
        load_model(ModelSpec(path=str(tiny_model_dir), device="cuda:99"))


# --- adapters -----------------------------------------------------------------------------------


def adapter_values(model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if "lora_" in name}


def test_the_global_state_of_randomness_is_left_as_it_was():
    base = make_model(64)
    before = torch.random.get_rng_state()
    model = add_lora(base, LoraSpec(r=2), seed=7)
    add_lora(model, LoraSpec(r=2), seed=8, name="second")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_values_follow_from_the_seed_alone():
    values = []
    for state, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(state)
        values.append(adapter_values(add_lora(make_model(64), LoraSpec(r=2), seed=seed)))
    first, second, other = values
    assert len(first) == 8, "A and B of q and v in two layers"
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_second_adapter_of_the_same_seed_starts_equal():
    model = add_lora(make_model(64), LoraSpec(r=2), seed=7, name="theta")
    assert add_lora(model, LoraSpec(r=2), seed=7, name="theta_hat") is model
    values = adapter_values(model)
    pairs = [(name, name.replace("theta", "theta_hat")) for name in values if ".theta." in name]
    assert len(pairs) == 8
    assert all(torch.equal(values[one], values[other]) for one, other in pairs)


def test_the_base_is_frozen_and_the_model_says_the_same_as_before():
    base = make_model(64)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        before = base(tokens).logits
        model = add_lora(base, LoraSpec(r=2), seed=0).eval()
        assert torch.equal(model(tokens).logits, before)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == set(adapter_values(model))


@pytest.mark.parametrize(
    ("modules", "what"),
    [
        (("no_such_layer",), "target modules no_such_layer not found in the model"),
        (("q_proj", "no_such", "w1"), "target modules no_such, w1 not found in the model"),
        ((), "empty"),
    ],
)
def test_modules_that_are_not_there_are_named_with_those_that_are(modules, what):
    message = f"^rank.lora.target_modules: {what}. There are: {MODULES}.$"
    with pytest.raises(ValueError, match=message) as caught:
        add_lora(make_model(64), LoraSpec(target_modules=modules), seed=0)
    assert type(caught.value) is ValueError  # and nothing of somebody else


def test_a_module_that_peft_cannot_adapt():
    with pytest.raises(
        ValueError,
        match=r"^rank\.lora: PEFT cannot put this adapter on the model: Target module Llama"
        rf".*Set rank\.lora\.target_modules to some of: {MODULES}\.",
    ):
        add_lora(make_model(64), LoraSpec(target_modules=("self_attn",)), seed=0)


@pytest.mark.parametrize(
    ("modules", "count"),
    [(("layers.0.self_attn.q_proj",), 2), (("o_proj", "up_proj"), 8), ("all-linear", 28)],
)
def test_modules_that_are_there(modules, count):
    model = add_lora(make_model(64), LoraSpec(r=2, target_modules=modules), seed=0)
    assert len(adapter_values(model)) == count


@pytest.mark.parametrize("values", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_adapters_that_make_no_sense(values):
    with pytest.raises(ValidationError, match=r"should be (greater|less) than"):
        LoraSpec(**values)


# --- saving -------------------------------------------------------------------------------------


def test_a_round_trip_keeps_weights_and_chat_template(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir))
    lm = load_model(spec)
    save_model(lm.model, spec, tmp_path / "saved")
    again = load_model(ModelSpec(path=str(tmp_path / "saved")))
    assert again.tokenizer.chat_template == lm.tokenizer.chat_template
    assert (tmp_path / "saved" / "chat_template.jinja").read_bytes() == (
        tiny_model_dir / "chat_template.jinja"
    ).read_bytes()
    assert again.encoder.template_hash == lm.encoder.template_hash
    assert not list((tmp_path / "saved").glob("*.bin")), "safetensors only"
    task = make_pool(), make_safe()
    scores = [Loss().rank(RankingTask(model, *task)).scores for model in (lm, again)]
    np.testing.assert_array_equal(*scores)


def test_a_template_file_beats_the_tokenizer_and_goes_with_the_saved_model(
    tiny_model_dir, tmp_path
):
    own = (tiny_model_dir / "chat_template.jinja").read_text("utf-8")
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in messages %}Ü{{ m['content'] }}<|end|>{% endfor %}", "utf-8")
    spec = ModelSpec(path=str(tiny_model_dir), chat_template=path)
    lm = load_model(spec)
    assert lm.encoder.template == path.read_text("utf-8")
    (tokens,) = lm.encoder.prompt_ids([[Message("user", "Hi")]])
    assert lm.tokenizer.decode(tokens) == "ÜHi<|end|>"
    save_model(lm.model, spec, tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text("utf-8") == path.read_text(
        "utf-8"
    )
    assert load_tokenizer(spec).chat_template == own, "the model's own is left alone"


def test_a_template_file_that_is_not_there(tiny_model_dir, tmp_path):
    spec = ModelSpec(path=str(tiny_model_dir), chat_template=tmp_path / "none.jinja")
    with pytest.raises(FileNotFoundError, match=r"none\.jinja"):
        load_model(spec)
