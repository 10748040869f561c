"""The demo's output: live bars on stderr, and at the end a table or a JSON document.

Rich refreshes only on request, so it needs no thread; without a terminal each stage is two plain lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from flowherd.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from rich.console import RenderableType

MAX_ROWS = 8  # processes with their own bar: a screen has 24 lines
NEXT = (
    ("flowherd engine", "a local engine to try things on"),
    ("flowherd run my_app:registry -p 4", "your activities, four processes"),
    ("flowherd submit my_activity -P name=value", "queue one, wait for its output"),
)


class Screen:
    """The screen with the stages of the demo, one below the other."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=36, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
            auto_refresh=False,
            disable=not self.console.is_terminal,
        )

    def say(self, *lines: str) -> None:
        """Prints lines of plain text, the first one bold; only a terminal has them wrapped."""
        for number, line in enumerate(lines):
            style = "" if number else "bold"
            self.console.print(Text(line, style=style), soft_wrap=not self.console.is_terminal)

    def stage(self, title: str, total: int) -> Stage:
        """Begins a stage with its own bar."""
        if not self.console.is_terminal:
            self.say(f"{title} …")
        return Stage(self.console, self._progress, title, total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Stage:
    """A bar and, below it, a bar for each process."""

    def __init__(self, console: Console, progress: Progress, title: str, total: int) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._total = total
        self._bar = self._add(title)
        self._children: dict[int, TaskID] = {}

    def update(self, done: int, note: str = "", children: Iterable[Mapping[str, Any]] = ()) -> None:
        """Draws the progress of the stage.

        Args:
            done: number of ended activities.
            note: text beside the bar.
            children: rows of the status document; a process's bar never goes back, even after a restart.

        """
        self._progress.update(self._bar, completed=done, count=f"{done}/{self._total}", note=note)
        for child in children:  # ordered, so that the newer of two incarnations is drawn
            index = child["process"]
            if index not in self._children and len(self._children) < MAX_ROWS:
                self._children[index] = self._add(f"  process {index}")
            if index in self._children:
                self._draw(self._children[index], child)
        self._progress.refresh()

    def finish(self, done: int, note: str) -> None:
        """Draws the end of the stage; without a terminal this is its second line."""
        self.update(done, note)
        for bar in self._children.values():
            self._progress.update(bar, note="")
        self._progress.refresh()
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {done}/{self._total}, {note}", highlight=False)

    def warn(self, text: str) -> None:
        """Prints a warning about this stage above the bars."""
        self._console.print(Text(f"{self._title}: {text}"))

    def _draw(self, bar: TaskID, child: Mapping[str, Any]) -> None:
        before = self._progress.tasks[self._progress.task_ids.index(bar)].completed
        count = max(child["completed"], int(before))
        restarted = f"  restarted {child['restarts']} x" if child["restarts"] else ""
        note = f"{child['cpu_percent'] or 0.0:3.0f} % CPU{restarted}"
        self._progress.update(bar, completed=count, count=str(count), note=note)

    def _add(self, description: str) -> TaskID:
        return self._progress.add_task(description, total=self._total, count="", note="")


@dataclass(frozen=True)
class Result:
    """A phase of the demo: the whole work on a number of processes. Times in seconds."""

    processes: int
    activities: int
    completed: int
    failed: int
    lost: int  # neither completed nor failed, or completed without a run
    duplicates: int  # accepted twice, or run again without a kill
    after_kill: int  # run again because the process was killed
    kills: int
    wall_s: float  # from the first start of an activity to the last completion
    merge_s: float
    correct: bool
    answer: dict[str, Any] = field(repr=False)

    @property
    def activities_per_s(self) -> float:
        return self.completed / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True)
class Report:
    """A whole demo: the phase on one process, the phase on all, and the direct computation."""

    baseline: Result
    main: Result
    usable_cpus: int
    files: int
    reference_s: float
    seed: int | None

    @property
    def speedup(self) -> float:
        """The activities per second relative to one process."""
        base = self.baseline.activities_per_s
        return self.main.activities_per_s / base if base > 0 else 0.0

    @property
    def good(self) -> bool:
        """True if both answers are right and nothing was lost."""
        return all(phase.correct and phase.lost == 0 for phase in (self.baseline, self.main))


