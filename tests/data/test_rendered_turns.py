"""Every turn is found in the text, whatever the template does with it."""

import json
import re
from pathlib import Path

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.conftest import SENTENCES, SPECIALS, make_byte_level, make_metaspace
from seal.data.end_of_turn import configured_ends
from seal.data.sample import Message, Sample
from seal.data.tokenize import ChatEncoder, Encoded, Tokenization

WIDE = Tokenization(max_length=100_000)
KEEP = Tokenization(max_length=100_000, dropped_turn="keep")


def conversation(*turns, num_prompt=1):
    """A sample of (role, text) pairs."""
    messages = tuple(Message(*turn) for turn in turns)
    return Sample("x", messages[:num_prompt], messages[num_prompt:])


def asked(answer, question="Name a colour."):
    return conversation(("user", question), ("assistant", answer))


def learned(tokenizer, template, sample, tokenization=WIDE, **kwargs):
    """The text that carries the loss, or why there is none."""
    (row,) = ChatEncoder(tokenizer, template=template, **kwargs).encode([sample], tokenization)
    if isinstance(row, str):
        return row
    assert isinstance(row, Encoded)
    return tokenizer.decode(row.input_ids[row.response_mask].tolist())


# --- the template's own mask --------------------------------------------------------------------


def make_unigram():
    """SentencePiece Unigram with compatibility normalisation, as in T5 and XLNet."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({char for text in SENTENCES for char in text} | set("\n\t\r+()\u2581"))
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        unk_token="<unk>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return wrapped(tokenizer)


def make_wordpiece():
    """WordPiece, which drops blanks, as in BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return wrapped(tokenizer)


def wrapped(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIALS[3:],
    )


FAMILIES = {
    "byte-level BPE": make_byte_level(),
    "byte-level BPE, trimmed": make_byte_level(trim_offsets=True),
    "BPE with word-start marks and bytes": make_metaspace(),
    "Unigram, NFKC": make_unigram(),
    "WordPiece": make_wordpiece(),
}
MARKED = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "trimming": (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
        "{%- generation -%} {{ m.content | trim + '<|end|>' }} {%- endgeneration -%}"
        "{% else %}{{ m.content | trim + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "with the line end": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "a blank before the text": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{% generation %}{{ ' ' + m.content + ' </s>' }}{% endgeneration %}{% endif %}"
        "{% endfor %}"
    ),
}
DROPPING = {"WordPiece", "byte-level BPE, trimmed"}  # no token shows where a blank stood
RESPONSES = [
    "Sure, it is red.",
    "    return a + b",
    "\n\nOnce more.",
    "\tSure",
    "  Sure  \n\n",
    "\u00e9te\u0301 \N{SEAL}\N{ZERO WIDTH JOINER}\N{SEAL}",
    "\ufb01ne \u2460 \u210c",
    "Name a colour.",
    "red\r\nSure\r\n",
    "\N{SEAL}",
    "assistant",
    "1",
]


def own_mask(tokenizer, template, sample):
    out = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in sample.messages],
        chat_template=template,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    return out["input_ids"], [bool(own) for own in out["assistant_masks"]]


# transformers marks only the first token of the last character, and nothing or all that follows
# where the first or last character has no token.
INCOMPARABLE = {
    ("WordPiece", "with the line end"),
    ("WordPiece", "a blank before the text"),
    ("byte-level BPE, trimmed", "a blank before the text"),
    ("BPE with word-start marks and bytes", "with the line end"),
}


@pytest.mark.parametrize(
    ("family", "template"),
    [(f, t) for f in FAMILIES for t in MARKED if (f, t) not in INCOMPARABLE],
)
def test_the_loss_lies_where_the_template_says(family, template):
    tokenizer = FAMILIES[family]
    encoder = ChatEncoder(tokenizer, template=MARKED[template])
    compared = 0
    for answer in RESPONSES:
        turns = [("user", "red"), ("assistant", answer), ("user", answer), ("assistant", answer)]
        sample = conversation(*turns)
        (row,) = encoder.encode([sample], WIDE)
        ids, mask = own_mask(tokenizer, MARKED[template], sample)
        assert row.input_ids.tolist() == ids
        ours = row.response_mask.tolist()
        if answer.strip() == answer or family not in DROPPING:
            compared += 1
            assert ours == mask, (answer, tokenizer.convert_ids_to_tokens(ids))
    assert compared >= 6


def test_marks_of_blank_tokens_that_show_no_characters():
    """Where offsets are trimmed, the masks are those of the same tokenizer without."""
    plain, trimmed = FAMILIES["byte-level BPE"], FAMILIES["byte-level BPE, trimmed"]
    for template in MARKED.values():
        for answer in RESPONSES:
            sample = conversation(
                ("user", "red"), ("assistant", answer), ("user", answer), ("assistant", answer)
            )
            rows = [
                ChatEncoder(kind, template=template).encode([sample], WIDE)[0]
                for kind in (plain, trimmed)
            ]
            assert rows[0].response_mask.tolist() == rows[1].response_mask.tolist(), answer


TRL_TEMPLATES = [
    *("cohere2", "deepseekv3", "gemma3", "glm4moe", "gptoss", "lfm2", "llama3", "phi3"),
    *("qwen2_5", "qwen3", "qwen3_8"),
]


