"""The command line: one command per verb; each parses, calls and prints.

Nothing heavy is imported before a command runs, so that --help is there at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from seal.budget import BudgetSpent
from seal.config.words import split_words

if TYPE_CHECKING:
    from seal.config.experiment import Experiment
    from seal.progress import Progress

DONE, BUG, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75
_TYPER_INTERRUPTED = 130
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_THEIRS = (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

_EPILOG = """
Exit codes: **0** done. **1** an internal error: a bug, shown with its traceback; of `seal bench`,
also that a ranking failed, as its table says. **2** bad input or configuration: one message says
what is wrong, where, and the way out; SEAL_TRACEBACK=1 also shows where it was raised. **75**
interrupted by Ctrl-C or SIGTERM, or stopped by budget.seconds: run the same command again to go on.
"""

app = typer.Typer(
    help="Find the samples of a fine-tuning set that would cost an aligned model its safety.",
    epilog=_EPILOG,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Check, describe or start a configuration.", no_args_is_help=True)
lab_app = typer.Typer(help="The small aligned model that comes with seal.", no_args_is_help=True)
app.add_typer(config_app, name="config", rich_help_panel="Help with a run")
app.add_typer(lab_app, name="lab", rich_help_panel="Try it")

_VERBS = "Stages"
_HELPERS = "Help with a run"
_TRIALS = "Try it"

_WORDS = {"ignore_unknown_options": True}  # `split_words` has a better message for them

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG | KEY=VALUE",
        help="CONFIG is a YAML file, or the folder of a run. KEY=VALUE sets one key and beats the "
        "file: rank.epochs=1 safe.path=safe.jsonl seeds=[0,1]",
        show_default=False,
    ),
]
_Made = TypeVar("_Made")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's own) and return its exit code."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(args=arguments, prog_name="seal")
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        return _interrupted() if stop.code == _TYPER_INTERRUPTED else stop.code
    except KeyboardInterrupt:
        return _interrupted()
    except BudgetSpent as stop:
        _complain(str(stop))
        return INTERRUPTED
    except Exception as error:  # the outermost place: it is told, or shown as a bug
        return _failed(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    return DONE


def _show_version(wanted: bool) -> None:
    if wanted:
        import seal

        _print(f"seal {seal.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def run(words: Words = None, quiet: Quiet = False) -> None:
    """All stages: rank, select, train, evaluate, report."""
    from seal import pipeline

    _show_report(_do(pipeline.run, words, quiet=quiet).parent)


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def rank(words: Words = None, quiet: Quiet = False) -> None:
    """Score every sample of the pool; higher = keep."""
    from seal import pipeline

    _do(pipeline.rank, words, quiet=quiet)


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def select(words: Words = None, quiet: Quiet = False) -> None:
    """Keep the best of the ranked pool."""
    from seal import pipeline
    from seal.terminal import output, show_cut

    show_cut(output(), _do(pipeline.select, words, quiet=quiet))


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def train(words: Words = None, quiet: Quiet = False) -> None:
    """Fine-tune every arm with every seed."""
    from seal import pipeline

    _do(pipeline.train, words, quiet=quiet)


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def merge(words: Words = None, quiet: Quiet = False) -> None:
    """Work every trained adapter into its base model."""
    from seal import pipeline

    _do(pipeline.merge, words, quiet=quiet)


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def evaluate(words: Words = None, quiet: Quiet = False) -> None:
    """Measure every fine-tuned model, and the base."""
    from seal import pipeline

    _do(pipeline.evaluate, words, quiet=quiet)


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def report(words: Words = None, quiet: Quiet = False) -> None:
    """Lay the models side by side: report/index.html and report/report.json.

    The folder of a finished run is enough: seal report runs/x
    """
    from seal import pipeline

    _show_report(_do(pipeline.report, words, quiet=quiet).parent)


@app.command(rich_help_panel=_VERBS, context_settings=_WORDS)
def bench(words: Words = None, quiet: Quiet = False) -> None:
    """Compare rankers on a labelled pool: bench/bench.md, bench.json and bench.svg.

    Each ranker and seed gets a process of its own. What is finished is not done again.
    """
    from seal import pipeline

    _show_bench(_do(pipeline.bench, words, quiet=quiet).parent)


@app.command(rich_help_panel=_HELPERS, context_settings=_WORDS)
def estimate(
    words: Words = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """What a run would take, from a few steps of each kind: time, memory, disk. Makes nothing."""
    import json

    from seal import pipeline
    from seal.stages.estimate import as_table
    from seal.terminal import output, show_table

    experiment, _ = _experiment(words)
    found = _with_bars(lambda progress: pipeline.estimate(experiment, progress), quiet=quiet)
    if as_json:
        _print(json.dumps(found, indent=2))
    else:
        show_table(output(), *as_table(found))


@app.command(rich_help_panel=_VERBS)
def score(
    new: Annotated[str, typer.Argument(metavar="NEW", help="The file, or a Hub dataset.")],
    scorer: Annotated[str, typer.Option(metavar="RUN", help="The folder of a ranked run.")],
    row_format: Annotated[str | None, typer.Option("--format", help="The pool's, if none.")] = None,
    out: Annotated[Path | None, typer.Option(help=".jsonl or .parquet; else in RUN.")] = None,
    floor: Annotated[float, typer.Option(help="Least agreement with the ranking.")] = 0.7,
    quiet: Quiet = False,
) -> None:
    """Score new samples as a finished ranking would, without ranking again."""
    from seal import pipeline

    words = (_experiment([scorer])[0], new, row_format, out, floor)
    _print(str(_with_bars(lambda progress: pipeline.score(*words, progress), quiet=quiet)))


@app.command(rich_help_panel=_HELPERS)
def show(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
) -> None:
    """Print the numbers of a finished run."""
    _show_report(run_dir / "report")


@app.command(rich_help_panel=_TRIALS)
def demo(
    run_dir: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """The whole path on a small model and generated data; minutes on a laptop, no download."""
    from seal import pipeline

    page = _with_bars(lambda progress: pipeline.demo(run_dir, progress), quiet=quiet)
    _print(str(page))
    _show_report(page.parent)


@lab_app.command("build")
def lab_build(
    folder: Annotated[Path, typer.Argument(help="Where to save it.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the training text.")] = 0,
    size: Annotated[
        Literal["small", "tiny"],
        typer.Option(help="small: as shipped. tiny: fewer layers, another tokenizer."),
    ] = "small",
) -> None:
    """Train the small aligned model from nothing and save it."""
    import hashlib

    from seal.lab.build import build_model

    built = build_model(folder, seed=seed, size=size)
    num_bytes = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    digest = hashlib.sha256((built / "model.safetensors").read_bytes()).hexdigest()
    _print(f"{built}\n{num_bytes} bytes\nsha256 of model.safetensors {digest}")


@config_app.command("check", context_settings=_WORDS)
def config_check(
    words: Words = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print it with every default written out.")
    ] = False,
) -> None:
    """Say whether a configuration is valid, without running anything."""
    experiment, name = _experiment(words)
    if resolved:
        from seal.config.experiment import dump_experiment

        _print(dump_experiment(experiment).rstrip("\n"))
    else:
        _print(f"{name}: valid. The run goes to {experiment.run_dir}.")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    from seal.config.experiment import json_schema

    _print(json_schema())


@config_app.command("init")
def config_init(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="The file to write; standard output without it."),
    ] = None,
) -> None:
    """Write a commented configuration to start from."""
    from seal.config.experiment import starter_config

    if path is None:
        _print(starter_config().rstrip("\n"))
        return
    if path.exists():
        raise ValueError(f"{path} exists already. Give another name, or delete it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(starter_config(), encoding="utf-8")
    _print(f"{path}: fill in what is empty, then check it with: seal config check {path}")


def _experiment(words: list[str] | None) -> tuple[Experiment, str]:
    """The experiment that the words ask for, and what to call it."""
    config, overrides = split_words(words or [])
    from seal.config.experiment import load_experiment

    return load_experiment(config, overrides), str(config or "command line")


def _do(
    stage: Callable[[Experiment, Progress], Path], words: list[str] | None, *, quiet: bool
) -> Path:
    """Run a stage, print the path of what it made and return it."""
    experiment, _ = _experiment(words)
    made = _with_bars(lambda progress: stage(experiment, progress), quiet=quiet)
    _print(str(made))
    return made


def _with_bars(work: Callable[[Progress], _Made], *, quiet: bool) -> _Made:
    from seal.terminal import Bars, messages

    with Bars(messages(), quiet=quiet) as bars:
        return work(bars)


def _show_report(folder: Path) -> None:
    """Print the tables of a report's folder, and where the ranking was cut."""
    from seal.terminal import output, show_run

    show_run(output(), folder)


