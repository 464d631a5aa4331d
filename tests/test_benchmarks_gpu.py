"""The benchmark for GPUs, run on the CPU: its arithmetic, its table, and what can go wrong."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from benchmarks import gpu
from benchmarks.flops import Passes, count_weights, peak_flops
from benchmarks.gpu_report import PARTS, report
from benchmarks.workload import SIZES, make_model, make_work, put_adapter
from peft import PeftModel

TINY = SIZES["tiny"]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def in_process(monkeypatch):
    """Children run here instead, which takes a moment instead of seconds each."""

    def child(_, *words, timeout):
        assert timeout > 0
        with redirect_stdout(StringIO()) as out:
            gpu.main(words)
        return out.getvalue().strip().splitlines()[-1]

    monkeypatch.setattr(gpu, "last_line_of", child)


def run(capsys, *words):
    gpu.main([*words, "--device", "cpu", "--size", "tiny", "--seconds", "0.01"])
    said = capsys.readouterr()
    return said.out, said.err


@pytest.mark.parametrize(
    ("size", "blocks", "head", "total", "adapter"),
    [
        # 32 (4096 (2 4096 + 2 1024) + 3 4096 14336); the total is the model card's 8.03 billion.
        ("8b", 6_979_321_856, 525_336_576, 8_030_261_248, 6_815_744),
        # 16 (2048 (2 2048 + 2 512) + 3 2048 8192); the embeddings are the output layer.
        ("1b", 973_078_528, 262_668_288, 1_235_814_400, 1_703_936),
    ],
)
def test_weights_of_llamas(size, blocks, head, total, adapter):
    assert count_weights(SIZES[size].config) == (blocks, head, total, adapter)


def test_weights_are_those_of_the_model():
    model = make_model(TINY)
    counted = count_weights(TINY.config)
    assert sum(value.numel() for value in model.parameters()) == counted.total
    adapted = put_adapter(model)
    assert isinstance(adapted, PeftModel)
    assert adapted.get_nb_trainable_parameters()[0] == counted.adapter


def test_flops_of_a_row_of_512_tokens():
    weights = count_weights(SIZES["8b"].config)
    every = Passes(forward=512, forward_losses=512).flops(weights)
    assert every / 512 == pytest.approx(15.01e9, rel=1e-3)  # 2 (6.979 + 0.525) billion
    # A loss on 384 of them: 2 (512 6979321856 + 384 525336576).
    assert Passes(forward=512, forward_losses=384).flops(weights) == 7_550_284_070_912
    trained = Passes(trained=512, trained_losses=384)
    assert trained.flops(weights) == 2 * 7_550_284_070_912
    assert trained.flops(weights, per_trained=6) == 3 * 7_550_284_070_912


def test_what_passes_through_the_model_in_a_step():
    work = make_work(TINY, 1)
    visit = work.visits()[0]
    pool = sum(len(row.input_ids) for row in visit.pool)
    safe = sum(len(row.input_ids) for row in visit.safe)
    losses = sum(int(row.response_mask.sum()) for row in visit.pool + visit.safe)
    rows, passes = gpu.what_passes("seal", work)
    assert rows == visit.pool
    assert passes == Passes(trained=pool + safe, trained_losses=losses)
    assert gpu.what_passes("published", work) == (rows, passes)
    assert gpu.what_passes("trl", work) == (visit.pool + visit.safe, passes)
    _, penalty = gpu.what_passes("penalty", work)
    assert penalty.trained == 2 * pool + safe
    _, scoring = gpu.what_passes("scoring", work)
    assert (scoring.forward, scoring.trained) == (pool, 0)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA L40S", None),
    ],
)
def test_a_peak_is_known_or_not_said(name, peak):
    assert peak_flops(name) == peak


def measured(seconds, rows, **passes):
    return {
        "steps": [seconds] * 5,
        "rows": rows,
        "tokens": 1000,
        "passes": Passes(**passes)._asdict(),
        "peak_bytes": 2**30,
    }


def test_numbers_of_the_table_by_hand():
    weights = count_weights(TINY.config)
    flops = 4 * (weights.blocks * 1000 + weights.head * 700)
    found = {"seal": measured(0.5, 10, trained=1000, trained_losses=700)}
    text = report(found, TINY, peak=flops, is_barred=True)
    row = next(line for line in text.splitlines() if "SEAL memory" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # The arithmetic takes 1 s at the peak, and the step took half of one.
    assert cells[1:4] == ["2,000", "1,000", "200.0% (300.0%)"]
    assert cells[5] == "1.00"
    assert cells[7:] == ["1.4", "2.8"]  # 10,000 steps: hours
    assert "| MFU, seal | 2     | >= 0.45: met |" in text


def test_bars_that_are_missed_are_called_so():
    trained = {"trained": 1000, "trained_losses": 700}
    found = {
        "seal": measured(1.2, 10, **trained),
        "trl": measured(1.0, 20, **trained),
        "penalty": measured(1.8, 10, **trained),
        "scoring": measured(1.0, 64, forward=1000, forward_losses=700),
        "forward": measured(0.8, 64, forward=1000, forward_losses=700),
    }
    text = report(found, TINY, peak=None, is_barred=False)
    verdicts = {
        line.split("|")[1].strip(): line.split("|")[2:4]
        for line in text.splitlines()
        if "=" in line
    }
    assert [cell.strip() for cell in verdicts["SEAL step / TRL's step"]] == [
        "1.2",
        "<= 1.1: MISSED",
    ]
    assert [cell.strip() for cell in verdicts["penalty step / SEAL step"]] == ["1.5", "<= 1.6: met"]
    speed = [cell.strip() for cell in verdicts["scoring speed / bare forward's"]]
    assert speed == ["0.8", ">= 0.9: MISSED"]
    assert "an unknown peak" in text
    assert "MFU," not in text


@pytest.mark.usefixtures("in_process")
def test_every_part_is_in_the_table(capsys, tmp_path):
    parts = [name for name, part in PARTS.items() if "compiled" not in name]
    words = ["--peak-tflops", "0.1", "--json", str(tmp_path / "out.json")]
    printed, _ = run(capsys, *parts, gpu.BACKENDS, *words)
    written = json.loads((tmp_path / "out.json").read_text("utf-8"))["parts"]
    assert [name for name, each in written.items() if "failed" in each] == []
    for name in parts:
        assert PARTS[name].title in printed
    assert "plain_chunked" in printed
    assert "commit " in printed
    assert "100 TFLOP/s" not in printed
    assert "0.1 TFLOP/s" in printed
    assert "Not measured" not in printed


@pytest.mark.usefixtures("in_process")
def test_a_part_without_memory_stops_no_other(capsys, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    real = gpu.loop_of
    monkeypatch.setattr(gpu, "loop_of", lambda name: no_memory if name == "plain" else real(name))
    printed, said = run(capsys, "sft", "forward")
    assert "* sft: out of memory" in printed
    assert '{"sft": {"failed": "out of memory"}}' in said  # at once, not only in the end
    assert "| bare forward |" in printed


@pytest.mark.usefixtures("in_process")
def test_what_is_not_installed_is_named_with_the_way_out(capsys, monkeypatch):
    real = gpu.importlib.util.find_spec
    monkeypatch.setattr(
        gpu.importlib.util, "find_spec", lambda name: None if name == "pydantic" else real(name)
    )
    printed, said = run(capsys, "seal", "forward")
    assert said.count("pip install -e .") == 1
    assert "without pydantic" in said
    assert "* seal: not installed: pydantic" in printed
    assert "| bare forward |" in printed


@pytest.mark.usefixtures("in_process")
def test_what_there_is_no_time_for_is_said(capsys):
    printed, _ = run(capsys, "forward", "--minutes", "0")
    assert "* forward: skipped: no time left of 0 minutes" in printed


def test_a_part_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["nothing"])
    assert "there is no part nothing; there are forward, " in capsys.readouterr().err


def test_no_gpu_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["forward"])
    assert "no CUDA device" in capsys.readouterr().err


def test_it_runs_where_only_torch_transformers_and_peft_are(tmp_path):
    gone = ["pydantic", "jaxtyping", "pyarrow", "trl", "datasets", "scipy", "seal"]
    site = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in gone)
    (tmp_path / "sitecustomize.py").write_text(site, "utf-8")
    words = ["forward", "seal", "trl", "--device", "cpu", "--size", "tiny", "--seconds", "0.05"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "| bare forward |" in done.stdout
    assert "* seal: not installed: pydantic, jaxtyping, pyarrow" in done.stdout
    assert "* trl: not installed: trl, datasets" in done.stdout