def document(report: Report) -> dict[str, Any]:
    """Returns the document of `flowherd demo --json`."""
    return {
        **_figures(report.main),
        "baseline_one_process": _figures(report.baseline),
        "speedup": round(report.speedup, 3),
        "usable_cpus": report.usable_cpus,
        "files": report.files,
        "reference_s": round(report.reference_s, 3),
        "seed": report.seed,
        "answer": report.main.answer,
    }


def summary(report: Report) -> RenderableType:
    """Returns the table and the sentences at the end."""
    return Padding(Group(_table(report), "", *_sentences(report), "", _next()), (1, 2))


def _figures(phase: Result) -> dict[str, Any]:
    return {
        "processes": phase.processes,
        "activities": phase.activities,
        "completed": phase.completed,
        "failed": phase.failed,
        "lost": phase.lost,
        "duplicates": phase.duplicates,
        "wall_s": round(phase.wall_s, 3),
        "activities_per_s": round(phase.activities_per_s, 2),
        "kills": phase.kills,
        "repeated_after_kill": phase.after_kill,
        "merge_s": round(phase.merge_s, 3),
        "correct": phase.correct,
    }


def _table(report: Report) -> Table:
    phases = [report.main] if report.main is report.baseline else [report.baseline, report.main]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for phase in phases:
        table.add_column(counted(phase.processes, "process"), justify="right")

    def row(name: str, cells: list[str], style: str = "") -> None:
        table.add_row(name, *cells, style=style)

    row("completed", [f"{phase.completed} of {phase.activities}" for phase in phases])
    if any(phase.failed for phase in phases):
        row("failed", [str(phase.failed) for phase in phases], "red")
    row("lost", [str(phase.lost) for phase in phases], "red" if any(p.lost for p in phases) else "")
    row("duplicates", [str(phase.duplicates) for phase in phases])
    if report.seed is not None:
        row("processes killed", [str(phase.kills) for phase in phases])
        row("repeated after a kill", [str(phase.after_kill) for phase in phases])
    row("seconds", [f"{phase.wall_s:.1f}" for phase in phases])
    row("activities/s", [f"{phase.activities_per_s:.1f}" for phase in phases])
    row("answer", ["correct" if phase.correct else "WRONG" for phase in phases])
    if len(phases) > 1:
        row("speed-up", ["", f"{report.speedup:.2f} x"], "bold")
    return table


def _sentences(report: Report) -> list[Text]:
    lines = _discoveries(report.main.answer) if report.main.correct else []
    if report.good:
        lines.append(
            f"Equal to a direct computation without flowherd, which took {report.reference_s:.1f} s."
        )
    else:
        lines.append("Not what a direct computation gives: this is a bug in flowherd, please report it.")
    if report.usable_cpus == 1:
        lines.append("Only one CPU is usable here, so no speed-up is to be expected.")
    return [Text(line) for line in lines]


def _discoveries(answer: dict[str, Any]) -> list[str]:
    """Returns findings of the analysis, a line each."""
    lines = []
    if answer["most_complex"]:
        score, path, name, line = answer["most_complex"][0]
        of = f"The most complex of {answer['sizes']['functions']:,} functions"
        lines.append(f"{of} is {name} ({path}:{line}) with complexity {score}.")
    if answer["closest_pairs"]:
        _, first, second = answer["closest_pairs"][0]
        more = answer["near_duplicates"] - 1
        lines.append(
            f"Near-duplicates: {first} and {second}"
            + (f", and {counted(more, 'more pair')}." if more else ".")
        )
    if signatures := answer.get("signatures"):
        table = f"{signatures['functions']:,} signatures, {signatures['bytes'] / 1e6:.1f} MB"
        lines.append(f"A file of {table}, went to the engine and came back byte for byte.")
    return lines


def _next() -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_row(Text("Next", style="bold"), "")
    for command, what in NEXT:
        table.add_row(Text(command, style="cyan"), Text(what, style="dim"))
    return table
