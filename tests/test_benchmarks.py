"""The benchmarks: their statistics, their yardsticks, and every part in a moment."""

import copy
import json
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import loops, loss_backends, scaling, steps, timing
from benchmarks.loops import bare_scoring, loop_of, plain, published
from benchmarks.table import Bar, Line
from benchmarks.timing import (
    Ratio,
    Watch,
    last_line_of,
    median_interval,
    peak_ratio,
    ratio,
    take_turns,
)
from benchmarks.with_seal import encode, language, rank, ranker, visits_of
from benchmarks.workload import (
    FIRST_WORD,
    SIZES,
    blocks_of,
    checkpoint_blocks,
    longest_first,
    make_model,
    make_tokenizer,
    make_work,
    pad,
)

from seal.tables import Tables

TINY = SIZES["tiny"]


@pytest.fixture
def in_process(monkeypatch):
    """Children run here instead, which takes a moment instead of seconds each."""

    def run(module, *words, **_):
        assert module == "benchmarks"
        with redirect_stdout(StringIO()) as out:
            command.main(words)
        line = out.getvalue().strip().splitlines()[-1]
        return str(max(1, int(line))) if words[0] == "--peak" else line  # tiny ones fit anywhere

    for user in (steps, scaling):
        monkeypatch.setattr(user, "last_line_of", run)
    # Of this process, whose memory is that of everything before.
    calls = count()
    monkeypatch.setattr(scaling, "resident_bytes", lambda _: next(calls) ** 2)
    monkeypatch.setattr(steps, "NUM_PEAKS", 1)
    monkeypatch.setattr(timing, "LEAST_ROUNDS", 1)


def test_ratio_finds_a_planted_one():
    rng = np.random.default_rng(0)
    drift = 1 + np.arange(40)[:, None] / 20  # the machine gets slower, for both alike
    other = drift * rng.normal(1, 0.05, (40, 5))
    one = 1.5 * drift * rng.normal(1, 0.05, (40, 5))
    found = ratio(one, other)
    assert found.rounds == 40
    assert found.low < 1.5 < found.high
    assert found.high - found.low < 0.1


def test_ratio_is_of_whole_rounds():
    # Rounds take 4 / 2, 18 / 3 and 8 / 8; the ratios of steps would say something else.
    found = ratio(np.array([[1, 3], [4, 14], [8, 0]]), np.array([[1, 1], [2, 1], [1, 7]]))
    assert found.value == 2
    assert (found.low, found.high) == (1, 6)


def test_the_interval_covers_the_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [median_interval(rng.normal(size=30)) for _ in range(200)]
    assert 0.90 < np.mean([low < 0 < high for low, high in intervals]) <= 1


def test_peak_ratio_is_of_medians_between_extremes():
    assert peak_ratio([10, 12, 30], [6, 4, 5]) == Ratio(12 / 5, 10 / 6, 30 / 4, 3)


def test_turns_are_reversed_from_round_to_round():
    order = []

    def turn(name):
        order.append(name)
        return [1.0]

    found = take_turns({name: lambda name=name: turn(name) for name in "ab"}, seconds=0)
    assert "".join(order) == "baabbaabbaab"
    assert found["a"].shape == (6, 1)


def test_a_watch_leaves_the_first_step_out_and_says_when_to_stop():
    watch = Watch(steps=3)
    assert [watch.mark() for _ in range(3)] == [True, True, False]
    assert len(watch.steps()) == 2
    assert not Watch(seconds=-1).mark()


def test_a_watch_counts_work_not_waiting():
    watch = Watch()
    watch.mark()
    torch.randn(400, 400) @ torch.randn(400, 400)
    watch.mark()
    time.sleep(0.3)
    watch.mark()
    worked, waited = watch.steps()
    assert worked > 0
    assert waited < 0.2


PEAK = """
import numpy as np
from benchmarks.timing import peak_bytes
before = np.ones(5_000_000)  # 40 MB that are not counted

def work():
    np.ones(10_000_000)  # 80 MB, freed again
    np.ones(1000)

print(peak_bytes(work))
"""


