"""What the commands share: the application, the words of a command line, how things are told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from seal.config.words import split_words

if TYPE_CHECKING:
    from seal.config.experiment import Experiment
    from seal.progress import Progress

DONE, BUG, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75

_EPILOG = """
Exit codes: **0** done. **1** an internal error: a bug, shown with its traceback; of `seal bench`,
also that a ranking failed, as its table says. **2** bad input or configuration: one message says
what is wrong, where, and the way out; SEAL_TRACEBACK=1 also shows where it was raised. **75**
interrupted by Ctrl-C, SIGTERM or SIGUSR1, or stopped by budget.seconds: run the same command again
to go on.
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
data_app = typer.Typer(help="Build data sets from their public parts.", no_args_is_help=True)
lab_app = typer.Typer(help="The small aligned model that comes with seal.", no_args_is_help=True)
judge_app = typer.Typer(
    help="Measure a judge on answers that people labelled, or train one.", no_args_is_help=True
)
app.add_typer(judge_app, name="judge", rich_help_panel="Help with a run")
app.add_typer(config_app, name="config", rich_help_panel="Help with a run")
app.add_typer(data_app, name="data", rich_help_panel="Help with a run")
app.add_typer(lab_app, name="lab", rich_help_panel="Try it")

STAGES = "Stages"
HELP = "Help with a run"
TRIALS = "Try it"

WORDS = {"ignore_unknown_options": True}  # `split_words` has a better message for them

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


def experiment_of(words: list[str] | None) -> tuple[Experiment, str]:
    """The experiment that the words ask for, and what to call it."""
    config, overrides = split_words(words or [])
    from seal.config.experiment import load_experiment

    return load_experiment(config, overrides), str(config or "command line")


def do(
    stage: Callable[[Experiment, Progress], Path], words: list[str] | None, *, quiet: bool
) -> Path:
    """Run a stage, print the path of what it made and return it."""
    experiment, _ = experiment_of(words)
    made = with_bars(lambda progress: stage(experiment, progress), quiet=quiet)
    say(str(made))
    return made


def with_bars(work: Callable[[Progress], _Made], *, quiet: bool) -> _Made:
    """Do something that tells of its progress."""
    from seal.terminal import Bars, messages

    with Bars(messages(), quiet=quiet) as bars:
        return work(bars)


def show_report(folder: Path) -> None:
    """Print the tables of a report's folder, and where the ranking was cut."""
    from seal.terminal import output, show_run

    show_run(output(), folder)


def show_bench(folder: Path) -> None:
    """Print the main table of a benchmark; the exit code says whether a ranking failed."""
    from seal.benchmark import load_bench
    from seal.stages.bench.pages import main_table
    from seal.terminal import output, show_table

    document = load_bench(folder)
    show_table(output(), *main_table(document, brief=True))
    if document["num_failed"]:
        complain(
            f"{document['num_failed']} of {len(document['cells'])} rankings failed; see "
            f"{folder / 'bench.md'}. The same command makes them again, and only them."
        )
        raise typer.Exit(BUG)


def say(text: str) -> None:
    """Print what was asked for."""
    from seal import terminal

    terminal.say(terminal.output(), text)


def complain(text: str) -> None:
    """Print what went wrong, to standard error."""
    from seal import terminal

    rank = os.environ.get("RANK", "0")  # of several processes, each with troubles of its own
    terminal.say(terminal.messages(), text if rank == "0" else f"process {rank}: {text}")
