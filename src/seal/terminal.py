"""Words, progress and tables on a terminal; other people's text can neither style nor steer it."""

from __future__ import annotations

import json
import logging
import os
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from seal.progress import GridTable

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_WIDEST = 10_000  # characters of a table
_STYLES = {"done": "green", "running": "yellow", "to do": "dim"}
_HARMLESS = frozenset("\n\t\u200c\u200d")  # the joiners are part of many scripts and of emoji


def printable(text: str) -> str:
    """The text with control, direction and other invisible characters spelt out as escapes.

    Line breaks and tabs stay. What is left cannot move the cursor, colour, clear or reorder.
    """
    return "".join(_spelt(char) for char in text)


def say(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: no markup, no wrapping, nothing invisible."""
    console.print(Text(printable(text), style=style), soft_wrap=True, highlight=False)


def output() -> Console:
    """Standard output: results. Silent in all processes but the main one."""
    return Console(quiet=not _is_main_process())


def messages() -> Console:
    """Standard error: errors, log lines and progress."""
    return Console(stderr=True)


class Bars:
    """Progress and the log of `seal` on standard error, for as long as the block lasts.

    Calling it is a `seal.progress.Progress`. On a terminal there are bars; in a file or a pipe a
    line when a piece of work begins and every `LINE_SECONDS`. With `quiet`, only warnings.
    """

    LINE_SECONDS = 30.0

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet or not _is_main_process()
        self._running: dict[str, _Work] = {}
        self._log = logging.getLogger("seal")
        self._log_level = self._log.level
        self._handler = _LineHandler(console)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeRemainingColumn(),
            console=console,
            disable=self._quiet or not console.is_terminal,
        )

    def __enter__(self) -> Bars:
        """Start to show."""
        level = logging.WARNING if self._quiet else logging.INFO
        self._log.setLevel(level if _is_main_process() else logging.ERROR)
        self._log.addHandler(self._handler)
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._progress.stop()
        self._log.removeHandler(self._handler)
        self._log.setLevel(self._log_level)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far some work is; what is done at once gets a line."""
        if self._quiet:
            return
        if what not in self._running and done >= total:
            say(self._console, what)
            return
        work = self._running.get(what) or self._begin(what, total)
        if self._console.is_terminal:
            self._progress.update(work.task, completed=done, total=total)
        elif time.monotonic() - work.told > self.LINE_SECONDS:
            work.told = time.monotonic()
            speed = done / (work.told - work.start)
            left = f", {(total - done) / speed:.0f} s left" if speed else ""
            say(self._console, f"{what}: {done}/{total}, {speed:,.1f}/s{left}")
        if done >= total:  # the same words may name another piece of work later on
            del self._running[what]

    def _begin(self, what: str, total: int) -> _Work:
        now = time.monotonic()
        self._running[what] = _Work(self._progress.add_task(printable(what), total=total), now, now)
        if not self._console.is_terminal:
            say(self._console, f"{what}: {total}")
        return self._running[what]


@dataclass(slots=True)
class _Work:
    """A piece of work under way, when it began, and when a line was last written about it."""

    task: TaskID
    start: float
    told: float


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print what a report comes to: headline, metric x arm, and how good the ranking is.

    Args:
        console: Where to.
        report: The content of report.json: `arms` (arm -> metric -> estimate), `ranking` (metric ->
            estimate), where an estimate has value, low, high and n; and, where they are there,
            `headline`, `answer_notes`, `metrics` (metric -> label) and `num_samples` (arm ->
            number).

    Raises:
        ValueError: If it is no such content.
    """
    try:
        sentences = [str(sentence) for sentence in report.get("headline", ())]
        notes = [str(note) for note in report.get("answer_notes", ())]
        tables = [_arms_table(report), _ranking_table(report)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"report.json is not of the form that this version of seal writes ({error!r}). Make it "
            "again with `seal report`."
        ) from error
    for sentence in sentences:
        say(console, sentence)
    for table in tables:
        if table.row_count:
            console.print(table)
    for note in notes:
        say(console, note)


def show_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of plain text, a line per row even where that is wider than the terminal."""
    table = Table()
    for place, name in enumerate(header):
        title = Text(_one_line(name))
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_one_line(cell)) for cell in row))
    _print_whole(console, table)


def show_grid(console: Console, grid: GridTable) -> None:
    """Print how far a run is: a line per arm and seed, a column per stage.

    A dash stands where an arm has no such stage. Silent in all processes but the main one.
    """
    if not grid.rows or not _is_main_process():
        return
    table = Table("arm", "seed")
    for stage in grid.rows[0].cells:
        table.add_column(stage, no_wrap=True)
    for row in grid.rows:
        states = ("-" if cell is None else cell[1] for cell in row.cells.values())
        shown = (Text(state, style=_STYLES.get(state, "")) for state in states)
        table.add_row(Text(_one_line(row.arm)), Text(str(row.seed)), *shown)
    _print_whole(console, table)
    done, total = grid.count()
    say(console, f"{done} of {total} cells done")


