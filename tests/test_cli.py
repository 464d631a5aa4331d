"""The command line: what it accepts, prints and exits with; the stages behind it are stand-ins."""

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import seal
from seal import cli, pipeline
from seal.config.experiment import Experiment, load_experiment
from seal.config.words import split_words
from seal.progress import Progress
from seal.terminal import Bars, output, printable, say, show_report

WORDS = ["run_dir=runs/x", "model.path=m", "pool.path=p.jsonl", "safe.path=s.jsonl"]
REQUIRED = "run_dir: runs/x\nmodel: {path: m}\npool: {path: p.jsonl}\nsafe: {path: s.jsonl}\n"
HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\x9bd\u202ee\rf[bold]g[/INST]"
VISIBLE = r"a\x1b[2Jb\x1b]0;title\x07c\x9bd\u202ee\rf[bold]g[/INST]"
REPORT = {
    "headline": ["The refusal rate fell."],
    "metrics": {"refusal_rate": {"label": "refusal rate", "unit": "share", "better": "higher"}},
    "num_samples": {"base": 0, "selected": 1200},
    "arms": {
        "base": {"refusal_rate": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50}},
        "selected": {
            "refusal_rate": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 50},
            "nll[red]\x1b": {"value": 1.25, "low": 1.0, "high": 1.5, "n": 50},
        },
    },
    "ranking": {"auroc": {"value": 0.75, "low": 0.7, "high": 0.8, "n": 99}},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder and a wide terminal without colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("SEAL_TRACEBACK", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    assert signal.getsignal(signal.SIGTERM) is handler  # main puts it back


def stage_raising(error: BaseException) -> Callable[..., Path]:
    def stage(_: Experiment, _progress: Progress) -> Path:
        raise error

    return stage


def make_report(run_dir: Path, content: object = REPORT) -> Path:
    (run_dir / "report").mkdir(parents=True)
    (run_dir / "report" / "report.json").write_text(json.dumps(content), encoding="utf-8")
    return run_dir / "report" / "index.html"


def seal_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seal", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(seal.__file__).parents[1]), **environment},
    )


# ---- help


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    names = re.findall(r"^│ (\w+) ", text, re.MULTILINE)
    stages = ["run", "rank", "select", "train", "merge", "evaluate", "report", "bench", "score"]
    assert [name for name in names if name != "customize"] == [
        *stages,
        "estimate",
        "show",
        "export",
        "judge",
        "config",
        "data",
        "demo",
        "lab",
    ]
    for words in ("0 done", "1 an internal error", "2 bad input", "75 interrupted"):
        assert words in text


@pytest.mark.parametrize(
    ("words", "part"),
    [
        *((name, "[CONFIG | KEY=VALUE]...") for name in ("run", "rank", "select", "train")),
        ("evaluate", "--quiet"),
        ("report", "The folder of a finished run is enough"),
        ("score", "--scorer"),
        ("bench", "bench/bench.md, bench.json and bench.svg"),
        ("estimate", "--json"),
        ("show", "RUN"),
        ("demo", "--run-dir"),
        ("lab build", "--seed"),
        ("config check", "--resolved"),
        ("config schema", "JSON schema"),
        ("config init", "PATH"),
    ],
)
def test_every_command_has_help(words: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words.split(), "--help"]) == 0
    assert part in capsys.readouterr().out