def test_peak_memory_is_that_above_what_there_was():
    """In a process of its own, whose memory nobody else frees meanwhile."""
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", PEAK], cwd=root, capture_output=True, check=True)
    assert int(found.stdout) == pytest.approx(80e6, rel=0.1)


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="No module named benchmarks"):
        last_line_of("benchmarks.nothing")


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (Bar(1.1), 1.1, True),
        (Bar(1.1), 1.11, False),
        (Bar(3, at_most=False), 3.0, True),
        (Bar(3, at_most=False), 2.9, False),
        (Bar(1), float("nan"), False),
    ],
)
def test_a_bar_is_met_or_missed(bar, value, met):
    line = Line("part", "what", Ratio(value, None, None, 1), bar)
    assert line.record()["met"] is met
    assert ("MISSED" in line.cells()[3]) is not met


def test_published_loop_is_seal_with_its_update(monkeypatch):
    """Same losses at the first visit, same logits in the end, over three epochs.

    At learning rates and a gamma that show in the losses of the later epochs.
    """
    monkeypatch.setattr(loops, "LEARNING_RATE", 1e-2)
    monkeypatch.setattr(loops, "SELECTOR_LEARNING_RATE", 0.5)
    work = make_work(TINY, 3, epochs=3, gamma_start=0.0, gamma_step=0.3)
    rates = {"learning_rate": 1e-2, "selector_learning_rate": 0.5}
    settings = ranker(work).model_copy(update={"update": "adam", **rates})
    model = make_model(TINY)
    found = published(copy.deepcopy(model), work, Watch(), visits_of(work))
    ours = rank(language(model, make_tokenizer(300)), work, settings)
    places = [ours.ids.index(row.id) for row in work.pool]
    first = ours.columns["first_loss"][places]
    assert [found.first_losses[row.id] for row in work.pool] == pytest.approx(first, rel=1e-5)
    np.testing.assert_allclose(found.logits.numpy(), ours.columns["logit"][places], atol=1e-5)


