"""Sets that are kept: read once, tokenized once, told when damaged, the same as in memory."""

import gc
import hashlib
import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.data import load as module
from seal.data import rows as rows_module
from seal.data.load import DataSpec, encode_set, load
from seal.data.sample import content_of
from seal.data.tokenize import ChatEncoder, Tokenization

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
LONG = Tokenization(max_length=12)


def row(i, **columns):
    return {"prompt": "red " * (1 + i % 4), "completion": "Sure " * (i % 3), **columns}


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return DataSpec(path=str(path), on_bad_row="skip", label="label")


@pytest.fixture
def spec(tmp_path):
    """Twenty rows: copies among them, an empty completion every third."""
    rows = [row(i, source=f"s{i % 2}", label=str(i % 5), note=[i, None]) for i in range(20)]
    return write(tmp_path / "pool.jsonl", rows)


@pytest.fixture
def encoder(byte_level):
    return ChatEncoder(byte_level, template=TEMPLATE)


def same_sets(one, other):
    assert one.samples == other.samples
    for name in ("rows", "where", "labels"):
        assert dict(getattr(one, name)) == dict(getattr(other, name))
    names = ("excluded", "num_duplicates", "num_read", "fingerprint")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def same_tokens(one, other):
    assert one.encoded.ids == other.encoded.ids
    for ours, theirs in zip(one.encoded, other.encoded, strict=True):
        np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
        np.testing.assert_array_equal(ours.response_mask, theirs.response_mask)
        assert ours.is_truncated == theirs.is_truncated
    names = ("excluded", "num_truncated", "num_tokens")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def never(*_, **__):
    pytest.fail("it was done again")


def folders(cache):
    return sorted(path.name.partition("-")[0] for path in cache.iterdir())


def test_a_kept_set_is_the_set_and_is_read_once(tmp_path, spec, monkeypatch):
    cache = tmp_path / "runs" / "x" / "data"
    plain, first = load([spec], name="pool"), load([spec], name="pool", cache=cache)
    assert len(plain.excluded) == 7
    assert plain.num_duplicates > 0
    same_sets(first, plain)
    monkeypatch.setattr(rows_module, "read_rows", never)
    same_sets(load([spec], name="pool", cache=cache), plain)
    assert folders(cache) == ["samples"]


def test_files_of_several_formats_keep_their_own(tmp_path, spec):
    other = tmp_path / "alpaca.json"
    other.write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}]))
    specs = [spec, DataSpec(path=str(other), format="alpaca")]
    for _ in range(2):
        same_sets(load(specs, name="pool", cache=tmp_path / "data"), load(specs, name="pool"))


def test_another_content_or_other_settings_are_read_anew(tmp_path, spec):
    cache = tmp_path / "data"
    load([spec], name="pool", cache=cache)
    fewer = spec.model_copy(update={"limit": 5})
    assert load([fewer], name="pool", cache=cache).num_read == 5
    path = Path(spec.path)
    stamp = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("Sure", "Sore"))  # of the same length
    os.utime(path, ns=(stamp, stamp))
    changed = load([spec], name="pool", cache=cache)
    assert changed.samples[0].completion[0].content == "Sore "
    assert len(folders(cache)) == 3


def test_tokens_are_made_once(tmp_path, spec, encoder, monkeypatch):
    cache = tmp_path / "data"
    pool = load([spec], name="pool", cache=cache)
    plain = encode_set(pool, encoder, LONG, name="pool")
    assert len(plain.encoded) == 13
    assert plain.num_truncated == 1
    same_tokens(encode_set(pool, encoder, LONG, name="pool", cache=cache), plain)
    monkeypatch.setattr(ChatEncoder, "encode", never)
    again = load([spec], name="pool", cache=cache)
    same_tokens(encode_set(again, encoder, LONG, name="pool", cache=cache), plain)
    assert folders(cache) == ["samples", "tokens"]


def test_samples_that_are_not_encoded_stay_told(tmp_path, spec, encoder):
    pool = load([spec], name="pool")
    short = Tokenization(max_length=9, truncate="drop")
    plain = encode_set(pool, encoder, short, name="pool")
    assert 0 < len(plain.excluded) < 13
    for _ in range(2):
        same_tokens(encode_set(pool, encoder, short, name="pool", cache=tmp_path / "data"), plain)