@pytest.mark.parametrize("name", TRL_TEMPLATES)
def test_the_masks_of_the_templates_that_trl_trains_with(name):
    """They are ours, but that some of them count the generation prompt, which is given."""
    path = Path(trl.__file__).parent / "chat_templates" / f"{name}_training.jinja"
    text = path.read_text("utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(FAMILIES["byte-level BPE"].backend_tokenizer.to_str()),
        eos_token="<eos>",
        additional_special_tokens=sorted(set(re.findall(r"<[^<>\s{}'\"=/]{2,40}>", text))),
    )
    encoder = ChatEncoder(tokenizer, template=text)
    turns = [
        ("user", "red"),
        ("assistant", "Sure."),
        ("user", "I"),
        ("assistant", "\tNo. \N{SEAL}!"),
    ]
    sample = conversation(*turns)
    (row,) = encoder.encode([sample], WIDE)
    ids, theirs = own_mask(tokenizer, text, sample)
    assert row.input_ids.tolist() == ids
    ours = row.response_mask.tolist()
    (prompt,) = encoder.prompt_ids([sample.prompt])
    given, place = tokenizer.decode(prompt), 0
    while place < len(ids):
        start = place
        while theirs[place] and not ours[place]:
            place += 1
        if place > start:  # a run of the generation prompt, right before the response
            assert not theirs[start - 1]
            assert ours[place]
            assert tokenizer.decode(ids[start:place]) in given
        assert ours[place] == theirs[place]
        place += 1


# --- ends of turns ------------------------------------------------------------------------------

CHATML = MARKED["chatml"].replace("{% generation %}", "").replace("{% endgeneration %}", "")


def with_ordinary(*names, eos="</s>"):
    """A byte-level tokenizer with added tokens that are not special."""
    state = json.loads(FAMILIES["byte-level BPE"].backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        if token["content"] in names:
            token["special"] = False
    new = [name for name in names if name not in SPECIALS]
    kept = [name for name in SPECIALS[3:] if name not in names]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=eos,
        additional_special_tokens=kept,
    )
    tokenizer.add_tokens(new)
    return tokenizer


def ids_of(tokenizer, *names):
    return tuple(tokenizer.convert_tokens_to_ids(list(names)))


def test_an_ordinary_added_token_ends_a_turn():
    tokenizer = with_ordinary("<|im_end|>")
    assert not tokenizer.added_tokens_decoder[ids_of(tokenizer, "<|im_end|>")[0]].special
    assert learned(tokenizer, CHATML, asked("Sure.")) == "Sure.<|im_end|>"
    encoder = ChatEncoder(tokenizer, template=CHATML)
    assert encoder.stop_ids == ids_of(tokenizer, "</s>", "<|im_end|>")
    assert encoder.remark is None


def test_the_models_own_ends_are_stops_too():
    tokenizer = FAMILIES["byte-level BPE"]
    encoder = ChatEncoder(tokenizer, template=CHATML, end_ids=[3, 4, 10**9])
    assert encoder.stop_ids == (*ids_of(tokenizer, "</s>", "<|im_end|>"), 3)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [({"eos_token_id": 2}, {"eos_token_id": [4, 7]}, [4, 7, 2]), ({}, None, []), (None, None, [])],
)
def test_ends_in_a_models_files(tmp_path, config, generation, expected):
    if config is not None:
        config = {"model_type": "llama", "eos_token_id": None, **config}
        (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert configured_ends(str(tmp_path), None, trusted=False) == expected


TWO_ENDS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
    "{% if loop.last %}{{ '<|im_end|>' }}{% else %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
END_AT_THE_LAST = TWO_ENDS.replace("{% else %}{{ '<|end|>' }}", "")
END_BEFORE_THE_LAST = TWO_ENDS.replace("{{ '<|im_end|>' }}{% else %}", "{% else %}")
TEXT_END = TWO_ENDS.replace("<|im_end|>", "[END]\n").replace("<|end|>", "[END]\n")
NO_END = TWO_ENDS.replace("<|im_end|>", "\n").replace("<|end|>", "\n")


@pytest.mark.parametrize(
    ("template", "text", "stops"),
    [
        (TWO_ENDS, "Sure.<|end|>No.<|im_end|>", ["</s>", "<|im_end|>", "<|end|>"]),
        (END_AT_THE_LAST, "Sure.No.<|im_end|>", ["</s>", "<|im_end|>"]),
        (END_BEFORE_THE_LAST, "Sure.<|end|>No.", ["</s>", "<|end|>"]),
        (TEXT_END, "Sure.[END]No.[END]", ["</s>"]),
        (NO_END, "Sure.No.", ["</s>"]),
    ],
)
def test_turns_that_end_in_different_ways(template, text, stops):
    tokenizer = FAMILIES["byte-level BPE"]
    turns = [("user", "red"), ("assistant", "Sure."), ("user", "I"), ("assistant", "No.")]
    assert learned(tokenizer, template, conversation(*turns)) == text
    encoder = ChatEncoder(tokenizer, template=template)
    assert encoder.stop_ids == ids_of(tokenizer, *stops)
    assert encoder.end_text == ("[END]" if template == TEXT_END else "")
    assert (encoder.remark is not None) == (template == NO_END)
    if template == NO_END:
        assert "writes no end of turn" in encoder.remark
        assert encoder.remark.endswith("goes on to max_new_tokens, or to </s>")
