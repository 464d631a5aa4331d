"""Models that do not look at the attention mask: a sample's numbers are its own all the same."""

import logging

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from seal import padding
from seal.data.batches import collate, length_batches
from seal.data.sample import Message
from seal.data.tokenize import Encoded
from seal.generation import Decoding, generate, prompt_sharing
from seal.losses import mean_nll
from seal.models import LoraSpec, ModelSpec, load_model
from seal.padding import needs_even_rows, sharing, trains_rows_alone
from seal.rankers.gradients import SampleGradients
from seal.rankers.levels import make_levels
from seal.sft import sft_config
from seal.stages.fitting import _without_padding
from seal.tables import Tables
from tiny_model import make_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "llama": lambda words: LlamaConfig(vocab_size=words, **SIZES, **HEADS),
    "gpt2": lambda words: GPT2Config(
        vocab_size=words, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1
    ),
    "mamba": lambda words: MambaConfig(vocab_size=words, state_size=4, **SIZES),
    "mixtral": lambda words: MixtralConfig(vocab_size=words, num_local_experts=4, **SIZES, **HEADS),
    "rwkv": lambda words: RwkvConfig(
        vocab_size=words, attention_hidden_size=32, intermediate_size=48, **SIZES
    ),
    "recurrent_gemma": lambda words: RecurrentGemmaConfig(
        vocab_size=words,
        hidden_size=32,
        num_hidden_layers=3,
        intermediate_size=48,
        num_attention_heads=4,
        lru_width=32,
        attention_window_size=16,
    ),
}
IGNORING = {"rwkv", "recurrent_gemma"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    tokenizer = make_tokenizer()
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config(len(tokenizer)))
        for value in model.parameters():
            if value.dim() == 2:
                value.data *= 3  # so that rows differ
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[name] = folder
    return made


def load(folders, name, **settings):
    return load_model(ModelSpec(path=str(folders[name]), **settings))


def rows(lengths=(20, 7, 12, 7, 9)) -> list[Encoded]:
    rng = np.random.default_rng(0)
    made = []
    for place, length in enumerate(lengths):
        tokens = rng.integers(5, 250, size=length).astype(np.int32)
        made.append(Encoded(f"r{place}", tokens, np.arange(length) >= length - 4, False))
    return made


def alone(lm, row) -> float:
    return float(mean_nll(lm.model, collate([row], lm.pad_id)))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_probe_tells_who_looks_at_the_mask(folders, name):
    lm = load(folders, name)
    assert needs_even_rows(lm.model) == (name in IGNORING)
    shared = {"rwkv": "alone", "recurrent_gemma": "even"}.get(name, "padded")
    assert prompt_sharing(lm) == shared  # RWKV's kept state mixes up the rows of a batch
    assert not trains_rows_alone(lm.model)  # what comes after a token is never seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "rwkv", "mamba"])
def test_the_probe_tells_it_in_half_precision(folders, name, dtype):
    assert needs_even_rows(load(folders, name, dtype=dtype).model) == (name in IGNORING)


def test_padding_changes_the_losses_of_a_model_that_does_not_look(folders):
    """What the probe is for: without it these would be the numbers."""
    lm = load(folders, "rwkv")
    long, short, *_ = rows()
    padded = mean_nll(lm.model, collate([long, short], lm.pad_id))
    assert abs(float(padded[1]) - alone(lm, short)) > 0.01


@pytest.mark.parametrize("name", ["rwkv", "llama"])
def test_losses_are_those_of_each_row_alone(folders, name):
    lm = load(folders, name)
    means = Tables().losses(lm, rows()).mean
    np.testing.assert_allclose(means, [alone(lm, row) for row in rows()], rtol=1e-4)


@pytest.mark.parametrize("name", ["rwkv", "recurrent_gemma", "llama"])
def test_answers_are_those_to_each_prompt_alone(folders, name):
    lm = load(folders, name)
    texts = ["Hi", "What colour is the sea?", "Name three", "Go", "I cannot help with that key"]
    prompts = [[Message("user", text)] for text in texts]
    decoding = Decoding(max_new_tokens=6, batch_size=5)
    found = generate(lm, prompts, decoding)
    assert found == [generate(lm, [prompt], decoding)[0] for prompt in prompts]
    assert len(set(found)) > 1


def test_gradients_are_those_of_each_row_alone(folders):
    lm = load(folders, "rwkv")
    targets = ("key", "value")
    (level,) = make_levels(
        lm, num_levels=1, tuning="lora", lora=LoraSpec(r=2, target_modules=targets),
        learning_rate=1e-2, betas=(0.9, 0.95), max_grad_norm=1.0, micro_batch_size=5, seed=0,
    )  # fmt: skip
    assert level.micro_batches.is_even
    for value in level.parameters.values():
        value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    gradients = SampleGradients(level.lm, micro_batch_size=5)
    found = np.zeros((5, gradients.size))
    for places, values in gradients.each(rows()):
        found[places] = values.numpy()
    for place, row in enumerate(rows()):
        (single,) = [values for _, values in gradients.each([row])]
        np.testing.assert_allclose(found[place], single[0].numpy(), rtol=1e-3, atol=1e-5)
    losses = level.differentiate(rows(), torch.full((5,), 0.2)).losses
    np.testing.assert_allclose(losses, [alone(level.lm, row) for row in rows()], rtol=1e-4)


def test_the_batches_hold_rows_of_one_length_and_all_of_them():
    batches = length_batches(rows(), 5, is_even=True)
    assert [[len(rows()[place].input_ids) for place in batch] for batch in batches] == [
        [20], [12], [9], [7, 7],
    ]  # fmt: skip
    assert sorted(place for batch in batches for place in batch) == [0, 1, 2, 3, 4]
    assert length_batches(rows(), 1, is_even=True) == [[0], [2], [4], [1], [3]]


def test_it_is_tried_once_and_said_once(folders, caplog):
    padding._say_once.cache_clear()
    lm = load(folders, "rwkv")
    with caplog.at_level(logging.WARNING, "seal.padding"):
        for _ in range(3):
            assert needs_even_rows(lm.model)
    assert [record.getMessage() for record in caplog.records] == [
        "RwkvForCausalLM lets padding into its predictions, whatever the attention mask says "
        "(tried in a forward pass): only rows of equal length share a batch, which is slower and "
        "changes no result"
    ]
    foreign = torch.nn.Linear(2, 2)
    assert sharing(foreign, "training", "right", lambda *_: 1 / 0) == "padded"


def test_training_takes_one_row_at_a_time_where_padding_counts(folders, tmp_path, monkeypatch):
    lm = load(folders, "llama")
    config = sft_config({"per_device_train_batch_size": 4}, torch.device("cpu"), tmp_path, 0)
    assert _without_padding(config, lm.model) is config
    monkeypatch.setattr("seal.stages.fitting.trains_rows_alone", lambda _: True)
    changed = _without_padding(config, lm.model)
    sizes = changed.per_device_train_batch_size, changed.gradient_accumulation_steps
    assert sizes == (1, 4 * config.gradient_accumulation_steps)
    config = sft_config({"padding_free": True}, torch.device("cpu"), tmp_path, 0)
    with pytest.raises(ValueError, match=r"padding_free=true is refused: RwkvForCausalLM"):
        _without_padding(config, load(folders, "rwkv").model)