def _show_bench(folder: Path) -> None:
    """Print the main table of a benchmark; the exit code says whether a ranking failed."""
    from seal.benchmark import load_bench
    from seal.stages.bench.pages import main_table
    from seal.terminal import output, show_table

    document = load_bench(folder)
    show_table(output(), *main_table(document, brief=True))
    if document["num_failed"]:
        _complain(
            f"{document['num_failed']} of {len(document['cells'])} rankings failed; see "
            f"{folder / 'bench.md'}. The same command makes them again, and only them."
        )
        raise typer.Exit(BUG)


def _print(text: str) -> None:
    from seal.terminal import output, say

    say(output(), text)


def _complain(text: str) -> None:
    from seal.terminal import messages, say

    say(messages(), text)


def _failed(error: Exception) -> int:
    """Tell what went wrong; returns the exit code."""
    # safetensors has an exception of its own, without a number.
    no_space = "No space left on device" in str(error) or (
        isinstance(error, OSError) and error.errno in _NO_SPACE
    )
    theirs = no_space or isinstance(error, _THEIRS)
    if not theirs or os.environ.get("SEAL_TRACEBACK"):
        _complain("".join(traceback.format_exception(error)).rstrip("\n"))
    if not theirs:
        _complain("This is a bug in seal. Please report it with the lines above.")
        return BUG
    if no_space:
        _complain(f"The disk is full ({error}). Free some space, then run the same command again.")
    elif isinstance(error, OSError) and error.filename is not None:
        _complain(f"{error.filename}: {error.strerror}.")
    else:
        _complain(str(error) or type(error).__name__)
    return BAD_INPUT


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's signature)
    """Treat SIGTERM as Ctrl-C, once; a second one ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


def _interrupted() -> int:
    _complain("Interrupted. Run the same command again to go on.")
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
