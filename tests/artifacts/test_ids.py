"""Ids as a column: the same answers as a tuple of strings gives."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.artifacts import ids as module
from seal.artifacts.ids import Ids, Joined, Listed, ids_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SETS = st.lists(TEXTS, max_size=30, unique=True)


@dataclass(frozen=True)
class Row:
    id: str


class Rows(Listed[Row]):
    def __init__(self, *keys):
        self._keys = keys

    @property
    def ids(self):
        return Ids.of(self._keys)

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, place):
        raise AssertionError("a row was made")


@given(SETS)
def test_order_is_that_of_python(keys):
    found = Ids.of(keys)
    assert found.take(found.order()) == sorted(keys)
    assert found.ascending() == sorted(keys)
    assert found.is_sorted() == (keys == sorted(keys))


@given(SETS, SETS)
def test_membership_is_that_of_python(keys, others):
    assert Ids.of(keys).is_in(others).tolist() == [key in set(others) for key in keys]


@given(st.lists(st.sampled_from("abcd"), max_size=9))
def test_different_ids_are_counted(keys):
    assert Ids.of(keys).num_different() == len(set(keys))
    assert Ids.of(sorted(keys)).is_sorted() == (len(set(keys)) == len(keys))


def test_it_is_a_sequence_of_strings(monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)  # parts of two
    keys = ("b", "a", "caf\xe9", "", "a-1")
    found = Ids.of(iter(keys))
    assert tuple(found) == keys
    assert (found[0], found[-1], found[np.int64(2)]) == ("b", "a-1", "caf\xe9")
    assert found[1:4] == keys[1:4]
    assert found[::-1] == keys[::-1]
    assert (len(found), found.index("a"), "a" in found, "x" in found) == (5, 1, True, False)
    with pytest.raises(IndexError):
        found[5]
    assert repr(found) == "<5 ids: b, a, caf\xe9, ...>"
    assert Ids.of(found) is found


def test_equality_is_of_ids_in_their_order():
    found = Ids.of("abc")
    assert found == Ids.of("abc") == ("a", "b", "c") == found == ["a", "b", "c"]
    assert found not in (Ids.of("acb"), ("a", "b"), ("a", "b", "x"), "abc", None)
    assert Ids.of([]) == () == Ids.of([])


def test_the_digest_tells_order_and_borders(monkeypatch):
    whole = Ids.of(["ab", "c", "d"]).digest()
    assert len({whole, *(Ids.of(k).digest() for k in (["a", "bc", "d"], ["c", "ab", "d"]))}) == 3
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    assert Ids.of(["ab", "c", "d"]).digest() == whole


def test_a_column_for_a_file_has_the_type_it_always_had(monkeypatch):
    monkeypatch.setattr(module, "_PER_CHUNK", 2)
    column = Ids.of("abc").text()
    assert (str(column.type), column.to_pylist(), column.num_chunks) == ("string", [*"abc"], 2)
    assert Ids.of([]).text().to_pylist() == []
    assert Ids(column) == ("a", "b", "c")


def test_rows_that_know_their_ids_are_not_made():
    assert ids_of(Rows("b", "a")) == ("b", "a")
    assert ids_of([Row("x"), Row("y")]) == ("x", "y")
    both = Joined(Rows("b", "a"), (Row("x"),))
    assert (both.ids, len(both), both[2], both[-1]) == (("b", "a", "x"), 3, Row("x"), Row("x"))


def test_joined_rows_are_one_behind_the_other():
    both = Joined([Row("a"), Row("b")], Joined((), (Row("c"),)))
    assert list(both) == [both[0], both[1], both[2]] == [Row("a"), Row("b"), Row("c")]
    assert both[1:] == [Row("b"), Row("c")]
    with pytest.raises(IndexError):
        both[3]
    assert both.ids == ("a", "b", "c")


@given(SETS, st.randoms())
def test_places_are_those_of_python(keys, random):
    some = random.sample(keys, random.randint(0, len(keys)))
    assert Ids.of(keys).places_of(some).tolist() == [keys.index(key) for key in some]


def test_an_id_without_a_place_is_named():
    with pytest.raises(KeyError, match="x"):
        Ids.of("abc").places_of(["a", "x"])