def test_help_imports_nothing_heavy_and_is_there_at_once() -> None:
    code = (
        "import sys, seal.cli\n"
        "codes = [seal.cli.main([*words, '--help']) for words in ([], ['run'], ['lab', 'build'])]\n"
        "heavy = {'torch', 'transformers', 'numpy', 'peft', 'trl', 'datasets', 'pyarrow', 'yaml'}\n"
        "sys.exit(f'{codes} {heavy & set(sys.modules)}')"
    )
    root = str(Path(seal.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert found.stderr.strip() == "[0, 0, 0] set()"
    start = time.monotonic()
    assert seal_process("--help").returncode == 0
    assert time.monotonic() - start < 1.5  # 0.2 s on an idle machine


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"seal {seal.__version__}\n"


# ---- what the commands do


@pytest.mark.parametrize("verb", ["rank", "select", "train", "merge", "evaluate"])
def test_a_stage_gets_the_experiment_and_its_path_is_printed(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Experiment] = []

    def stage(experiment: Experiment, progress: Progress) -> Path:
        progress("working", 1, 1)
        seen.append(experiment)
        return Path("runs/x") / verb

    monkeypatch.setattr(pipeline, verb, stage)
    assert cli.main([verb, *WORDS]) == 0
    told = capsys.readouterr()
    assert told.out == f"runs/x/{verb}\n"
    assert "working" in told.err.splitlines()
    assert ("0 of 9 cells done" in told.err) == (verb in ("train", "evaluate")), "before and after"
    assert cli.main([verb, "--quiet", *WORDS]) == 0
    assert capsys.readouterr().err == ""
    assert seen == [load_experiment(None, WORDS)] * 2


@pytest.mark.parametrize("verb", ["run", "report"])
def test_a_run_ends_with_its_numbers(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, verb, lambda experiment, _: make_report(experiment.run_dir))
    assert cli.main([verb, *WORDS]) == 0
    text = capsys.readouterr().out
    assert text.startswith("runs/x/report/index.html\n")
    assert "0.500 [0.400, 0.600]" in text


@pytest.mark.parametrize(("num_failed", "code"), [(0, cli.DONE), (1, cli.BUG)])
def test_a_benchmark_ends_with_its_table(
    num_failed: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    estimate = {"value": 0.75, "low": 0.7, "high": 0.8, "n": 99}
    row = {
        "ranker": HOSTILE,
        "safe_set": "default",
        "status": "done",
        "auroc": estimate,
        "average_precision": estimate,
        "unsafe_kept_at_clean_fraction": estimate,
        "auroc_by_label": {},
        "stability": None,
        "seconds": 1.0,
        "seconds_relative": 1.0,
        "cpu_seconds_relative": 1.25,
        "peak_memory_relative": None,
    }

    def stage(experiment: Experiment, _: Progress) -> Path:
        folder = experiment.run_dir / "bench"
        folder.mkdir(parents=True)
        document = {"rows": [row], "cells": [{}, {}], "num_failed": num_failed}
        (folder / "bench.json").write_text(json.dumps(document), encoding="utf-8")
        return folder / "bench.md"

    monkeypatch.setattr(pipeline, "bench", stage)
    monkeypatch.setenv("COLUMNS", "20")  # a narrow terminal cuts no number
    assert cli.main(["bench", *WORDS]) == code
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == "runs/x/bench/bench.md"
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines[1:]]
    assert [
        VISIBLE,
        "0.750 [0.700, 0.800]",
        "0.750",
        "0.750",
        "-",
        "1.0",
        "1.00x",
        "1.25x",
        "-",
    ] in cells
    assert told.err.startswith("1 of 2 rankings failed; see runs/x/bench/bench.md" * num_failed)
    assert bool(told.err) == bool(num_failed)


def test_report_takes_the_folder_of_a_run_even_when_it_was_moved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = folder / "a: moved 'run'"
    moved.mkdir()
    (moved / "config.yaml").write_text(REQUIRED, encoding="utf-8")
    seen: list[Path] = []

    def report(experiment: Experiment, _: Progress) -> Path:
        seen.append(experiment.run_dir)
        return make_report(experiment.run_dir)

    monkeypatch.setattr(pipeline, "report", report)
    assert cli.main(["report", str(moved)]) == 0
    assert seen == [moved]


def test_demo_and_lab_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "demo", lambda run_dir, _: make_report(run_dir), raising=False)
    assert cli.main(["demo", "--run-dir", "d"]) == 0
    assert capsys.readouterr().out.startswith("d/report/index.html\n")

    def build_model(path: Path, *, seed: int, size: str) -> Path:
        assert size == expected_size
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"x" * seed)
        return path

    monkeypatch.setattr("seal.lab.build.build_model", build_model)
    expected_size = "small"
    assert cli.main(["lab", "build", "m", "--seed", "3"]) == 0
    digest = "cd2eb0837c9b4c962c22d2ff8b5441b7b45805887f051d39bf133b583baf6860"
    assert capsys.readouterr().out == f"m\n3 bytes\nsha256 of model.safetensors {digest}\n"
    expected_size = "tiny"
    assert cli.main(["lab", "build", "n", "--size", "tiny"]) == 0
    assert cli.main(["lab", "build", "o", "--size", "huge"]) == 2


