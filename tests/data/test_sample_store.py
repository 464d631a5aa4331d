"""Samples as rows of Arrow files: the same as a list of them and dictionaries by id."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.artifacts.records import RecordWriter
from seal.data.sample import Message, Sample
from seal.data.sample_store import (
    ROW_SCHEMA,
    Column,
    Conversations,
    Samples,
    SampleStore,
    hex_of,
    load_index,
    make_index,
    save_index,
    sources_of,
)

WORDS = np.array([7, 2**64 - 1, 7, 0, 7, 0], dtype=np.uint64)
IDS = (
    "0000000000000007", "ffffffffffffffff", "0000000000000007-1", "0000000000000000",
    "0000000000000007-2", "0000000000000000-1",
)  # fmt: skip


def pair(row):
    return (Message("user", row["q"]),), (Message("assistant", row["a"]),)


def shouted(row):
    return (Message("user", row["q"].upper()),), (Message("assistant", row["a"]),)


ROWS = [{"q": f"question {i}", "a": "caf\xe9", "n": [i, None, 0.1]} for i in range(6)]
SOURCES = ["web", "books", "", "web", "books", "odd"]
LABELS = ["safe", None, "unsafe", None, None, "safe"]
EXPECTED = [
    Sample(key, *(pair if i < 4 else shouted)(ROWS[i]), SOURCES[i]) for i, key in enumerate(IDS)
]


@pytest.fixture
def store():
    writer = RecordWriter(ROW_SCHEMA, None)
    for i in range(6):
        writer.add((json.dumps(ROWS[i]), f"file:{i + 1}", SOURCES[i], LABELS[i]), 1)
    return SampleStore(writer.finish(), make_index(WORDS), (0, 4), (pair, shouted))


def test_copies_are_numbered_in_the_files_order(tmp_path):
    index = make_index(WORDS)
    assert index.ids == IDS
    assert [index.place(key) for key in IDS] == list(range(6))
    save_index(index, tmp_path / "index.arrow")
    before = pa.total_allocated_bytes()
    again = load_index(tmp_path / "index.arrow")
    assert pa.total_allocated_bytes() == before, "it is mapped, not copied"
    assert again.ids == IDS
    assert [again.place(key) for key in IDS] == list(range(6))


@pytest.mark.parametrize(
    "key",
    ["", "x", "7", "0000000000000007-0", "0000000000000007-3", "0000000000000007--1", "00000000000"
     "00007-01", "0000000000000001", "FFFFFFFFFFFFFFFF", "ffffffffffffffff-1", "1" + "0" * 16],
)  # fmt: skip
def test_what_is_no_id_is_not_found(store, key):
    with pytest.raises(KeyError):
        store.index.place(key)
    assert key not in Column(store, "where", str)
    assert Column(store, "where", str).get(key) is None


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_hashes_are_written_as_sixteen_digits(numbers):
    found = hex_of(np.array(numbers, dtype=np.uint64)).to_pylist()
    assert found == [f"{number:016x}" for number in numbers]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_ids_follow_the_definition(contents):
    index = make_index(np.array(contents, dtype=np.uint64))
    seen: dict[int, int] = {}
    for key, content in zip(index.ids, contents, strict=True):
        copy = seen.get(content, 0)
        assert key == f"{content:016x}" + (f"-{copy}" if copy else "")
        seen[content] = copy + 1
    assert [index.place(key) for key in index.ids] == list(range(len(contents)))


def test_samples_are_a_sequence(store):
    samples = Samples(store)
    assert samples == EXPECTED
    assert list(samples) == EXPECTED
    assert [samples[i] for i in range(-6, 6)] == EXPECTED * 2
    assert samples[4:1:-2] == EXPECTED[4:1:-2]
    with pytest.raises(IndexError):
        samples[6]
    assert samples.ids == IDS
    assert samples.find(IDS[4]) == EXPECTED[4]


def test_some_of_the_samples(store):
    some = Samples(store).take(np.array([5, 1, 2]))
    assert (len(some), list(some), some.ids) == (
        3, [EXPECTED[i] for i in (5, 1, 2)], tuple(IDS[i] for i in (5, 1, 2)),
    )  # fmt: skip
    assert some.sources.to_pylist() == ["odd", "books", ""]
    assert some.take(np.array([2, 0])) == [EXPECTED[2], EXPECTED[5]]
    rest = Samples(store).without([IDS[0], IDS[3]])
    assert rest == [EXPECTED[i] for i in (1, 2, 4, 5)]
    assert rest.without([]) is rest
    assert sources_of(rest).to_pylist() == sources_of(tuple(rest)).to_pylist()


def test_columns_are_dictionaries(store):
    rows, labels = Column(store, "row", json.loads), Column(store, "label", str)
    assert rows == dict(zip(IDS, ROWS, strict=True))
    assert [rows[key] for key in IDS] == ROWS
    expected = {key: label for key, label in zip(IDS, LABELS, strict=True) if label is not None}
    assert labels == expected
    assert (len(labels), list(labels)) == (3, list(expected))
    assert list(labels.items()) == list(expected.items())
    assert list(labels.values()) == list(expected.values())
    assert [key in labels for key in IDS] == [label is not None for label in LABELS]
    with pytest.raises(KeyError):
        labels[IDS[1]]


def test_conversations_of_several_sets_have_no_source(store):
    first, second = Samples(store).take(np.array([0, 1])), Samples(store)
    found = Conversations([first, second])
    assert sorted(found) == sorted(IDS)
    assert len(found) == 6
    assert found[IDS[1]] == Sample(IDS[1], *pair(ROWS[1]))
    with pytest.raises(KeyError):
        found["nobody"]
    assert list(Conversations([first])) == list(IDS[:2])
