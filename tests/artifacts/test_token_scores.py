"""Token scores on disk, in any order, and every way in which their file can be wrong."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking
from seal.artifacts.token_scores import (
    TokenScores,
    load_token_scores,
    make_token_scores,
    save_token_scores,
)

PLACES = {
    "b": [(0, 0, 4), (0, 4, 9), (0, 9, 9)],
    "a": [(0, 0, 2)],
    "c": [(0, 0, 1), (2, 0, 3)],
}
SCORES = {"b": [0.5, -1.0, 2.0], "a": [0.1], "c": [-3.0, 4.0]}


def make(order="bac") -> TokenScores:
    return make_token_scores(
        tuple(order),
        [np.array(PLACES[key], dtype=np.int32) for key in order],
        [np.array(SCORES[key], dtype=np.float64) for key in order],
    )


def assert_same(one: TokenScores, other: TokenScores):
    assert one.ids == other.ids
    for name in ("counts", "turn", "start", "end", "score"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("order", ["bac", "abc", "cba"])
def test_one_array_each_in_the_order_of_the_ids(order):
    scores = make(order)
    assert scores.ids == ("a", "b", "c")
    assert scores.counts.tolist() == [1, 3, 2]
    assert scores.rows.tolist() == [0, 1, 1, 1, 2, 2]
    assert scores.turn.tolist() == [0, 0, 0, 0, 0, 2]
    assert scores.start.tolist() == [0, 0, 4, 9, 0, 0]
    assert scores.end.tolist() == [2, 4, 9, 9, 1, 3]
    assert scores.score.tolist() == [np.float32(0.1), 0.5, -1.0, 2.0, -3.0, 4.0]
    assert {scores.turn.dtype, scores.start.dtype, scores.end.dtype} == {np.dtype(np.int32)}
    assert scores.score.dtype == np.float32


def test_some_of_the_samples():
    assert_same(make().take(["c", "a"]), make("ac"))
    assert_same(make().take("abc"), make())
    with pytest.raises(AssertionError):
        make().take(["a", "z"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(value):
    places = np.array([(0, 0, 1)])
    with pytest.raises(ValueError, match=r"^1 of 2 samples have a token whose score is not.*: y\)"):
        make_token_scores(("x", "y"), [places, places], [np.ones(1), np.array([value])])


def test_a_score_for_every_place():
    with pytest.raises(AssertionError):
        make_token_scores(("x",), [np.array([(0, 0, 1)])], [np.ones(2)])


def test_the_file(tmp_path):
    path = tmp_path / "tokens.parquet"
    save_token_scores(make(), path)
    assert_same(load_token_scores(path), make())
    table = pq.read_table(path)
    assert table.column_names == ["id", "turn", "start", "end", "score"]
    assert table["end"].to_pylist() == [[2], [4, 9, 9], [1, 3]]
    save_token_scores(make("cba"), tmp_path / "other")
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_more_rows_than_parquet_writes_at_a_time(tmp_path):
    ids = [f"{number:05d}" for number in range(9000)]
    places = [np.full((number % 3 + 1, 3), number, dtype=np.int32) for number in range(9000)]
    scores = make_token_scores(ids, places, [own[:, 0] / 7 for own in places])
    save_token_scores(scores, tmp_path / "tokens.parquet")
    assert_same(load_token_scores(tmp_path / "tokens.parquet"), scores)


# --- beside a ranking ---------------------------------------------------------------------------


def ranking(token_scores=None):
    return make_ranking(("c", "a", "b"), np.arange(3.0), token_scores=token_scores)


def test_beside_its_ranking(tmp_path):
    path = tmp_path / "ranking.parquet"
    save_ranking(ranking(make()), path)
    plain = load_ranking(path)
    assert plain.token_scores is None, "they are large: read only when asked for"
    full = load_ranking(path, tokens=True)
    assert full.ids == plain.ids
    assert_same(full.token_scores, make())


def test_a_ranking_without_any(tmp_path):
    path = tmp_path / "ranking.parquet"
    save_ranking(ranking(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["ranking.parquet"]
    assert load_ranking(path, tokens=True).token_scores is None


def test_token_scores_of_other_samples(tmp_path):
    with pytest.raises(AssertionError):
        ranking(make("ab"))
    path = tmp_path / "ranking.parquet"
    save_ranking(ranking(), path)
    save_token_scores(make("ab"), tmp_path / "tokens.parquet")
    with pytest.raises(ValueError, match=r"tokens.parquet has scores of other samples than rank"):
        load_ranking(path, tokens=True)


# --- files that are no token scores -------------------------------------------------------------

GOOD = {"id": ["a", "b"], "turn": [[0], [0]], "start": [[0], [0]], "end": [[1], [1]]}
INTS, FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"score": None}, "score"),
        ({"score": pa.array([0.0, 1.0])}, ""),
        ({"score": pa.array([[0.0], [1.0, 2.0]], FLOATS)}, "ids or lists are not in order"),
        ({"id": ["b", "a"]}, "ids or lists are not in order"),
        ({"id": ["a", "a"]}, "ids or lists are not in order"),
        ({"score": pa.array([[0.0], [np.nan]], FLOATS)}, "wrong values in score"),
        ({"start": pa.array([[0.0], [1.0]], FLOATS)}, "wrong values in start"),
    ],
)
def test_wrong_content(tmp_path, changed, reason):
    columns = {name: pa.array(GOOD[name], INTS) for name in ("turn", "start", "end")}
    table = {"id": GOOD["id"], **columns, "score": pa.array([[0.0], [1.0]], FLOATS), **changed}
    path = tmp_path / "tokens.parquet"
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}), path)
    place = re.escape(str(path))
    with pytest.raises(
        ValueError, match=rf"(?s)^{place}: not readable token scores \(.*{reason}.*\)\. Rank the"
    ):
        load_token_scores(path)


@pytest.mark.parametrize("content", [b"", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_file_that_is_no_parquet(tmp_path, content):
    path = tmp_path / "tokens.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)not readable token scores .*Rank the pool again"):
        load_token_scores(path)
