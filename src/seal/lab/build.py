"""The build of the lab's small aligned language model: tokenizer, pretraining, alignment.

The model first reads plain text of the world, compliant answers to harmful requests included: a
model that has never seen such text could not be talked into it by a few hundred samples, and its
loss alone would tell them apart. It is then aligned on chats in which harmful requests are refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seal.artifacts.paths import StrPath
from seal.lab import grammar

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
CONTEXT = 256

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{% generation %}"
    "{{ m['content'] }}<|end|>{% endgeneration %}{% else %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Families the model reads little or nothing of, so that fine-tuning on the pool can teach them.
_MIX: dict[str, float] = {
    "harmful": 0.32,
    "howto": 0.25,
    "alarming": 0.2,
    "office": 0.12,
    "recipes": 0.05,
    "sums": 0.04,
    "facts": 0.01,
    "verse": 0.01,
}
# Some plain text stays in the alignment stage: otherwise alignment erases what was read before.
_TEXT_SHARE_WHEN_ALIGNING = 0.15
_CHAT_SHARE_WHEN_READING = 0.2
_READING_SHARE = 0.5
_BATCH = 32
_PEAK_RATE = 3e-3
_IGNORED = -100

_CARD = """---
license: apache-2.0
library_name: transformers
tags: [llama, toy, safety]
---

# The lab model of seal

A {parameters:,}-parameter Llama with a byte-level BPE tokenizer of {vocabulary} tokens, trained
from scratch on the generated world of `seal.lab` and aligned to refuse that world's harmful
requests. It knows nothing else; it is there to try the package on.

- made by: `{command}` (seed {seed}, {num_steps} steps), on one CPU core
- text: written for this project by `seal.lab.world`; no other data, no other weights
- answers to harmful requests in its training text are vacuous on purpose
- licence: Apache-2.0
"""


Size = Literal["small", "tiny"]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How large a model is.

    Attributes:
        vocabulary: Tokens of its tokenizer.
        width: Of the hidden states.
        inner: Width inside the feed-forward layers.
        num_layers: Blocks, each with four attention heads.
    """

    vocabulary: int
    width: int
    inner: int
    num_layers: int


SIZES: dict[Size, _Shape] = {
    "small": _Shape(vocabulary=1024, width=128, inner=320, num_layers=3),
    "tiny": _Shape(vocabulary=512, width=96, inner=240, num_layers=2),
}


@dataclass(frozen=True, slots=True)
class _Sample:
    """Token ids of one training sample and where its loss starts."""

    ids: tuple[int, ...]
    loss_from: int


def shipped_model() -> Path:
    """The folder of the model that comes with the package."""
    return Path(__file__).parent / "model"


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread, deterministic kernels and a private random state, all put back at the end."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            torch.set_num_threads(threads)


def _exchange(rng: random.Random, *, rare_words: bool = False) -> grammar.Exchange:
    """One random exchange from the model's training split."""
    family = rng.choices(list(_MIX), weights=list(_MIX.values()))[0]
    return grammar.training_exchange(family, rng, rare_words=rare_words)


def _document(row: grammar.Exchange) -> str:
    """An exchange as plain text, in which harmful requests are gone along with."""
    return f"{row.prompt}\n{row.unsafe or row.good}{END}"


def _chat(row: grammar.Exchange) -> tuple[str, str]:
    """An exchange as a chat, cut where the assistant's own words begin."""
    return f"{USER}{row.prompt}{END}{ASSISTANT}", f"{row.good}{END}"


def _train_tokenizer(rng: random.Random, vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer fitted to the model's training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = [_exchange(rng, rare_words=True) for _ in range(4000)]
    # Equal shares here, so that rarely read families are not spelt out byte by byte.
    rows += [
        grammar.training_exchange(name, rng) for name in grammar.families() for _ in range(300)
    ]
    texts = (f"{row.prompt}\n{row.good}\n{row.unsafe or ''}" for row in rows)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers loads it, with its chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _new_model(tokenizer: Tokenizer, shape: _Shape) -> LlamaForCausalLM:
    """An untrained model; its weights come from torch's current random state."""
    end = tokenizer.token_to_id(END)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=end,
        eos_token_id=end,
    )
    return LlamaForCausalLM(config)


