"""The curves as a table for people; it draws, and measures nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowherd_supervisor.bench.words import TITLES, doubts, verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flowherd_supervisor.bench.runs import Curve


def summary(found: list[Curve], cpus: int, machine: str) -> RenderableType:
    """What a person reads at the end: figures, their meaning, and what is wrong with them."""
    said = [Text(verdict(curve, cpus), style="bold") for curve in found]
    warned = [Text(line, style="yellow") for line in doubts(found, cpus)]
    return Padding(Group(_table(found), "", *said, *warned, "", Text(machine, style="dim")), (1, 2))


def _table(found: list[Curve]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("load", no_wrap=True)
    for name in ("processes", "a second", "least-most", "speed-up", "efficiency", "engine"):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in found:
        for number, point in enumerate(curve.points):
            table.add_row(
                TITLES.get(curve.load, curve.load) if number == 0 else "",
                str(point.processes),
                f"{point.median:.1f}",
                f"{point.least:.0f}-{point.most:.0f}",
                f"{point.speedup:.2f} x",
                f"{point.efficiency:.0%}",
                f"{point.engine_cpu:.0%}",
                style="bold" if point is curve.best else "",
            )
    return table