def test_show_prints_the_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_report(folder / "x")
    assert cli.main(["show", "x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "The refusal rate fell."
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines[1:]]
    assert ["metric", "base", "selected"] in cells
    assert ["refusal rate", "0.900 [0.800, 0.950]", "0.500 [0.400, 0.600]"] in cells
    assert [r"nll[red]\x1b", "-", "1.250 [1.000, 1.500]"] in cells
    assert ["training samples", "0", "1,200"] in cells
    assert ["auroc", "0.750 [0.700, 0.800]"] in cells


CUT = {
    "rule": "auto",
    "threshold": {"value": -1.5, "low": -1.75, "high": -1.25, "n": 1500},
    "num_pool": 1500,
    "num_kept": 1200,
    "share_kept": {"value": 0.8, "low": 0.79, "high": 0.81, "n": 1500},
    "bad_kept": {"value": 3.25, "low": 1, "high": 6, "n": 1500},
    "good_lost": {"value": 2, "low": 0.5, "high": 4, "n": 1500},
}
ODDS_CUT = {**CUT, "rule": "log_odds", "bad_in_pool": {"value": 9, "low": 7, "high": 12, "n": 1500}}
SHIELD_CUT = {**CUT, "rule": "grad_shield", "num_normals": 2, "gain": 16.72, "agreement": 0.98}
TRUSTED_CUT = {**CUT, "rule": "safe", "num_reference": 40, "reference_lost": 1, "error_rate": 0.05}


@pytest.mark.parametrize(
    ("cut", "last"),
    [
        (
            CUT,
            "expected among them: 3.25 [1, 6] of the low group; lost of the high group: 2 [0.5, 4]",
        ),
        ({**CUT, "rule": "mixture"}, "expected among them: 3.25 [1, 6] of the low group; lost of"),
        (
            ODDS_CUT,
            "as the ranker's own odds say: 9 [7, 12] bad samples in the pool; 3.25 [1, 6] of them "
            "kept, 2 [0.5, 4] good ones lost. No better than these odds are",
        ),
        (
            SHIELD_CUT,
            "between two normals: two are likelier than one by 16.7 nats; 98% of the resamples agr",
        ),
        (
            TRUSTED_CUT,
            "of 40 held-out safe rows 1 score lower; of others like them at most 5.0% are expected",
        ),
    ],
)
def test_select_and_show_say_where_the_cut_is(
    cut: dict[str, Any],
    last: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_report(folder / "runs" / "x")
    chosen = folder / "runs" / "x" / "select"
    chosen.mkdir()
    (chosen / "cut.json").write_text(json.dumps(cut), encoding="utf-8")
    monkeypatch.setattr(pipeline, "select", lambda experiment, _: experiment.run_dir / "select")
    for words in (["select", *WORDS], ["show", "runs/x"]):
        assert cli.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2] == (
            f"select ({cut['rule']}): scores of at least -1.5 [-1.75, -1.25] keep 1,200 of 1,500 "
            "samples, a share of 0.8 [0.79, 0.81]"
        )
        assert lines[-1].startswith(last)
    (chosen / "cut.json").write_text("{}", encoding="utf-8")
    assert cli.main(["show", "runs/x"]) == 2
    assert "cut.json is not of the form that this version of seal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x is not the folder of a run: it holds no config.yaml."),
        ("{", "x/report/report.json: not valid JSON ("),
        (
            "{}",
            "report.json is not of the form that this version of seal writes (KeyError('arms'))",
        ),
        ('{"arms": {"a": {"m": 3}}, "ranking": {}}', "report.json is not of the form"),
    ],
)
def test_show_tells_what_is_wrong_with_a_report(
    content: str | None, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        make_report(folder / "x").with_name("report.json").write_text(content, encoding="utf-8")
    assert cli.main(["show", "x"]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_config_init_check_schema(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "init", "new/exp.yaml"]) == 0
    text = (folder / "new" / "exp.yaml").read_text("utf-8")
    assert "seal config check new/exp.yaml" in capsys.readouterr().out
    assert cli.main(["config", "init"]) == 0
    assert capsys.readouterr().out == text
    assert cli.main(["config", "init", "new/exp.yaml"]) == 2
    assert "new/exp.yaml exists already. Give another name" in capsys.readouterr().err

    assert cli.main(["config", "check", "new/exp.yaml"]) == 2
    assert re.match(r"new/exp\.yaml:\d+: model\.path: expected text", capsys.readouterr().err)
    assert cli.main(["config", "check", "new/exp.yaml", *WORDS]) == 0
    told = capsys.readouterr().out
    assert told == "new/exp.yaml: valid. The run goes to runs/x.\n"
    assert cli.main(["config", "check", "--resolved", *WORDS]) == 0
    (folder / "again.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_experiment(folder / "again.yaml") == load_experiment(None, WORDS)

    assert cli.main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Experiment"


def test_config_check_tells_of_a_tracker_that_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seal.preflight.check_model", lambda _: None)  # the model is not there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    assert cli.main(["config", "check", *WORDS, "track=[tensorboard]"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["config", "check", *WORDS, "track=[tensorboard, wandb]"]) == 0
    said = capsys.readouterr()
    assert said.out == "command line: valid. The run goes to runs/x.\n"
    assert said.err.startswith("On this machine, track: wandb is not installed. Install with `pip ")


def test_only_retries_of_the_hub_are_kept_quiet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http.logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    nowhere = "http://127.0.0.1:9/nothing"

    def warnings() -> list[str]:
        caplog.clear()
        with pytest.raises(Exception, match="refused"):
            _http.http_backoff("HEAD", nowhere, max_retries=1, base_wait_time=0)
        _http.logger.warning("HTTP Error 503 thrown while requesting HEAD x")
        return [record.getMessage() for record in caplog.records if record.name == _http.__name__]

    for added in list(_http.logger.filters):  # by another test's command line
        _http.logger.removeFilter(added)
    assert len(warnings()) == 4  # a failure, a retry, a failure, ours
    assert cli.main(["config", "check", *WORDS]) == 0
    assert warnings() == ["HTTP Error 503 thrown while requesting HEAD x"]


# ---- CONFIG and KEY=VALUE


def test_the_word_without_an_equals_sign_is_the_config(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").touch()
    (folder / "odd").touch()
    assert split_words(["a=1", "b=x.yaml"]) == (None, ["a=1", "b=x.yaml"])
    assert split_words(["x.yaml", "a=1"]) == (Path("x.yaml"), ["a=1"])
    assert split_words(["a=1", "odd"]) == (Path("odd"), ["a=1"])
    assert split_words(["run", "run_dir=b"]) == (
        Path("run/config.yaml"),
        ['run_dir="run"', "run_dir=b"],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.yaml", "y.yaml"], "command line: 'x.yaml' and 'y.yaml' are both without '='. Give"),
        (["rank.epochs"], "command line: 'rank.epochs' is neither a file, nor the folder of a run"),
        (["."], ". is not the folder of a run: it has no config.yaml. Give a YAML file, or"),
        (
            ["--rank.epochs=1"],
            "command line: there is no option '--rank.epochs=1'. Keys are given without dashes: "
            "rank.epochs=VALUE.",
        ),
        (["no.yaml"], "no.yaml: no such file. Give a YAML file; `seal config init FILE` writes"),
        ([], "command line: run_dir: missing key. Give run_dir=VALUE, or a YAML file"),
        ([*WORDS, "rank.round=1"], "command line: rank.round: unknown key. Did you mean 'rounds'?"),
    ],
)
def test_mistakes_on_the_command_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *words]) == cli.BAD_INPUT == 2
    told = capsys.readouterr()
    assert told.err.startswith(message)
    assert told.out == ""


