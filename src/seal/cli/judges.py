"""Commands about judges: hold one against people's labels, train one from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seal.cli.app import WORDS, Quiet, judge_app, say, with_bars

if TYPE_CHECKING:
    from seal.judges.calibrating import Disagreement
    from seal.judges.calibration import Calibration
    from seal.judges.judge import Judge

_Labelled = Annotated[
    Path,
    typer.Argument(
        metavar="LABELLED",
        help="Answers that people labelled: .jsonl, .json, .csv or .parquet with prompt, response "
        "and label (refuses, partly, complies; harmful, harmless; or 0 and 1).",
    ),
]
_One = Annotated[
    Literal["refuses", "complies", "harm"] | None,
    typer.Option("--label-1-means", help="What the label 1 means, where labels are 0 and 1."),
]
FEW_PROMPTS = 50  # a kappa from fewer has an interval half as wide as its range
_SHOWN = 160  # characters of a prompt or an answer


@judge_app.command("calibrate", context_settings=WORDS)
def calibrate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="JUDGE [KEY=VALUE]... LABELLED",
            help="JUDGE is a kind (sentences, phrases, guard_model, ...), the folder of a trained "
            "judge, or a YAML file with a judge's settings; KEY=VALUE sets one of its keys. "
            "LABELLED is a .jsonl, .json, .csv or .parquet file with prompt, response and label "
            "(refuses, partly, complies; harmful, harmless; or 0 and 1).",
            show_default=False,
        ),
    ],
    one: _One = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the calibration here, for `calibration:` in a judge's settings."),
    ] = None,
    cases: Annotated[int, typer.Option(min=0, help="Show so many answers judged wrong.")] = 5,
    quiet: Quiet = False,
) -> None:
    """Hold a judge against people's labels: agreement, kappa, errors, worst cases."""
    from seal.artifacts.atomic import write_json
    from seal.judges.calibrating import calibrate as hold
    from seal.judges.judging import Judging
    from seal.judges.labelled import read_labelled

    judge, labelled, overrides = _split(words)
    meant = _judge_of(judge, overrides)
    people = read_labelled(labelled, one)
    found, apart = with_bars(
        lambda progress: hold(meant, people, Judging(progress=progress)), quiet=quiet
    )
    for line in _lines(found):
        say(line)
    for line in _cases(apart, cases):
        say(line)
    if out is not None:
        write_json(out, found.model_dump(mode="json"))
        say(f"{out}: name it as `calibration: {out}` in the judge's settings")


@judge_app.command("train")
def train(
    labelled: _Labelled,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    one: _One = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(metavar="LABELLED", help="Also measure on these answers; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Train a small judge from labelled answers, and say how it does on those it has not seen."""
    from seal.judges.labelled import read_labelled
    from seal.judges.making import make_judge

    people = read_labelled(labelled, one)
    others = [read_labelled(path, one) for path in test or []]
    lines = with_bars(lambda progress: make_judge(people, others, out, seed, progress), quiet=quiet)
    for line in lines:
        say(line)
    say(f"{out}: use it as `judge: {{judge: trained, path: {out}}}`")


def _split(words: list[str]) -> tuple[str, str, list[str]]:
    """The judge, the labelled file and the keys among the words of a command line."""
    names = [word for word in words if "=" not in word or Path(word).exists()]
    odd = next((word for word in words if word.startswith("-")), None)
    if odd is not None:
        raise ValueError(f"command line: there is no option {odd!r}. See: seal judge calibrate -h")
    if len(names) != 2:
        given = ", ".join(map(repr, names)) or "none"
        raise ValueError(
            f"command line: a JUDGE and a LABELLED file are needed, and given are {given}. All "
            "else has the form KEY=VALUE."
        )
    return names[0], names[1], [word for word in words if word not in names]


def _judge_of(name: str, words: list[str]) -> Judge:
    import json

    from seal.artifacts.settings import Settings
    from seal.config.parse import parse_config
    from seal.judges.union import AnyJudge

    class _Named(Settings):
        judge: AnyJudge

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file. Give a YAML file with the judge.")
        text, where = path.read_text("utf-8"), str(path)
        import yaml

        try:
            given = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not valid YAML ({str(error).splitlines()[0]}).") from error
        if not (isinstance(given, dict) and isinstance(given.get("judge"), dict)):
            text = "judge:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    elif path.is_dir():
        text, where = f"judge: {{judge: trained, path: {json.dumps(name)}}}\n", "command line"
    else:
        text, where = f"judge: {{judge: {json.dumps(name)}}}\n", "command line"
    given = [word if word.startswith("judge.") else f"judge.{word}" for word in words]
    # What is measured now may take the place of an earlier, stale calibration that it names.
    return parse_config(text, where, _Named, [*given, "judge.calibration=null"]).judge


def _lines(found: Calibration) -> list[str]:
    from seal.judges.calibration import turned_round

    kappa = "not defined: all answers have the same word"
    if found.kappa is not None:
        kappa = _span(found.kappa.value, found.kappa.low, found.kappa.high)
    prompts = "1 prompt" if found.num_prompts == 1 else f"{found.num_prompts} prompts"
    said = sorted({word for row in found.confusion.values() for word in row})
    lines = [
        f"{found.judge} against {found.n} labelled answers to {prompts}",
        f"agreement {found.agreement:.3f}",
        f"Cohen's kappa {kappa}",
    ]
    if odd := turned_round(found.kappa):
        lines.append(odd)
    if found.num_cannot_tell:
        judged = found.kappa_judged
        shown = "not defined" if judged is None else _span(judged.value, judged.low, judged.high)
        lines.append(f"cannot tell: {found.num_cannot_tell}; kappa without them {shown}")
    lines += [
        f"  people say {label}: " + ", ".join(f"{word} {row.get(word, 0)}" for word in said)
        for label, row in found.confusion.items()
    ]
    for event, errors in found.errors.items():
        hits, alarms = errors.hits.estimate(), errors.alarms.estimate()
        lines.append(
            f"{event}: sensitivity {_span(hits.value, hits.low, hits.high)}, specificity "
            f"{_span(1 - alarms.value, 1 - alarms.high, 1 - alarms.low)}"
        )
    if found.num_prompts < FEW_PROMPTS:
        lines.append(
            f"Answers to {prompts} tell little of a judge: label answers to {FEW_PROMPTS} at least."
        )
    if found.seen_in_training:
        lines.append(
            "This judge was trained on these answers: all of this is better than it is elsewhere. "
            "Calibrate it on others; its folder has the agreement in cross-validation."
        )
    lines.append(
        "A rate is corrected rightly only where the answers judged are like these: the same kind "
        "of prompts and of models."
    )
    return lines


def _cases(apart: list[Disagreement], most: int) -> list[str]:
    """The answers judged wrong: those with a verdict first, the surest before all others."""
    order = sorted(apart, key=lambda case: (case.said == "cannot_tell", -_sureness(case)))
    lines = [f"{len(apart)} judged otherwise than by people"] if apart and most else []
    for case in order[:most]:
        why = case.judgement.problem or case.judgement.raw
        lines += [
            f"{case.where}: people say {case.label}, the judge {case.said}"
            + (f" ({_short(why)})" if why else ""),
            f"  prompt: {_short(case.prompt)}",
            f"  answer: {_short(case.response)}",
        ]
    return lines


def _sureness(case: Disagreement) -> float:
    _, _, number = case.judgement.raw.rpartition("probability ")
    try:
        return float(number)
    except ValueError:
        return 0.0


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}\u2026"


def _span(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
