"""The results of many runs: rates, curves and conclusions, as a table, JSON or picture."""

from __future__ import annotations

import os
import platform
import re
import statistics
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowherd import __version__
from flowherd.counted import counted
from flowherd_supervisor.processes.cpus import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from rich.console import RenderableType

CALM = 0.15  # share of all CPUs; a run is disturbed if other programs used more
ENGINE_IS_FULL = 0.85  # share of the one CPU that its process can use
NOISE = 0.1  # of all CPUs, or of a rate
TITLES = {"cpu": "Computing", "io": "Waiting", "mixed": "Both in turn"}
_MODEL = re.compile(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", re.MULTILINE)
_MEASURED, _IDEAL, _PALE = "#0b6e99", "#9a9a9a", "#5a5a5a"
_WIDTH, _HEIGHT, _CAPTION_CHARS = 4.2, 3.9, 52  # inches of a panel, and caption characters in its width


@dataclass(frozen=True, slots=True)
class Run:
    """A run of one load on a number of processes. Times in seconds, shares of one CPU.

    Attributes:
        activities: number queued, or number that had ended when time was up.
        lost: number neither completed nor failed; 0 if time was up.
        duplicates: accepted outcomes beyond those that the engine counts.
        wall_s: from the supervisor's start to the last completion.
        activities_per_s: rate in the middle of the run, when all processes were busy.
        engine_cpu: share of one CPU used by the engine.
        others_cpu: CPUs used by other programs; None: unknown.

    """

    load: str
    repeat: int
    processes: int
    slots: int
    activities: int
    completed: int
    failed: int
    lost: int
    duplicates: int
    wall_s: float
    activities_per_s: float
    engine_cpu: float
    others_cpu: float | None

    def is_calm(self, cpus: int) -> bool:
        """True if other programs did not disturb it."""
        return self.others_cpu is None or self.others_cpu <= CALM * cpus


@dataclass(frozen=True, slots=True)
class Point:
    """The runs of one load on one number of processes; `left_out` counts disturbed runs, which are not used."""

    processes: int
    median: float
    least: float
    most: float
    speedup: float
    engine_cpu: float
    others_cpu: float
    failed: int
    left_out: int = 0

    @property
    def efficiency(self) -> float:
        """The speed-up per process; 1 if each does as much as one alone."""
        return self.speedup / self.processes

    @property
    def spread(self) -> float:
        """The range of the runs as a share of their median."""
        return (self.most - self.least) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A load on all numbers of processes, the fewest first."""

    load: str
    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        """The fewest processes whose rate is within 5 % of the highest."""
        highest = max(point.median for point in self.points)
        return next(point for point in self.points if point.median >= 0.95 * highest)


def rate(completed_s: Sequence[float], slots: int) -> float:
    """Returns completions per second while all processes were busy, without one completion per slot at each end.

    At the start processes boot, at the end some are idle; each end is at most a fifth of the run.
    """
    times = sorted(completed_s)
    cut = min(slots, len(times) // 5)
    inner = times[cut : len(times) - cut]
    if len(inner) < 2 or inner[-1] <= inner[0]:
        return 0.0
    return (len(inner) - 1) / (inner[-1] - inner[0])


def curves(runs: Iterable[Run], cpus: int) -> list[Curve]:
    """Groups runs by load and number of processes; the speed-up is relative to the load's fewest processes.

    Args:
        runs: runs in any order; disturbed ones count only if a point has no other.
        cpus: number of usable CPUs.

    """
    by_load: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        by_load.setdefault(run.load, {}).setdefault(run.processes, []).append(run)
    found = []
    for load, by_processes in by_load.items():
        chosen = {count: _calm_ones(some, cpus) for count, some in sorted(by_processes.items())}
        fewest = min(chosen)
        base = statistics.median(run.activities_per_s for run in chosen[fewest]) / fewest
        points = tuple(
            _point(count, some, base, len(by_processes[count]) - len(some)) for count, some in chosen.items()
        )
        found.append(Curve(load, points))
    return found


def _calm_ones(runs: list[Run], cpus: int) -> list[Run]:
    return [run for run in runs if run.is_calm(cpus)] or runs


def _point(processes: int, runs: Sequence[Run], base: float, left_out: int) -> Point:
    rates = [run.activities_per_s for run in runs]
    median = statistics.median(rates)
    return Point(
        processes=processes,
        median=median,
        least=min(rates),
        most=max(rates),
        speedup=median / base if base else 0.0,
        engine_cpu=statistics.median(run.engine_cpu for run in runs),
        others_cpu=statistics.median(run.others_cpu or 0.0 for run in runs),
        failed=sum(run.failed + run.lost for run in runs),
        left_out=left_out,
    )


def document(runs: Sequence[Run], cpus: int) -> list[dict[str, Any]]:
    """Returns the list of `flowherd bench --json`: each run with the keys of the demo and those of a curve."""
    base = {curve.load: curve.points[0].median / curve.points[0].processes for curve in curves(runs, cpus)}
    return [
        {
            **asdict(run),
            "wall_s": round(run.wall_s, 3),
            "activities_per_s": round(run.activities_per_s, 2),
            "speedup": round(run.activities_per_s / base[run.load], 3) if base[run.load] else 0.0,
            "engine_cpu": round(run.engine_cpu, 3),
            "others_cpu": None if run.others_cpu is None else round(run.others_cpu, 3),
            "calm": run.is_calm(cpus),
        }
        for run in runs
    ]


# In words


def verdict(curve: Curve, cpus: int) -> str:
    """Returns a sentence with the number of processes to choose and the reason for not using more."""
    best, title = curve.best, TITLES.get(curve.load, curve.load)
    text = f"{title}: {counted(best.processes, 'process')}"
    if len(curve.points) == 1:
        return f"{text} was all that was measured."
    text += f", {best.speedup:.2f} times the rate of one" if best.processes > 1 else ""
    more = [point for point in curve.points if point.processes > best.processes]
    if more:
        return f"{text}; more do not help because {_reason(curve, best, more, cpus)}."
    if best.processes < cpus:
        return f"{text}; more may help, up to {counted(cpus, 'CPU')}, but were not measured."
    return f"{text}; more were not measured."


def doubts(found: list[Curve], cpus: int) -> list[str]:
    """Returns the reasons why the results may be worse than the machine allows; empty after a good run."""
    lines = []
    points = [(curve, point) for curve in found for point in curve.points]
    full = [point for _, point in points if point.engine_cpu >= ENGINE_IS_FULL]
    if full:
        fewest = min(point.processes for point in full)
        lines.append(
            f"From {counted(fewest, 'process')} on the engine, which has one CPU at most, was the "
            "bottleneck: the curve is the engine's, not that of your machine."
        )
    others = max((point.others_cpu for _, point in points), default=0.0)
    if others > NOISE * cpus:
        used = f"{others:.1f} of {counted(cpus, 'CPU')}"
        lines.append(f"Other programs used up to {used}: try again when they are quiet.")
    left_out = sum(point.left_out for _, point in points)
    if left_out:
        lines.append(f"{counted(left_out, 'run')} left out, because other programs disturbed them.")
    wide = max((point.spread for _, point in points), default=0.0)
    if wide > 2 * NOISE:
        lines.append(f"Runs of the same kind differ by up to {wide:.0%}: believe no smaller difference.")
    failed = sum(point.failed for _, point in points)
    if failed:
        lines.append(f"{counted(failed, 'activity')} failed or got lost: the figures are not what you meant.")
    return lines


def _reason(curve: Curve, best: Point, more: list[Point], cpus: int) -> str:
    if max(best.engine_cpu, *(point.engine_cpu for point in more)) >= ENGINE_IS_FULL:
        return "the engine is the bottleneck"
    if best.processes == 1 and curve.load == "io":
        return "one event loop waits for all of them at once"
    if best.processes >= cpus:
        return f"this machine has {cpus} usable CPU{'s' if cpus > 1 else ''}"
    if best.others_cpu > NOISE * cpus:
        return "other programs used the remaining CPUs"
    gain = max(point.median for point in more) / best.median - 1
    if gain <= best.spread:
        return f"what they add ({max(gain, 0):.0%}) is less than runs differ ({best.spread:.0%})"
    return f"they add no more than {gain:.0%}"


# As a table and as a picture


def summary(found: list[Curve], cpus: int, machine: str) -> RenderableType:
    """Returns the summary as text: table, conclusions and warnings."""
    texts = [Text(verdict(curve, cpus), style="bold") for curve in found]
    warned = [Text(line, style="yellow") for line in doubts(found, cpus)]
    return Padding(Group(_table(found), "", *texts, *warned, "", Text(machine, style="dim")), (1, 2))


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


def draw(found: Sequence[Curve], cpus: int, caption: str, paths: Sequence[Path]) -> None:
    """Writes a picture of all loads to each path, in the format of its suffix.

    Args:
        found: the curves, one panel each.
        cpus: number of usable CPUs, at which the ideal line stops rising.
        caption: description of the machine and the number of runs.
        paths: files that end in `.svg` or `.png`.

    """
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(_WIDTH * len(found), _HEIGHT), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _panel(axes, curve, cpus)
    words = textwrap.fill(caption, _CAPTION_CHARS * len(found))
    figure.supxlabel(words, fontsize=7, color=_PALE)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flowherd"}):
        for path in paths:
            is_svg = path.suffix == ".svg"
            figure.savefig(path, dpi=160, metadata={"Date": None} if is_svg else None)


def _panel(axes: Axes, curve: Curve, cpus: int) -> None:
    counts = [point.processes for point in curve.points]
    rates = [point.median for point in curve.points]
    base = rates[0] / counts[0]
    errors = (
        [point.median - point.least for point in curve.points],
        [point.most - point.median for point in curve.points],
    )
    most = 1 if curve.load == "io" else cpus  # waiting needs no CPU, and one loop can wait for all
    ideal = [base * min(count, most) for count in counts]
    axes.plot(counts, ideal, linestyle="--", color=_IDEAL, label=f"ideal on {counted(cpus, 'CPU')}")
    axes.errorbar(
        counts, rates, yerr=errors, marker="o", capsize=4, color=_MEASURED, label="measured, least to most"
    )
    for point in curve.points:
        axes.annotate(
            f"{point.efficiency:.0%}", (point.processes, point.median), (0, -16), ha="center",
            textcoords="offset points", fontsize=8, color=_MEASURED,
        )  # fmt: skip
    axes.set_ylim(0, 1.15 * max(*ideal, *(point.most for point in curve.points)))
    axes.margins(x=0.12)
    axes.set_xticks(counts)
    axes.set_xlabel("processes (below each point: its efficiency)", fontsize=8)
    axes.set_ylabel("activities/s", fontsize=8)
    axes.set_title(textwrap.fill(verdict(curve, cpus), 50), fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    axes.grid(visible=True, axis="y", alpha=0.25)


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns model, CPUs, memory, kernel, Python, flowherd and date, without the host's name."""
    usable, all_of_them = usable_cpus(), os.cpu_count() or 1
    cpus = counted(usable, "CPU") + ("" if usable == all_of_them else f" of {all_of_them}")
    return ", ".join(
        (
            model_of(cpuinfo.read_text(errors="replace")) or platform.machine(),
            cpus,
            f"{psutil.virtual_memory().total / (1 << 30):.0f} GB",
            f"Linux {platform.release().partition('-')[0]}",
            f"Python {platform.python_version()}",
            f"flowherd {__version__}",
            time.strftime("%Y-%m-%d"),
        )
    )


def model_of(cpuinfo: str) -> str:
    """Returns the processor's name without trademarks; "" if the kernel does not report one."""
    found = _MODEL.search(cpuinfo)
    return " ".join(re.sub(r"\((?:R|TM)\)|CPU|@.*", "", found[1]).split()) if found else ""
