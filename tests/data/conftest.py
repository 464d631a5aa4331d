"""Tokenizers of the two common kinds, trained in a moment on a few sentences."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
]
SENTENCES = [
    "Human: Name a colour.\nAssistant: Sure, it is red.",
    "[INST] Name a colour. [/INST] Sure, it is red.",
    "user assistant system think I cannot help with that.",
    "Sure Sure Sure Sure red red red Yes. No. I I I",
] * 10


def _wrap(tokenizer, **kwargs):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=SPECIALS[3:],
        **kwargs,
    )


def _bpe_trainer():
    return trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def make_byte_level(*, trim_offsets=False, adds_bos=False):
    """Byte-level BPE, as in GPT-2, Llama 3, Qwen."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(SENTENCES, _bpe_trainer())
    if trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return _wrap(tokenizer)


def make_metaspace():
    """Word starts marked, bytes as a fallback: SentencePiece as in Llama 2."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    state = json.loads(tokenizer.to_str())
    for byte in range(256):
        state["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(state["model"]["vocab"]))
    return _wrap(Tokenizer.from_str(json.dumps(state)))


@pytest.fixture(scope="session")
def byte_level():
    return make_byte_level()


@pytest.fixture(scope="session")
def metaspace():
    return make_metaspace()


@pytest.fixture(scope="session")
def trimmed():
    return make_byte_level(trim_offsets=True)


@pytest.fixture(scope="session")
def bos_adding():
    return make_byte_level(adds_bos=True)
