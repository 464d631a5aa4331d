import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking


def test_ranks_by_hand_ties_by_id():
    ranking = make_ranking(("c", "a", "b", "d"), np.array([1.0, 1.0, 3.0, 0.0]))
    assert ranking.ids == ("a", "b", "c", "d")
    assert ranking.scores.tolist() == [1, 3, 1, 0]
    assert ranking.ranks.tolist() == [2, 1, 3, 4]
    assert ranking.best_first() == ["b", "a", "c", "d"]
    assert ranking.by_id() == {"a": 1, "b": 3, "c": 1, "d": 0}


def test_columns_follow_their_samples(tmp_path):
    made = make_ranking(("b", "a"), np.array([2.0, 1.0]), {"loss": np.array([20.0, 10.0])})
    save_ranking(made, tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet").column_names == ["id", "score", "rank", "loss"]
    again = load_ranking(tmp_path / "r.parquet")
    assert again.by_id() == {"a": 1, "b": 2}
    assert again.columns["loss"].tolist() == [10, 20]


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"2 of 3 samples have a score that is not finite .*a, c"):
        make_ranking(("a", "b", "c"), np.array([np.nan, 1, np.inf]))


def test_files_that_are_no_ranking(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.parquet: not a readable ranking"):
        load_ranking(tmp_path / "nowhere.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"broken.parquet: not a readable ranking"):
        load_ranking(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"id": ["a"], "weight": [1.0]}), tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match=r"rank, score is missing, there are id, weight"):
        load_ranking(tmp_path / "foreign.parquet")
