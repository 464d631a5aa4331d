import json

import numpy as np
import pytest

from seal.artifacts.ranking import make_ranking
from seal.data.load import DataSpec, load
from seal.data.sample import Message, Sample
from seal.stages.select import SelectSettings, save_selected, select


def pool_of(sources: dict[str, str]) -> list[Sample]:
    turn = (Message("user", "q"),), (Message("assistant", "a"),)
    return [Sample(key, *turn, source) for key, source in sources.items()]


SCORES = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}
POOL = pool_of({"a": "web", "b": "web", "c": "web", "d": "books", "e": "books"})
RANKING = make_ranking(tuple(SCORES), np.array(list(SCORES.values())))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, "abcd"),  # the paper's 80 %
        ({"fraction": 0.4}, "ab"),
        ({"fraction": 1.0}, "abcde"),
        ({"count": 3}, "abc"),
        ({"threshold": 2.0}, "abcd"),
        ({"quotas": {"books": 0.5}, "fraction": 1.0}, "abcd"),  # round(0.5 * 2) = 1 of the books
        ({"quotas": {"web": 0.0}, "count": 2}, "de"),
        ({"quotas": {"web": 1 / 3, "books": 1.0}}, "ade"),
    ],
)
def test_rules_by_hand(settings, kept):
    assert select(RANKING, POOL, SelectSettings(**settings)).ids == tuple(kept)


def test_ties_go_by_id_and_never_by_position():
    for order in ("abcd", "dcba", "cadb"):
        ranking = make_ranking(tuple(order), np.zeros(4))
        pool = pool_of(dict.fromkeys(order, ""))
        assert select(ranking, pool, SelectSettings(count=2)).ids == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.5, "count": 2}, "fraction and count exclude each other. Give one"),
        ({"fraction": 0}, "greater than 0"),
        ({"fraction": 1.5}, "less than or equal to 1"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"quotas": {"web": 2}}, r"quotas.web=2.0 must lie in \[0, 1\]"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        SelectSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 6}, r"select.count=6 is more than the 5 samples"),
        ({"threshold": 9}, r"the selection is empty: none of 5 samples passes .*best score is 5"),
        ({"fraction": 0.01}, "the selection is empty"),
        ({"quotas": {"wbe": 0.5}}, r"'wbe', which no sample has. The pool's sources: books, web"),
    ],
)
def test_rules_that_this_pool_cannot_meet(settings, message):
    with pytest.raises(ValueError, match=message):
        select(RANKING, POOL, SelectSettings(**settings))


def test_a_ranking_of_another_pool_is_refused_with_the_counts():
    other = pool_of({"a": "", "b": "", "x": ""})
    with pytest.raises(
        ValueError,
        match=r"another pool: 1 of 3 samples have no score .* 3 of its 5 scores .*\(first: x\)",
    ):
        select(RANKING, other, SelectSettings())


def test_selected_rows_are_the_rows_as_they_were_read(tmp_path):
    rows = [
        {"prompt": "Grüße 🦭", "completion": "a\u202eb", "extra": {"deep": [1, None]}, "n": i}
        for i in range(3)
    ] + [{"prompt": "other", "completion": "line\nbreak"}]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    pool = load([DataSpec(path=str(path))], name="pool")
    ids = tuple(sample.id for sample in pool.samples)
    assert pool.num_duplicates == 2
    selection = select(make_ranking(ids, np.arange(4.0)), pool.samples, SelectSettings(count=3))
    save_selected(selection, pool.rows, tmp_path)
    text = (tmp_path / "selected.jsonl").read_text("utf-8")
    written = [json.loads(line) for line in text.splitlines()]
    assert written == [pool.rows[key] for key in selection.ids]
    again = load([DataSpec(path=str(tmp_path / "selected.jsonl"))], name="selected")
    assert {s.prompt for s in again.samples} == {
        s.prompt for s in pool.samples if s.id in set(selection.ids)
    }
