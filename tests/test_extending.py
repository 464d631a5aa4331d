"""Adding samples to a ranked pool: only they are read, and what is not comparable is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from faults.conftest import write_experiment, write_lines
from seal import microbatches
from seal import tables as tables_module
from seal.artifacts.ranking import load_ranking
from seal.config.experiment import load_experiment
from seal.pipeline import rank

ROWS = [
    {"prompt": f"Question {n}?", "completion": ("key " if n % 3 else "blue sea ") * (n % 4 + 1)}
    for n in range(16)
]
SEAL = {"method": "seal", "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "gamma_start": 0.1}


class Runs:
    """Rankings of growing pools."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model

    def rank(self, name: str, rows: list[dict], ranker: dict, **changes: object):
        """The ranking of the rows in a run called `name`."""
        pool = write_lines(self.folder / f"{name}-pool.jsonl", rows)
        path = write_experiment(
            self.folder, self.model, self.folder / name, rank=ranker, pool={"path": pool}, **changes
        )
        rank(load_experiment(path))
        return load_ranking(self.folder / name / "rank" / "ranking.parquet")


@pytest.fixture
def runs(tmp_path, tiny_model_dir) -> Runs:
    return Runs(tmp_path, tiny_model_dir)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The ids of the rows that go through the model for a table."""
    seen: list[str] = []
    collate = microbatches.collate

    def counted(rows, pad_id):
        seen.extend(row.id for row in rows)
        return collate(rows, pad_id)

    monkeypatch.setattr(microbatches, "collate", counted)
    return seen


@pytest.mark.parametrize("method", ["loss", "two_sided", "ifd"])
def test_only_the_new_samples_are_read(runs, read, method):
    ranker = {"method": method}
    before = runs.rank("old", ROWS[:10], ranker)
    num_reads = len(read)
    read.clear()
    whole = runs.rank("fresh", ROWS, ranker)
    read.clear()
    grown = runs.rank("grown", ROWS, ranker, extends=str(runs.folder / "old"))
    new = set(grown.ids) - set(before.ids)
    assert set(read) == new
    if method != "two_sided":  # which reads the safe set, too
        assert len(read) / 6 == num_reads / 10
    assert grown.ids == whole.ids
    np.testing.assert_allclose(grown.scores, whole.scores, atol=1e-5)


def test_the_scores_of_the_old_samples_stay_bit_for_bit(runs):
    before = runs.rank("old", ROWS[:10], {"method": "loss"}).by_id()
    grown = runs.rank("grown", ROWS, {"method": "loss"}, extends=str(runs.folder / "old")).by_id()
    assert {key: grown[key] for key in before} == before


def test_other_tokens_under_the_same_id_are_read_again(runs, read):
    runs.rank("old", ROWS[:10], {"method": "loss"})
    read.clear()
    known = tables_module.row_mark
    # The old run's rows are taken for others: as if its tokens had been cut elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables_module, "row_mark", lambda row: known(row) + 1)
        runs.rank("grown", ROWS, {"method": "loss"}, extends=str(runs.folder / "old"))
    assert len(read) == 16


def test_a_damaged_table_is_told(runs):
    runs.rank("old", ROWS[:10], {"method": "loss"})
    (shard,) = (runs.folder / "old" / "tables").glob("*/shard-*.arrow")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00000.arrow|not a readable part"):
        runs.rank("grown", ROWS, {"method": "loss"}, extends=str(runs.folder / "old"))


def test_seal_goes_on_with_the_new_samples_alone(runs):
    before = runs.rank("old", ROWS[:10], SEAL)
    grown = runs.rank("grown", ROWS, SEAL, extends=str(runs.folder / "old"))
    assert grown.columns["num_visits"].tolist() == [2] * 16
    visited = dict(zip(grown.ids, grown.columns["last_visit"].tolist(), strict=True))
    old_visits = dict(zip(before.ids, before.columns["last_visit"].tolist(), strict=True))
    assert {key: visited[key] for key in before.ids} == old_visits
    assert sorted(visited[key] for key in visited if key not in old_visits) == list(range(26, 32))
    first = dict(zip(grown.ids, grown.columns["first_loss"].tolist(), strict=True))
    for key, value in zip(before.ids, before.columns["first_loss"].tolist(), strict=True):
        assert first[key] == value
    log = [json.loads(line) for line in _metrics(runs.folder / "grown")]
    assert [record["gamma"] for record in log] == [0.13] * 4  # 2 epochs of 6 samples by 4
    assert np.isfinite(grown.scores).all()


def test_seal_goes_on_from_the_weights_it_ended_with(runs):
    """The first loss of an added sample is what theta makes of it, not the untrained model."""
    runs.rank("old", ROWS[:10], {**SEAL, "learning_rate": 0.1})
    grown = runs.rank(
        "grown", ROWS, {**SEAL, "learning_rate": 0.1}, extends=str(runs.folder / "old")
    )
    fresh = runs.rank("fresh", ROWS, {**SEAL, "learning_rate": 1e-9})
    new = grown.columns["last_visit"] >= 20
    assert abs(grown.columns["first_loss"] - fresh.columns["first_loss"])[new].min() > 1e-3


def test_what_is_added_is_visited_with_the_gamma_that_the_run_ended_with(runs):
    ranker = {**SEAL, "gamma_per": "step"}
    runs.rank("old", ROWS[:10], ranker)
    runs.rank("grown", ROWS[:12], ranker, extends=str(runs.folder / "old"))
    last = json.loads(_metrics(runs.folder / "old")[-1])["gamma"]
    assert last == pytest.approx(0.1 + 0.03 * 5 / 3)  # the sixth step of two epochs of three
    gammas = [json.loads(line)["gamma"] for line in _metrics(runs.folder / "grown")]
    assert gammas == [last] * 2


def test_rows_that_are_held_out_go_on_too(runs):
    """Also those that have come into the pool since."""
    runs.rank("old", ROWS[:10], SEAL, holdout=0.5)
    before = load_ranking(runs.folder / "old" / "rank" / "reference.parquet")
    assert len(before.ids) == 2
    extends = str(runs.folder / "old")
    grown = runs.rank("grown", ROWS, SEAL, holdout=0.5, extends=extends)
    after = load_ranking(runs.folder / "grown" / "rank" / "reference.parquet")
    assert after.ids == before.ids
    assert after.columns["last_visit"].tolist() == before.columns["last_visit"].tolist()
    assert grown.columns["num_visits"].tolist() == [2] * 16
    safe = [{"prompt": f"Say {n}.", "completion": "The sea is blue."} for n in range(3)]
    more = runs.rank("more", [*ROWS, *safe], SEAL, holdout=0.5, extends=extends)
    rest = load_ranking(runs.folder / "more" / "rank" / "reference.parquet")
    assert len(rest.ids) == 1
    assert set(before.ids) - set(rest.ids) < set(more.ids)
    assert more.columns["num_visits"].tolist() == [2] * 19


def test_what_is_unfinished_in_the_other_run_is_no_obstacle(runs):
    runs.rank("old", ROWS[:10], {"method": "loss"})
    (runs.folder / "old" / "tables" / ".0123.partial").mkdir()
    runs.rank("grown", ROWS, {"method": "loss"}, extends=str(runs.folder / "old"))


def test_a_run_does_not_add_to_itself(runs):
    runs.rank("old", ROWS[:10], {"method": "loss"})
    with pytest.raises(ValueError, match=r"is this run's own run_dir.*another run_dir"):
        runs.rank("old", ROWS, {"method": "loss"}, extends=str(runs.folder / "." / "old"))


def test_an_addition_can_be_added_to(runs):
    for ranker in ({"method": "loss"}, SEAL):
        name = ranker["method"]
        runs.rank(f"{name}-a", ROWS[:8], ranker)
        runs.rank(f"{name}-b", ROWS[:12], ranker, extends=str(runs.folder / f"{name}-a"))
        last = runs.rank(f"{name}-c", ROWS, ranker, extends=str(runs.folder / f"{name}-b"))
        assert len(last.ids) == 16


REFUSED = {
    "another learner": (
        {"method": "less"}, {}, r"a ranking by less cannot be added to: it learns from the whole"
    ),
    "all weights": ({**SEAL, "tuning": "full"}, {}, r"tuning=full does not keep the weights"),
    "adam": ({**SEAL, "update": "adam"}, {}, r"writes the order of the visits"),
    "seeds": ({**SEAL, "num_seeds": 2}, {}, r"num_seeds=2 averages runs"),
    "other settings": ({**SEAL, "epochs": 3}, {}, r"ranker.epochs: 2 there, 3 now"),
    "other tokens": (SEAL, {"tokenization": {"max_length": 60}}, r"tokenization.max_length: 64"),
    "a sample less": (SEAL, {"rows": ROWS[1:]}, r"1 of the 10 samples ranked there are not in"),
    "nothing new": (SEAL, {"rows": ROWS[:10]}, r"the same 10 samples"),
    "no state": (SEAL, {"drop": "state"}, r"state is missing|was changed|cannot be read"),
    "no run": (SEAL, {"drop": ""}, r"there is no finished ranking in"),
}  # fmt: skip


@pytest.fixture(scope="module")
def old(tmp_path_factory, tiny_model_dir) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    Runs(folder, tiny_model_dir).rank("old", ROWS[:10], SEAL)
    return folder


@pytest.mark.parametrize(("ranker", "changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_comparable_is_refused(old, runs, ranker, changes, message):
    shutil.copytree(old / "old", runs.folder / "old")
    changes = dict(changes)
    if "drop" in changes:
        shutil.rmtree(runs.folder / "old" / "rank" / changes.pop("drop"))
    rows = changes.pop("rows", ROWS)
    with pytest.raises(ValueError, match=message):
        runs.rank("grown", rows, ranker, extends=str(runs.folder / "old"), **changes)
    assert not (runs.folder / "grown").exists()


@pytest.mark.parametrize(
    ("method", "message"),
    [("less", "arm own: .* a ranking by less"), ("loss", "arm own: .* no finished ranking in")],
)
def test_an_arm_that_cannot_be_added_to_is_told_before_anything_is_ranked(
    old, runs, method, message
):
    arms = ["selected", {"name": "own", "train_on": "selected", "rank": {"method": method}}]
    with pytest.raises(ValueError, match=message):
        runs.rank("grown", ROWS, SEAL, extends=str(old / "old"), arms=arms)
    assert not (runs.folder / "grown").exists()


def test_it_is_no_part_of_a_ranking_that_does_not_depend_on_it(runs):
    """A table that is known gives what reading gives: the run can be gone on with either way."""
    runs.rank("old", ROWS[:10], {"method": "loss"})
    runs.rank("grown", ROWS, {"method": "loss"}, extends=str(runs.folder / "old"))
    config = runs.folder / "experiment.yaml"
    values = yaml.safe_load(config.read_text())
    values.pop("extends")
    config.write_text(yaml.safe_dump(values))
    rank(load_experiment(config))


def _metrics(run: Path) -> list[str]:
    return (run / "rank" / "metrics.jsonl").read_text().splitlines()