def test_published_loop_goes_back_through_weights_of_zero():
    """Every block is passed four times per pair of samples: twice forward, twice again for it."""
    work = make_work(TINY, 1, gamma_start=0.0)
    model = make_model(TINY)
    calls = []
    blocks_of(model)[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_blocks(model)
    published(model, work, Watch(), work.visits())
    assert len(calls) == 4 * TINY.batch


def test_checkpoints_change_no_result():
    work = make_work(TINY, 2)
    results = []
    for prepare in (lambda _: None, checkpoint_blocks):
        model = make_model(TINY)
        prepare(model)
        results.append(published(model, work, Watch(), work.visits()).logits)
    assert torch.equal(*results)


def test_bare_loop_gives_the_losses_of_scoring():
    work, model = make_work(TINY, 10), make_model(TINY)
    ordered = [row for batch in longest_first(work.pool, 16) for row in batch]
    bare = torch.cat(bare_scoring(model, work.pool)).numpy()
    table = Tables().losses(language(model, make_tokenizer(300)), encode(ordered))
    np.testing.assert_allclose(bare, table.mean, rtol=1e-5)


def test_batches_are_padded_on_the_left_and_positions_start_at_the_text():
    rows = make_work(TINY, 1).pool[:2]
    batch = pad(rows)
    for row, ids, mask, positions, response in zip(rows, *batch, strict=True):
        length = len(row.input_ids)
        assert ids[-length:].tolist() == row.input_ids.tolist()
        assert mask.tolist() == [0] * (len(ids) - length) + [1] * length
        assert positions[-length:].tolist() == list(range(length))
        assert response.sum() == row.response_mask.sum()


TWICE = ("penalty", "lean_twice")
NAMES = ["plain", "trl", "penalty", "published", "lean", "lean_twice", "train"]


@pytest.mark.parametrize("name", NAMES)
def test_every_loop_trains_on_the_tokens_that_seal_trains_on(name):
    work = make_work(TINY, 2)
    expected, _ = tokens_of_steps("seal", work)
    found, num_steps = tokens_of_steps(name, work)
    assert num_steps == 2
    # Algorithm 1 sees the pool a second time.
    pool = sum(len(row.input_ids) for row in work.pool) if name in TWICE else 0
    assert found == expected + pool


def tokens_of_steps(name, work):
    """Tokens of text that went through the model with a gradient, and how many steps there were."""
    model, watch, seen = make_model(TINY), Watch(), []

    def note(_, args):
        if torch.is_grad_enabled():
            seen.append(int((args[0] >= FIRST_WORD).sum()))

    model.get_input_embeddings().register_forward_pre_hook(note)
    loop_of(name)(model, work, watch, visits_of(work))
    return sum(seen), len(watch.steps()) + 1


def test_plain_loop_learns():
    work, model = make_work(TINY, 2), make_model(TINY)
    before = {name: value.clone() for name, value in model.named_parameters()}
    plain(model, work, Watch(), work.visits())
    after = dict(model.named_parameters())
    changed = [name for name, value in after.items() if "lora_B" in name and bool(value.any())]
    assert len(changed) == 4  # q and v of two blocks; B starts at 0
    assert all(
        torch.equal(
            value,
            after[
                name.replace("q_proj", "q_proj.base_layer").replace("v_proj", "v_proj.base_layer")
            ],
        )
        for name, value in before.items()
    )


def test_free_model_costs_what_is_around_it():
    rows = scaling.make_ragged(2000, 0)
    lengths = np.array([len(row.input_ids) for row in rows])
    assert 130 < np.median(lengths) < 170
    assert 0.05 < np.mean(lengths > 400) < 0.15
    assert lengths.max() <= 1024


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("part", list(command.PARTS))
def test_every_part_runs(part, tmp_path, capsys):
    command.main(
        [part, "--size", "tiny", "--seconds", "0.01", "--json", str(tmp_path / "out.json")]
    )
    written = json.loads((tmp_path / "out.json").read_text("utf-8"))
    lines = written["lines"]
    assert lines
    assert {line["part"] for line in lines} == {part}
    assert all(np.isfinite(line["found"]["value"]) for line in lines)
    assert {"commit", "device", "torch", "trl"} <= written["surroundings"].keys()
    printed = capsys.readouterr().out
    assert all(line["what"] in printed for line in lines)


def test_the_million_is_behind_a_flag(monkeypatch, capsys):
    asked = []

    def child(_, *words):
        asked.append(int(words[-1]))
        return json.dumps({"seconds": 1e-3 * asked[-1], "bytes": 1e3 * asked[-1]})

    monkeypatch.setattr(scaling, "last_line_of", child)
    command.main(["scaling"])
    assert max(asked) == 100_000
    command.main(["scaling", "--million"])
    assert max(asked) == 1_000_000
    assert "loss: seconds of a sample, 100,000 to 1,000,000 | 1,000 us" in capsys.readouterr().out


def test_what_is_done_once_drops_out_of_the_cost_of_a_sample(monkeypatch):
    """Seconds 5 + 1e-3 n + 1e-9 n^2: the growth is that of what a sample adds."""
    monkeypatch.setattr(
        scaling,
        "last_line_of",
        lambda *words: json.dumps(
            {"seconds": 5 + 1e-3 * (n := int(words[-1])) + 1e-8 * n * n, "bytes": 10.0 * n}
        ),
    )
    found = {line.what: line for line in scaling.flatness("small", 0)}
    # 1e-3 + 1e-8 (10,000 + 100,000) over 1e-3 + 1e-8 (1,000 + 10,000)
    assert found["seal: seconds of a sample, last / first"].found.value == pytest.approx(
        2.1e-3 / 1.11e-3
    )
    assert "MISSED" in found["seal: seconds of a sample, last / first"].cells()[3]
    assert found["seal: bytes of a sample, last / first"].found.value == pytest.approx(1)


def test_a_part_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "nothing" in capsys.readouterr().err


def test_backends_that_are_refused_are_named():
    names, reasons = loss_backends.usable(loss_backends.Case((2, 16, 16)).head)
    assert "plain_chunked" in names
    assert len(names) + len(reasons) == len(loss_backends.BACKENDS)
    assert all("is left out:" in reason for reason in reasons)
