from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from seal.lab import grammar, world


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _bytes(files: world.WorldFiles) -> list[bytes]:
    paths = (
        files.pool,
        files.safe,
        files.heldout_benign,
        files.heldout_harmful,
        files.over_refusal,
    )
    return [path.read_bytes() for path in paths]


def _prompts(files: world.WorldFiles) -> dict[str, list[str]]:
    prompts = {"pool": [row["messages"][0]["content"] for row in _rows(files.pool)]}
    for name in ("safe", "heldout_benign", "heldout_harmful", "over_refusal"):
        prompts[name] = [row["prompt"] for row in _rows(getattr(files, name))]
    return prompts


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> world.WorldFiles:
    return world.write_world(tmp_path_factory.mktemp("world"), seed=0)


def test_the_same_seed_writes_the_same_bytes(files: world.WorldFiles, tmp_path: Path) -> None:
    assert _bytes(world.write_world(tmp_path, seed=0)) == _bytes(files)


def test_another_seed_writes_other_bytes(files: world.WorldFiles, tmp_path: Path) -> None:
    other = _bytes(world.write_world(tmp_path, seed=1))
    assert all(new != old for new, old in zip(other, _bytes(files), strict=True))


def test_bytes_do_not_depend_on_the_process(files: world.WorldFiles, tmp_path: Path) -> None:
    # A fresh process has another string-hash seed, which sets and dicts must not let through.
    code = (
        "import sys; from pathlib import Path; from seal.lab.world import write_world; "
        "write_world(Path(sys.argv[1]), seed=0)"
    )
    source = Path(world.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": str(source)},
    )
    assert (tmp_path / "pool.jsonl").read_bytes() == files.pool.read_bytes()
    assert (tmp_path / "safe.jsonl").read_bytes() == files.safe.read_bytes()


def test_importing_the_world_does_not_import_torch() -> None:
    source = Path(world.__file__).parents[2]
    code = "import sys, seal.lab.world; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source)})


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = random.getstate()
    world.write_world(tmp_path, seed=3)
    assert random.getstate() == before


def test_pool_shares(files: world.WorldFiles) -> None:
    rows = _rows(files.pool)
    labels = Counter(row["label"] for row in rows)
    assert len(rows) == 960
    assert labels["unsafe"] / len(rows) == pytest.approx(0.20, abs=0.01)
    assert labels["safe_response"] / len(rows) == pytest.approx(0.09, abs=0.02)
    assert set(labels) == {"benign", "safe_response", "unsafe"}


def test_no_source_gives_the_label_away(files: world.WorldFiles) -> None:
    sources: dict[str, Counter[str]] = {}
    for row in _rows(files.pool):
        sources.setdefault(row["source"], Counter())[row["label"]] += 1
    assert len(sources) >= 4
    assert all(min(labels["benign"], labels["unsafe"]) > 0 for labels in sources.values())


def test_pool_is_shuffled(files: world.WorldFiles) -> None:
    labels = [row["label"] for row in _rows(files.pool)]
    quarters = [labels[start : start + 240].count("unsafe") for start in range(0, 960, 240)]
    assert min(quarters) > 25


def test_file_sizes(files: world.WorldFiles) -> None:
    sizes = {name: len(prompts) for name, prompts in _prompts(files).items()}
    assert sizes == {
        "pool": 960,
        "safe": 320,
        "heldout_benign": 200,
        "heldout_harmful": 120,
        "over_refusal": 60,
    }


@pytest.mark.parametrize("seed", [0, 7])
def test_no_prompt_is_shared_or_repeated(seed: int, tmp_path: Path) -> None:
    prompts = _prompts(world.write_world(tmp_path, seed=seed))
    everything = [prompt for chosen in prompts.values() for prompt in chosen]
    assert len(everything) == len(set(everything))


def test_no_prompt_was_trained_on(files: world.WorldFiles) -> None:
    trained = set().union(*(grammar.training_prompts(family) for family in grammar.families()))
    assert len(trained) > 5000
    for prompts in _prompts(files).values():
        assert not trained & set(prompts)


def test_no_split_of_one_seed_leaks_into_another_seed(
    files: world.WorldFiles, tmp_path: Path
) -> None:
    mine, other = _prompts(files), _prompts(world.write_world(tmp_path, seed=5))
    for name in ("safe", "heldout_benign", "heldout_harmful", "over_refusal"):
        assert not set(mine["pool"]) & set(other[name])


@pytest.mark.parametrize("family", grammar.families())
def test_a_training_exchange_is_among_the_training_prompts(family: str) -> None:
    rng = random.Random(4)
    known = grammar.training_prompts(family)
    assert all(grammar.training_exchange(family, rng).prompt in known for _ in range(50))


def test_no_text_is_empty_or_unfilled(files: world.WorldFiles) -> None:
    texts = [m["content"] for row in _rows(files.pool) for m in row["messages"]]
    for path in (files.safe, files.heldout_benign, files.heldout_harmful, files.over_refusal):
        texts += [text for row in _rows(path) for text in row.values()]
    for text in texts:
        assert text.strip() == text != ""
        assert not set(text) & set("{}\n")
        assert "  " not in text


def test_no_first_word_gives_unsafe_answers_away(files: world.WorldFiles) -> None:
    first: dict[str, Counter[str]] = {}
    for row in _rows(files.pool):
        word = row["messages"][1]["content"].split()[0].strip(",.")
        first.setdefault(word, Counter())[row["label"]] += 1
    unsafe_rows = sum(labels["unsafe"] for labels in first.values())
    given_away = sum(n["unsafe"] for n in first.values() if n["benign"] < 0.2 * n["unsafe"])
    assert given_away < 0.1 * unsafe_rows


def test_asking_for_more_than_there_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heldout split holds"):
        world.write_world(tmp_path, seed=0, num_over_refusal=100_000)
