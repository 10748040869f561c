"""The demo's live picture on stderr: bars for the whole and for each process; it draws, and knows no engine.

Rich refreshes only when told, so there is no thread; without a terminal each stage is two plain lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from flowherd_supervisor.demo.client import Child

MAX_ROWS = 8  # processes with a bar of their own: a screen has 24 lines


class Screen:
    """Where the stages of the demo are drawn, one below the other."""

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
        """Print lines of plain text, the first one bold."""
        for number, line in enumerate(lines):
            self.console.print(Text(line, style="" if number else "bold"))

    def stage(self, title: str, total: int) -> Stage:
        """Begin a stage with a bar of its own."""
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
    """One bar and, below it, one for each process."""

    def __init__(self, console: Console, progress: Progress, title: str, total: int) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._total = total
        self._bar = self._add(title)
        self._children: dict[int, TaskID] = {}

    def update(self, done: int, note: str = "", children: Sequence[Child] = ()) -> None:
        """Draw how far the stage is; what a process has done never falls back, whoever took its place."""
        self._progress.update(self._bar, completed=done, count=f"{done}/{self._total}", note=note)
        for child in children[:MAX_ROWS]:
            if child.process not in self._children:
                self._children[child.process] = self._add(f"  process {child.process}")
            bar = self._children[child.process]
            count = max(
                child.completed, int(self._progress.tasks[self._progress.task_ids.index(bar)].completed)
            )
            self._progress.update(bar, completed=count, count=str(count), note=_condition(child))
        self._progress.refresh()

    def finish(self, done: int, note: str) -> None:
        """Draw the end of the stage; without a terminal this is its second line."""
        self.update(done, note)
        for bar in self._children.values():
            self._progress.update(bar, note="")
        self._progress.refresh()
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {done}/{self._total}, {note}", highlight=False)

    def warn(self, text: str) -> None:
        """Print a text above the bars that tells why this stage is not what it should be."""
        self._console.print(Text(f"{self._title}: {text}"))

    def _add(self, description: str) -> TaskID:
        return self._progress.add_task(description, total=self._total, count="", note="")


def _condition(child: Child) -> str:
    again = f"  restarted {child.restarts} x" if child.restarts else ""
    return f"{child.cpu_percent:3.0f} % CPU{again}"
