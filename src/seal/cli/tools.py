"""Commands around a run: what it would take, what it found, how to begin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seal.cli.app import (
    HELP,
    TRIALS,
    WORDS,
    Quiet,
    Words,
    app,
    complain,
    config_app,
    data_app,
    experiment_of,
    lab_app,
    say,
    show_report,
    with_bars,
)

if TYPE_CHECKING:
    from seal.config.experiment import Experiment


@app.command(rich_help_panel=HELP, context_settings=WORDS)
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

    experiment, _ = experiment_of(words)
    found = with_bars(lambda progress: pipeline.estimate(experiment, progress), quiet=quiet)
    if as_json:
        say(json.dumps(found, indent=2))
    else:
        show_table(output(), *as_table(found))


@app.command(rich_help_panel=HELP)
def show(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
) -> None:
    """Print the numbers of a finished run, or how far an unfinished one is."""
    report = run_dir / "report"
    if not report.is_dir() and not (run_dir / "config.yaml").is_file():
        raise ValueError(f"{run_dir} is not the folder of a run: it holds no config.yaml.")
    if (report / "report.json").is_file() or not (run_dir / "config.yaml").is_file():
        show_report(report)
        return
    from seal import pipeline
    from seal.terminal import output, show_grid

    experiment, _ = experiment_of([str(run_dir)])
    show_grid(output(), pipeline.progress_of(experiment))
    say(f"Not finished. To go on: seal run {run_dir}")


@app.command(rich_help_panel=TRIALS)
def demo(
    run_dir: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """The whole path on a small model and generated data; minutes on a laptop, no download."""
    from seal import pipeline

    page = with_bars(lambda progress: pipeline.demo(run_dir, progress), quiet=quiet)
    say(str(page))
    show_report(page.parent)


@app.command(rich_help_panel=HELP)
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    trainer: Annotated[
        Literal["trl", "axolotl", "llamafactory"], typer.Option("--to", help="Who trains.")
    ],
    out: Annotated[Path | None, typer.Option(help="A folder; else RUN/export/TRAINER.")] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also upload the rows to the Hub, private, as NAME."),
    ] = None,
) -> None:
    """Write the kept samples and a ready config for another trainer."""
    from seal import exporting
    from seal.inputs import Inputs
    from seal.progress import silent

    experiment, _ = experiment_of([str(run_dir)])
    folder, notes = exporting.export(Inputs(experiment, silent), trainer, out, push)
    say("\n".join([str(folder), *notes]))


@app.command("merge-adapter", rich_help_panel=HELP)
def merge_adapter(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder, or a Hub name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; auto: the base's."),
    ] = "auto",
) -> None:
    """Make a whole model of a LoRA adapter and the base that it names."""
    from seal.models import ModelSpec
    from seal.stages.merge import merge_start

    say(str(merge_start(ModelSpec(path=adapter, dtype=dtype, device="cpu"), out)))


@data_app.command("redorca")
def data_redorca(
    slim_orca: Annotated[str, typer.Option(metavar="FILE", help="SlimOrca, or its Hub name.")],
    red_team: Annotated[str, typer.Option(metavar="FILE", help="red_team_attempts, unpacked.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("data/redorca"),
    num_benign: Annotated[int, typer.Option(min=1, help="SlimOrca rows in the pool.")] = 89_600,
    num_unsafe: Annotated[int, typer.Option(min=1, help="Red-team rows in the pool.")] = 22_400,
    num_safe: Annotated[int, typer.Option(min=1, help="Rows of the safe set.")] = 112_000,
    num_test: Annotated[int, typer.Option(min=1, help="Rows held out for testing.")] = 1_000,
    num_harmful: Annotated[int, typer.Option(min=1, help="Harmful references.")] = 5_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Build the paper's pool and safe set, RedOrca and BlueOrca, from your downloads."""
    from seal.data.redorca import Sizes, build_redorca

    sizes = Sizes(num_benign, num_unsafe, num_safe, num_test, num_harmful)
    recipe = build_redorca(slim_orca, red_team, out, sizes, seed)
    lines = [str(out)]
    for part in ("slim_orca", "red_team"):
        if number := recipe[part]["num_odd"]:
            first = recipe[part]["first_odd"][0]
            lines.append(f"{number:,} rows could not be used; the first: {first}")
    say("\n".join(lines))


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
    say(f"{built}\n{num_bytes} bytes\nsha256 of model.safetensors {digest}")


@lab_app.command("world")
def lab_world(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    seed: Annotated[int, typer.Option(min=0, help="Which world.")] = 0,
    num_harmful: Annotated[int, typer.Option(min=0, help="Harmful references.")] = 100,
) -> None:
    """Write a generated data set with planted harm, and the small model that goes with it."""
    import shutil

    from seal.artifacts.atomic import new_folder
    from seal.lab.build import shipped_model
    from seal.lab.world import write_world

    with new_folder(folder) as temporary:
        write_world(temporary, seed=seed, num_harmful=num_harmful)
        shutil.copytree(shipped_model(), temporary / "model")
    say(str(folder))


@config_app.command("check", context_settings=WORDS)
def config_check(
    words: Words = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print it with every default written out.")
    ] = False,
) -> None:
    """Say whether a configuration is valid, without running anything."""
    experiment, name = experiment_of(words)
    unseen = _model_not_seen(experiment)
    if resolved:
        from seal.config.experiment import dump_experiment

        say(dump_experiment(experiment).rstrip("\n"))
    else:
        say(f"{name}: valid. The run goes to {experiment.run_dir}.")
    from seal.tracking import what_is_absent

    absent = what_is_absent(experiment.track)
    for what in filter(None, (absent, unseen)):
        complain(f"On this machine, {what}")


def _model_not_seen(experiment: Experiment) -> str:
    """Check what the model decides; why that cannot be done here, or nothing."""
    from seal import preflight
    from seal.models import NoModelError

    try:
        preflight.check_model(experiment)
    except NoModelError as error:
        return f"it was not checked whether the settings fit the model: {error}"
    return ""


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    from seal.config.experiment import json_schema

    say(json_schema())


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
        say(starter_config().rstrip("\n"))
        return
    if path.exists():
        raise ValueError(f"{path} exists already. Give another name, or delete it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(starter_config(), encoding="utf-8")
    say(f"{path}: fill in what is empty, then check it with: seal config check {path}")
