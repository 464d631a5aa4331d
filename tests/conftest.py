"""Fixtures shared by the whole suite: a tiny model and tokenizer, built offline in a moment."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_model import make_model, make_tokenizer

torch.set_num_threads(1)  # much faster than two on models this small


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lively_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights so large that it answers different prompts differently."""
    folder = tmp_path_factory.mktemp("lively") / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = LlamaConfig.from_pretrained(folder)
    config.initializer_range, config.tie_word_embeddings = 0.5, False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
