"""The experiment on real data, made small; skipped where the data is not beside the checkout."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from seal import pipeline
from seal.config.experiment import load_experiment

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the checkout"),
]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Every 40th row of redmix, so that all three labels are in it."""
    text = (SHARED / "data" / "redmix" / "pool.jsonl").read_text("utf-8").splitlines()
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(text[::40]) + "\n", "utf-8")
    return path


def test_redmix_end_to_end(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = load_experiment(
        Path("experiments/redmix.yaml"),
        [
            f"run_dir={tmp_path}/run", f"pool.path={pool}", "arms=[base,selected]",
            "tokenization.max_length=96", "train.args.num_train_epochs=1",
            "evaluate.decoding.max_new_tokens=8", "evaluate.tasks.0.limit=16",
            "evaluate.tasks.1.limit=16", "evaluate.tasks.2.limit=8",
            f"evaluate.tasks.3.data.path={tmp_path}/heldout.jsonl",
        ],
    )  # fmt: skip
    heldout = (SHARED / "data" / "redmix" / "heldout_benign.jsonl").read_text("utf-8").splitlines()
    (tmp_path / "heldout.jsonl").write_text("\n".join(heldout[:16]) + "\n", "utf-8")
    pipeline.run(experiment)
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    # the aligned model refuses most of what is harmful, and 8 tokens are enough to see it
    assert report["arms"]["base"]["refusal_rate"]["value"] > 0.6
    assert report["arms"]["selected"]["heldout_nll"]["value"] < 6
    table = pq.read_table(tmp_path / "run" / "rank" / "ranking.parquet")
    excluded = (tmp_path / "run" / "rank" / "excluded.jsonl").read_text().splitlines()
    assert table.num_rows + len(excluded) == 133, "a prompt of more than 96 tokens leaves, by name"
    assert np.isfinite(table["score"].to_numpy()).all()
    assert report["ranking"]["auroc"]["value"] > 0.6