def test_unknown_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rnak"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert cli.main(["demo", "--sed", "3"]) == 2


# ---- exit codes


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("p.jsonl:17: no prompt."), "p.jsonl:17: no prompt.\n"),
        (ValueError(), "ValueError\n"),
        (FileNotFoundError(2, "No such file", "p.jsonl"), "p.jsonl: No such file.\n"),
        (PermissionError(13, "Permission denied", "p.jsonl"), "p.jsonl: Permission denied.\n"),
        (IsADirectoryError(21, "Is a directory", "p"), "p: Is a directory.\n"),
        (FileNotFoundError("p: no such file."), "p: no such file.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "The disk is full ([Errno 28] No space left on device). Free some space, then run the "
            "same command again.\n",
        ),
        (RuntimeError("x: No space left on device (os error 28)"), "The disk is full (x: No"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pipeline, "rank", stage_raising(error))
    assert cli.main(["rank", *WORDS]) == cli.BAD_INPUT
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert "Traceback" not in told
    monkeypatch.setenv("SEAL_TRACEBACK", "1")
    assert cli.main(["rank", *WORDS]) == cli.BAD_INPUT
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize("error", [RuntimeError(HOSTILE), OSError(5, "I/O"), AssertionError("x")])
def test_a_bug_shows_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "rank", stage_raising(error))
    assert cli.main(["rank", *WORDS]) == cli.BUG == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert "This is a bug in seal." in told
    assert "\x1b" not in told