def test_whatever_decides_the_tokens_names_them(tmp_path, spec, byte_level, metaspace):
    cache, pool = tmp_path / "data", load([spec], name="pool")
    fewer = load([spec.model_copy(update={"limit": 9})], name="pool")
    whole = ChatEncoder(byte_level, template=TEMPLATE)
    for samples, encoder, tokenization in (
        (pool, whole, LONG),
        (pool, ChatEncoder(byte_level, template="x" + TEMPLATE), LONG),
        (pool, ChatEncoder(metaspace, template=TEMPLATE), LONG),
        (pool, whole, Tokenization(max_length=11)),
        (fewer, whole, LONG),
        (pool, whole, LONG),
    ):
        found = encode_set(samples, encoder, tokenization, name="pool", cache=cache)
        same_tokens(found, encode_set(samples, encoder, tokenization, name="pool"))
    assert folders(cache) == ["tokens"] * 5


def test_what_a_call_sets_on_the_tokenizer_does_not_name_the_tokens(encoder, byte_level):
    before = encoder.identity
    byte_level(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert encoder.identity == before


@pytest.mark.parametrize("name", ["rows.arrow", "index.arrow", "set.json", "tokens.arrow"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_told_and_never_used(tmp_path, spec, encoder, name, damage):
    cache = tmp_path / "data"

    def read():
        pool = load([spec], name="pool", cache=cache)
        return encode_set(pool, encoder, LONG, name="pool", cache=cache)

    read()
    path = next(cache.rglob(name))
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "cut":
        path.write_bytes(content[:-9])
    expected = "cannot be read" if damage == "remove" else "was changed"
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} {expected}.*delete the folder"):
        read()


def test_what_fails_leaves_nothing(tmp_path, spec, encoder, monkeypatch):
    cache = tmp_path / "runs" / "x" / "data"
    strict = spec.model_copy(update={"on_bad_row": "error"})
    with pytest.raises(ValueError, match="6 more of the 20 rows of the pool set are bad"):
        load([strict], name="pool", cache=cache)
    pool = load([spec], name="pool")
    nothing = Tokenization(max_length=8, truncate="drop")
    monkeypatch.setattr(module, "_ENCODED_AT_ONCE", 2)
    refusing = ChatEncoder(encoder._tokenizer, template="{{ raise_exception('never') }}")
    with pytest.raises(ValueError, match="none of the 13 samples of the pool set can be encoded"):
        encode_set(pool, refusing, nothing, name="pool", cache=cache)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatEncoder, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        encode_set(pool, encoder, LONG, name="pool", cache=cache)
    assert not (tmp_path / "runs").exists()


def test_the_longest_prompt_is_sought_in_all_parts(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(module, "_ENCODED_AT_ONCE", 2)
    rows = [{"prompt": "red " * n, "completion": "Sure"} for n in (20, 30, 44, 10, 9)]
    spec = write(tmp_path / "pool.jsonl", rows).model_copy(update={"label": None})
    with pytest.raises(ValueError, match="The longest prompt has 48 tokens and max_length is 8"):
        encode_set(load([spec], name="pool"), encoder, Tokenization(max_length=8), name="pool")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", 'q"', "\xe9"]))))
def test_the_fingerprint_is_what_it_says(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("f") / "pool.jsonl"
    first = [{"prompt": "a", "completion": "b", "source": "s"}]
    rest = [{"prompt": text, "completion": "b", "source": source} for text, source in rows]
    path.write_text("".join(json.dumps(each) + "\n" for each in first + rest))
    pool = load([DataSpec(path=str(path))], name="pool")
    lines = sorted(json.dumps([content_of(each.id), each.source]) for each in pool.samples)
    assert pool.fingerprint == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_kept_set_holds_nothing_in_memory(tmp_path, encoder):
    rows = ({"prompt": f"{i} red", "completion": "Sure " * 60} for i in range(3000))
    spec = write(tmp_path / "pool.jsonl", rows).model_copy(update={"label": None})
    cache, tokenization = tmp_path / "data", Tokenization(max_length=100)

    def read():
        pool = load([spec], name="pool", cache=cache)
        return pool, encode_set(pool, encoder, tokenization, name="pool", cache=cache)

    read()
    gc.collect()
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    pool, encoded = read()
    held = pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(pool.samples) == len(encoded.encoded) == 3000
    assert held / 3000 < 20, "views of mapped files only"
