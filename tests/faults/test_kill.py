"""kill -9 in the middle of ranking, scoring and evaluating, at random passes: the same bytes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.conftest import write_experiment, write_lines

# Imports once and forks for every attempt. A child kills itself at the n-th call of the model.
ATTEMPTS = """
import json, os, random, shutil, signal, sys
from functools import partial
from pathlib import Path
import torch
torch.set_num_threads(1)
import transformers, trl
from seal import tables
from seal.cli import main

tables.build_table = partial(tables.build_table, rows_per_shard=5)
call = torch.nn.Module.__call__

def attempt(words, kill_at, count_file=None):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    seen = 0

    def counted(module, *args, **kwargs):
        nonlocal seen
        if type(module).__name__ == "LlamaForCausalLM":
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(module, *args, **kwargs)

    torch.nn.Module.__call__ = counted
    sys.stdout = sys.stderr = open(os.devnull, "w")
    code = main(words)
    if count_file:
        Path(count_file).write_text(str(seen))
    os._exit(code)

folder, seeds = Path(sys.argv[1]), json.loads(sys.argv[2])
commands = [["rank"], ["evaluate"], ["score", str(folder / "new.jsonl")]]

def words_of(command, run):
    if command[0] == "score":
        return [*command, "--scorer", str(run), "--floor=-1"]
    return [command[0], str(folder / "experiment.yaml"), f"run_dir={run}", "checkpoint.seconds=0"]

counts = {}
whole = folder / "whole"
for command in commands:
    note = folder / "count"
    assert attempt(words_of(command, whole), None, note) == 0, command
    counts[command[0]] = int(note.read_text())
print(json.dumps(counts), flush=True)
for command in commands:
    for seed in seeds:
        run = folder / f"{command[0]}-{seed}"
        if command[0] == "score":  # of a ranking that is there
            shutil.copytree(whole / "rank", run / "rank")
            shutil.copy(whole / "config.yaml", run)
        words = words_of(command, run)
        status = attempt(words, random.Random(seed).randint(1, counts[command[0]]))
        assert os.WIFSIGNALED(status), (seed, command)
        assert attempt(words, None) == 0, (seed, command)
"""


def content(run: Path) -> dict[str, str]:
    """The hash of all that was made; not of records, which tell when."""
    found = sorted(path for path in run.rglob("*") if path.is_file())
    skipped = {"provenance.json", "config.yaml"}
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.name not in skipped and "responses" not in path.relative_to(run).parts[0]
    }


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_bytes(tmp_path, tiny_model_dir):
    seeds = list(range(20 if os.environ.get("SEAL_DEEP_FAULTS") else 1))
    rank = {
        "method": "seal", "algorithm": "penalty", "epochs": 2, "batch_size": 4,
        "learning_rate": 1e-3, "gamma_start": 0.2,
    }  # fmt: skip
    pool = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(21)]
    write_experiment(
        tmp_path, tiny_model_dir, tmp_path / "whole", rank=rank, arms=["base"],
        pool={"path": write_lines(tmp_path / "larger.jsonl", pool)},
    )  # fmt: skip
    new = [{"prompt": f"New {n}?", "completion": "Blue."} for n in range(9)]
    write_lines(tmp_path / "new.jsonl", new)
    command = [sys.executable, "-c", ATTEMPTS, str(tmp_path), json.dumps(seeds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout)
    assert min(counts.values()) >= 4, counts
    expected = content(tmp_path / "whole")
    made = set()
    for folder in tmp_path.glob("*-*"):
        found = content(folder)
        assert found.items() <= expected.items(), folder.name
        made |= found.keys()
    assert made == expected.keys()
    assert {"rank/ranking.parquet", "rank/metrics.jsonl", "scored/new.jsonl"} <= made