def test_ctrl_c_exits_with_75(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "rank", stage_raising(KeyboardInterrupt()))
    assert cli.main(["rank", *WORDS]) == cli.INTERRUPTED == 75
    assert capsys.readouterr().err == "Interrupted. Run the same command again to go on.\n"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts the suite in the background has it ignore Ctrl-C; not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_exit_with_75_after_cleaning_up(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[bool] = []

    def stage(_: Experiment, _progress: Progress) -> Path:
        try:
            signal.raise_signal(number)
            time.sleep(5)
        finally:
            cleaned.append(True)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(pipeline, "rank", stage)
    assert cli.main(["rank", *WORDS]) == 75
    assert cleaned == [True]


def test_exit_codes_reach_the_shell() -> None:
    assert seal_process("rank", "rank.epochs").returncode == 2
    found = seal_process("show", "a\x1b[2Jb")
    assert found.returncode == 2
    assert found.stderr.startswith(r"a\x1b[2Jb is not the folder of a run")


# ---- other people's text


def test_control_characters_are_spelt_out() -> None:
    assert printable(HOSTILE) == VISIBLE
    assert (
        printable("tab\tline\nnaïve 日本 👩\u200d🚀\u00a0")
        == "tab\tline\nnaïve 日本 👩\u200d🚀\u00a0"
    )
    assert printable("\ud800\u2028\u200b\ufeff") == r"\ud800\u2028\u200b\ufeff"


def test_hostile_text_does_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "rank", stage_raising(ValueError(HOSTILE)))
    assert cli.main(["rank", *WORDS]) == 2
    assert capsys.readouterr().err == VISIBLE + "\n"


def terminal() -> Console:
    return Console(file=StringIO(), force_terminal=True, width=100, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_long_lines_are_left_whole() -> None:
    console = terminal()
    say(console, "x" * 300)
    assert shown(console) == "x" * 300 + "\n"


def test_bars_on_a_terminal_count_and_spell_out() -> None:
    console = terminal()
    with Bars(console, quiet=False) as bars:
        bars(HOSTILE, 1, 4)
        bars(HOSTILE, 4, 4)
        bars("at once", 1, 1)
        bars("[/INST] left open", 1, 4)
    text = shown(console)
    assert VISIBLE in text
    assert "4/4" in text
    assert "1/4" in text
    assert "at once\n" in text
    assert HOSTILE[:6] not in text


def test_progress_in_a_file_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 40.0, 40.0, 41.0])
    console = Console(file=StringIO(), width=100)
    with Bars(console, quiet=False) as bars:
        monkeypatch.setattr("seal.terminal.time.monotonic", lambda: next(clock))
        bars("ranking", 1, 100)
        bars("ranking", 40, 100)
        bars("ranking", 100, 100)
    assert shown(console) == "ranking: 100\nranking: 40/100, 1.0/s, 60 s left\n"


def test_the_log_of_seal_is_shown_and_then_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import logging

    log = logging.getLogger("seal.somewhere")
    monkeypatch.setattr(logging.getLogger("seal"), "propagate", False)
    before = logging.getLogger("seal").level
    for quiet, expected in ((False, f"kept\n{VISIBLE}\n"), (True, f"{VISIBLE}\n")):
        console = Console(file=StringIO(), width=300)
        with Bars(console, quiet=quiet):
            log.info("kept")
            log.warning("%s", HOSTILE)
        log.warning("afterwards")
        assert shown(console) == expected
    assert logging.getLogger("seal").level == before


def test_only_the_main_process_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    say(output(), "x")
    with Bars(Console(stderr=True), quiet=False) as bars:
        bars("work", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_report_without_arms_shows_the_ranking_alone() -> None:
    console = terminal()
    show_report(console, {"arms": {}, "ranking": REPORT["ranking"]})
    assert "auroc" in shown(console)
    assert "metric" not in shown(console)


# ---- the package


def test_public_names_are_there_and_load_lazily() -> None:
    loaded: dict[str, Any] = {name: getattr(seal, name) for name in seal.__all__}
    assert all(loaded[name] is getattr(seal, name) for name in loaded)  # and again
    assert callable(seal.rank)
    assert loaded["run"] is pipeline.run
    assert set(seal.__all__) <= set(dir(seal))
    with pytest.raises(AttributeError, match="module 'seal' has no attribute 'nothing'"):
        _ = seal.nothing
    code = "import sys, seal; seal.Sample; seal.__version__; sys.exit('torch' in sys.modules)"
    root = str(Path(seal.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": root}
    )
    assert found.returncode == 0


def test_no_library_tells_its_makers_of_a_run_unasked(monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    assert cli.main(["--version"]) == 0
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    assert cli.main(["--version"]) == 0
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0", "who asks for it has it"
