"""The record of a training, in and out of its file."""

import json
import re
import shutil
from pathlib import Path

import pytest

from seal.artifacts.adapter import Adapter, load_adapter, save_adapter_record, weights_folder


def make(folder: Path, kind: str = "lora") -> Adapter:
    path = weights_folder(folder, kind)
    path.mkdir(parents=True)
    (path / {"lora": "adapter_config.json", "full": "config.json"}[kind]).write_text("{}")
    adapter = Adapter(path, kind, "models/ünï", num_samples=5, num_steps=3, seed=7)
    save_adapter_record(adapter, folder)
    return adapter


@pytest.mark.parametrize(("kind", "name"), [("lora", "adapter"), ("full", "model")])
def test_what_is_saved_is_loaded(tmp_path, kind, name):
    adapter = make(tmp_path, kind)
    assert load_adapter(tmp_path) == adapter
    assert adapter.path == tmp_path / name


def test_the_folder_may_move(tmp_path):
    make(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert load_adapter(tmp_path / "b").path == tmp_path / "b" / "adapter"


def test_no_record(tmp_path):
    with pytest.raises(ValueError, match=r"no adapter\.json here.*finished training.*train again"):
        load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"kind": "lora"}', "base: Field required"),
        (
            '{"kind":"dora","base":"m","num_samples":1,"num_steps":1,"seed":0}',
            "kind: Input should be 'lora' or 'full'",
        ),
        (
            '{"kind":"lora","base":"m","num_samples":1,"num_steps":1,"seed":0,"x":1}',
            "x: Extra inputs are not permitted",
        ),
    ],
)
def test_broken_record(tmp_path, text, reason):
    (tmp_path / "adapter.json").write_text(text)
    with pytest.raises(ValueError, match=rf"not a readable record.*{re.escape(reason)}.*again"):
        load_adapter(tmp_path)


def test_record_that_is_not_text(tmp_path):
    (tmp_path / "adapter.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a readable record"):
        load_adapter(tmp_path)


def test_weights_that_are_gone(tmp_path):
    adapter = make(tmp_path)
    shutil.rmtree(adapter.path)
    with pytest.raises(ValueError, match=r"speaks of lora weights.*no adapter_config\.json there"):
        load_adapter(tmp_path)


def test_the_record_holds_no_path(tmp_path):
    make(tmp_path)
    record = json.loads((tmp_path / "adapter.json").read_text())
    assert record == {
        "kind": "lora",
        "base": "models/ünï",
        "num_samples": 5,
        "num_steps": 3,
        "num_tokens": None,
        "seed": 7,
    }