def show_run(console: Console, folder: Path) -> None:
    """Print a report, and where the run's ranking was cut.

    Args:
        console: Where to.
        folder: Holds report.json.

    Raises:
        ValueError: If there is no report, or it cannot be read.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing. Make it with: seal report {folder.parent}")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}). Make it again with: seal report {folder.parent}"
        ) from error
    show_report(console, content)
    show_cut(console, folder.parent / "select")


def show_cut(console: Console, folder: Path) -> None:
    """Print the threshold that scores decided, where a selection's folder holds one.

    Raises:
        ValueError: If its cut.json is not what this version of seal writes.
    """
    path = folder / "cut.json"
    if not path.is_file():
        return
    try:
        lines = _cut_lines(json.loads(path.read_text("utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not of the form that this version of seal writes ({error!r}). Delete "
            f"{folder}, and make it again with: seal select {folder.parent}"
        ) from error
    for line in lines:
        say(console, line)


def _cut_lines(cut: Mapping[str, Any]) -> list[str]:
    kept = (
        f"select ({cut['rule']}): scores of at least {_interval(cut['threshold'])} keep "
        f"{int(cut['num_kept']):,} of {int(cut['num_pool']):,} samples, a share of "
        f"{_interval(cut['share_kept'])}"
    )
    if cut["rule"] == "log_odds":
        return [
            kept,
            f"as the ranker's own odds say: {_interval(cut['bad_in_pool'])} bad samples in the "
            f"pool; {_interval(cut['bad_kept'])} of them kept, {_interval(cut['good_lost'])} good "
            "ones lost. No better than these odds are (docs/methods/two_sided.md)",
        ]
    if cut["rule"] in ("mixture", "auto"):  # "auto" before there were several
        return [
            kept,
            f"expected among them: {_interval(cut['bad_kept'])} of the low group; lost of the high "
            f"group: {_interval(cut['good_lost'])}",
        ]
    if cut["rule"] == "grad_shield":
        where = {1: "at two standard deviations of one normal", 2: "between two normals"}
        return [
            kept,
            f"{where[int(cut['num_normals'])]}: two are likelier than one by "
            f"{float(cut['gain']):.1f} nats; {float(cut['agreement']):.0%} of the resamples agree",
        ]
    return [
        kept,
        f"of {int(cut['num_reference']):,} held-out safe rows {int(cut['reference_lost']):,} score "
        f"lower; of others like them at most {float(cut['error_rate']):.1%} are expected to",
    ]


def _interval(estimate: Mapping[str, Any]) -> str:
    return "{:.4g} [{:.4g}, {:.4g}]".format(*(float(estimate[x]) for x in ("value", "low", "high")))


class _Speed(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


class _LineHandler(logging.Handler):
    """Log records as lines."""

    def __init__(self, console: Console) -> None:
        logging.Handler.__init__(self)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else ""
        say(self._console, record.getMessage(), style)


def _spelt(char: str) -> str:
    if char in _HARMLESS or unicodedata.category(char) not in _INVISIBLE:
        return char
    return char.encode("unicode_escape").decode("ascii")


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _print_whole(console: Console, table: Table) -> None:
    """A line per row, even where that is wider than the terminal."""
    wide = console.options.update(width=_WIDEST)
    table.width = console.measure(table, options=wide).maximum
    console.print(table, crop=False)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by accelerate launch and torchrun


def _arms_table(report: Mapping[str, Any]) -> Table:
    arms = report["arms"]
    table = Table("metric")
    for name in arms:
        table.add_column(Text(printable(name)))
    for metric in dict.fromkeys(metric for measured in arms.values() for metric in measured):
        cells = [
            _cell(measured.get(metric), report.get("corrected", {}).get(arm, {}).get(metric))
            for arm, measured in arms.items()
        ]
        table.add_row(_label(report, metric), *cells)
    sizes = report.get("num_samples", {})
    if sizes and arms:
        table.add_section()
        table.add_row("training samples", *(Text(f"{int(sizes.get(name, 0)):,}") for name in arms))
    return table


def _ranking_table(report: Mapping[str, Any]) -> Table:
    table = Table("ranking", "value")
    for metric, estimate in report["ranking"].items():
        table.add_row(_label(report, metric), _cell(estimate))
    return table


def _label(report: Mapping[str, Any], metric: str) -> Text:
    described = report.get("metrics", {}).get(metric, {})
    judged = described.get("judged")
    label = str(described.get("label", metric)) + (f"\n  {judged}" if judged else "")
    return Text(printable(label))


def _cell(estimate: Mapping[str, Any] | None, corrected: Mapping[str, Any] | None = None) -> Text:
    """An estimate with its 95 % interval, and below it what it is without its judge's errors."""
    if estimate is None:
        return Text("-")
    text = _bracketed(estimate)
    if corrected is not None:
        text += (
            "\nnot corrected" if "problem" in corrected else f"\ncorrected {_bracketed(corrected)}"
        )
    return Text(text)


def _bracketed(estimate: Mapping[str, Any]) -> str:
    value, low, high = (float(estimate[name]) for name in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
