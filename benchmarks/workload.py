"""What is run: random models built from a configuration, and made-up samples.

Only torch, transformers and peft are needed here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

PAD = 0
FIRST_WORD = 10  # tokens below mean something special
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Size:
    """A model and the samples that it is given.

    Attributes:
        config: Of the model.
        dtype: Of the frozen weights.
        prompt: Least and most tokens of a prompt.
        response: Least and most tokens of a response.
        batch: Samples of the pool in a step, and as many safe ones.
        micro_batch: Samples per forward pass.
    """

    config: LlamaConfig
    dtype: torch.dtype
    prompt: tuple[int, int]
    response: tuple[int, int]
    batch: int
    micro_batch: int


_SPECIAL = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": PAD}
_LLAMA_3 = {**_SPECIAL, "vocab_size": 128_256, "num_key_value_heads": 8}
_ROWS_OF_512 = {"prompt": (128, 128), "response": (384, 384)}
SIZES = {
    # For tests: seconds for everything.
    "tiny": Size(
        LlamaConfig(
            **_SPECIAL,
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=True,
        ),
        torch.float32,
        prompt=(4, 12),
        response=(8, 24),
        batch=2,
        micro_batch=2,
    ),
    # 8.3 million weights, a quarter of them in the vocabulary.
    "small": Size(
        LlamaConfig(
            **_SPECIAL,
            vocab_size=8000,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            tie_word_embeddings=True,
        ),
        torch.float32,
        prompt=(16, 64),
        response=(32, 160),
        batch=4,
        micro_batch=4,
    ),
    # The vocabulary and width of SmolLM2-135M, with fewer blocks: its output layer weighs more.
    "vocabulary": Size(
        LlamaConfig(
            **_SPECIAL,
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=8,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        torch.float32,
        prompt=(16, 128),
        response=(16, 160),
        batch=4,
        micro_batch=8,
    ),
    # Llama-3.2-1B.
    "1b": Size(
        LlamaConfig(
            **_LLAMA_3,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            head_dim=64,
            tie_word_embeddings=True,
        ),
        torch.bfloat16,
        **_ROWS_OF_512,
        batch=16,
        micro_batch=16,
    ),
    # Llama-3-8B.
    "8b": Size(
        LlamaConfig(
            **_LLAMA_3,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            tie_word_embeddings=False,
        ),
        torch.bfloat16,
        **_ROWS_OF_512,
        batch=8,
        micro_batch=8,
    ),
}


class Row(NamedTuple):
    """A sample as tokens: the fields of `seal.data.tokenize.Encoded`, in their order."""

    id: str
    input_ids: np.ndarray
    response_mask: np.ndarray
    is_truncated: bool = False


class Visit(NamedTuple):
    """What one step sees."""

    epoch: int
    pool: list[Row]
    safe: list[Row]


@dataclass(frozen=True, slots=True)
class Work:
    """The samples of a run, and what is done with them.

    Attributes:
        size: What they were made for.
        pool: In the order of their ids.
        safe: As many.
        epochs: Passes over the pool.
        gamma_start: Share of the lower level in the first epoch.
        gamma_step: What an epoch adds to it.
    """

    size: Size
    pool: list[Row]
    safe: list[Row]
    epochs: int = 1
    gamma_start: float = 0.5
    gamma_step: float = 0.0

    def visits(self) -> list[Visit]:
        """The steps in the order of the samples. Seal has an order of its own: `with_seal`."""
        starts = range(0, len(self.pool), self.size.batch)
        return [
            Visit(
                epoch,
                self.pool[start : start + self.size.batch],
                self.safe[start:][: self.size.batch],
            )
            for epoch in range(self.epochs)
            for start in starts
        ]


def make_work(size: Size, steps: int, **rest: float) -> Work:
    """As many samples as `steps` steps of an epoch see."""
    rows = [
        make_rows(size, name, steps * size.batch, seed)
        for seed, name in enumerate(("pool", "safe"))
    ]
    return Work(size, *rows, **rest)  # pyright: ignore


def make_rows(size: Size, name: str, num: int, seed: int) -> list[Row]:
    """Random tokens; lengths are even over the size's ranges."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num):
        prompt, response = (int(rng.integers(a, b + 1)) for a, b in (size.prompt, size.response))
        ids = rng.integers(FIRST_WORD, size.config.vocab_size, prompt + response).astype(np.int32)
        rows.append(Row(f"{name}-{i:07d}", ids, np.arange(len(ids)) >= prompt))
    return rows


def longest_first(rows: Sequence[Row], num: int) -> list[list[Row]]:
    """Batches of rows of similar length."""
    ordered = sorted(rows, key=lambda row: (-len(row.input_ids), row.id))
    return [ordered[start : start + num] for start in range(0, len(ordered), num)]


def make_model(size: Size, device: str = "cpu") -> nn.Module:
    """Random weights, made on the device."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(size.config, dtype=size.dtype).eval()


def put_adapter(model: nn.Module, name: str = "default") -> PeftModel:
    """LoRA as in the paper: r 16, alpha 16, no dropout, on q and v."""
    lora = LoraConfig(
        r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        torch.manual_seed(0)
        return get_peft_model(model, lora, adapter_name=name)  # pyright: ignore


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks."""
    return [module for module in model.modules() if type(module).__name__ == "LlamaDecoderLayer"]


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep the inputs of each block only, and compute it again in the backward pass.

    transformers' own switch works in training mode only, in which rankers never are. A model that
    was changed so must not be copied: its copy would compute with the original's blocks.
    """
    for block in blocks_of(model):
        inner = block.forward

        def forward(*args, inner=inner, **kwargs):  # noqa: ANN002, ANN003, ANN001, ANN202
            if not torch.is_grad_enabled():
                return inner(*args, **kwargs)
            return checkpoint(inner, *args, use_reentrant=False, **kwargs)

        block.forward = forward


def compile_blocks(model: nn.Module) -> None:
    """torch.compile of each block; the first step pays for it."""
    for block in blocks_of(model):
        block.compile()


def make_tokenizer(num_words: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose words are made of letters: decoding costs what it does."""
    words = ["<pad>", "</s>"]
    words += ["Ġ" + _letters(i) for i in range(num_words - len(words))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=8192
    )


def _letters(number: int) -> str:
    text = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        text += _LETTERS[letter]
        number -= 1
    return text


class Padded(NamedTuple):
    """A batch padded on the left, so that responses end in the same column."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    response_mask: Tensor

    def model_inputs(self) -> dict[str, Tensor]:
        """What the model is given."""
        return {name: getattr(self, name) for name in self._fields[:3]}


def pad(rows: Sequence[Row], device: str = "cpu") -> Padded:
    """A batch of the rows, in their order."""
    length = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), length), PAD)
    mask, response = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        start = length - len(row.input_ids)
        ids[place, start:] = torch.from_numpy(row.input_ids)
        mask[place, start:] = 1
        response[place, start:] = torch.from_numpy(row.response_mask)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Padded(*(tensor.to(device) for tensor in (ids, mask, positions, response)))