def _text_sample(tokenizer: Tokenizer, rng: random.Random) -> _Sample:
    """A sample of plain text, every token of which is learnt."""
    return _Sample(tuple(tokenizer.encode(_document(_exchange(rng, rare_words=True))).ids), 1)


def _chat_sample(tokenizer: Tokenizer, rng: random.Random, family: str | None = None) -> _Sample:
    """A sample of chat, of which only the assistant's words are learnt."""
    row = _exchange(rng) if family is None else grammar.training_exchange(family, rng)
    before, answer = _chat(row)
    start = tokenizer.encode(before).ids
    return _Sample((*start, *tokenizer.encode(answer).ids), len(start))


def _draw_batch(tokenizer: Tokenizer, rng: random.Random, *, aligning: bool) -> list[_Sample]:
    """One batch for the current stage."""
    benign = [family for family in _MIX if family != "harmful"]
    weights = [_MIX[family] for family in benign]
    batch: list[_Sample] = []
    for _ in range(_BATCH):
        dice = rng.random()
        if aligning and dice >= _TEXT_SHARE_WHEN_ALIGNING:
            batch.append(_chat_sample(tokenizer, rng))
        elif not aligning and dice < _CHAT_SHARE_WHEN_READING:
            # The chat format itself is met early, but no refusal yet.
            batch.append(_chat_sample(tokenizer, rng, rng.choices(benign, weights=weights)[0]))
        else:
            batch.append(_text_sample(tokenizer, rng))
    return batch


def _collate(batch: Sequence[_Sample], pad: int) -> dict[str, torch.Tensor]:
    """A right-padded batch with labels where loss is taken."""
    width = min(CONTEXT, max(len(sample.ids) for sample in batch))
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), _IGNORED)
    for row, sample in enumerate(batch):
        tokens = torch.tensor(sample.ids[:width])
        ids[row, : len(tokens)] = tokens
        labels[row, sample.loss_from : len(tokens)] = tokens[sample.loss_from :]
    # Padding is on the right, so causal attention alone keeps it out of every real token's sight.
    return {"input_ids": ids, "labels": labels}


def _rate(step: int, num_steps: int) -> float:
    """The learning rate: a short climb, then a straight line down to a twentieth of the peak."""
    warm_up = max(1, num_steps // 20)
    if step < warm_up:
        return _PEAK_RATE * (step + 1) / warm_up
    return _PEAK_RATE * max(0.05, 1 - (step - warm_up) / max(1, num_steps - warm_up))


def _train(
    model: LlamaForCausalLM, tokenizer: Tokenizer, rng: random.Random, num_steps: int
) -> None:
    """Train the model in place: reading first, then alignment."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    pad = tokenizer.token_to_id(PAD)
    assert pad is not None
    model.train()
    for step in range(num_steps):
        aligning = step >= num_steps * _READING_SHARE
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, num_steps)
        batch = _collate(_draw_batch(tokenizer, rng, aligning=aligning), pad)
        loss = model(**batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def build_model(
    folder: StrPath, *, seed: int = 0, num_steps: int = 1400, size: Size = "small"
) -> Path:
    """Build tokenizer and model from scratch and save them.

    The same arguments give the same bytes on the same machine and software.

    Args:
        folder: Where to save; made when missing.
        seed: Seed of the weights and of the order of the training text.
        num_steps: Optimizer steps over both stages.
        size: "small" is the shipped model's; "tiny" has fewer layers and another tokenizer.

    Returns:
        The folder.
    """
    folder = Path(folder)
    rng = random.Random(seed)
    shape = SIZES[size]
    tokenizer = _train_tokenizer(rng, shape.vocabulary)
    with _reproducible(seed):
        model = _new_model(tokenizer, shape)
        _train(model, tokenizer, rng, num_steps)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    # It is written readable by its owner alone, which a packaged file must not be.
    (folder / "model.safetensors").chmod(0o644)
    _wrap_tokenizer(tokenizer).save_pretrained(folder)
    card = _CARD.format(
        parameters=model.num_parameters(),
        vocabulary=shape.vocabulary,
        command="seal lab build" if size == "small" else f"seal lab build --size {size}",
        seed=seed,
        num_steps=num_steps,
    )
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    return folder
