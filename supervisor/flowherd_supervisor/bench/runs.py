"""What one run gave, and what several runs say together; pure figures, no words and no pictures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CALM = 0.15  # of all CPUs: where other programs used more, a run tells of them


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one load on a number of processes. Times in seconds, shares of one CPU.

    Attributes:
        activities: that were queued and, where the time was up, had ended.
        lost: neither completed nor failed; 0 where the time was up.
        duplicates: outcomes that were accepted beyond those the engine counts.
        wall_s: from the supervisor's start to the last completion.
        activities_per_s: in the middle of the run, when all processes were busy.
        engine_cpu: what the engine took of one CPU.
        others_cpu: what programs that are no part of this took of all CPUs, in CPUs; None: unknown.

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
        """Whether other programs left it alone."""
        return self.others_cpu is None or self.others_cpu <= CALM * cpus


@dataclass(frozen=True, slots=True)
class Point:
    """The runs of one load on one number of processes; `left_out`: others that were disturbed."""

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
        """The gain for each process, 1 where each does as much as one alone."""
        return self.speedup / self.processes

    @property
    def spread(self) -> float:
        """How far runs lie apart, as a share of their median."""
        return (self.most - self.least) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One load on all numbers of processes, the fewest first."""

    load: str
    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        """The fewest processes whose rate is within 5 % of the highest."""
        highest = max(point.median for point in self.points)
        return next(point for point in self.points if point.median >= 0.95 * highest)


def rate(completed_s: Sequence[float], slots: int) -> float:
    """Completions a second while all were busy: without the first and the last ones, one for each slot.

    At the beginning processes start, at the end some have nothing left; each is at most a fifth of the run.
    """
    times = sorted(completed_s)
    cut = min(slots, len(times) // 5)
    inner = times[cut : len(times) - cut]
    if len(inner) < 2 or inner[-1] <= inner[0]:
        return 0.0
    return (len(inner) - 1) / (inner[-1] - inner[0])


def curves(runs: Iterable[Run], cpus: int) -> list[Curve]:
    """The runs by load and number of processes; the speed-up is against the fewest processes of the load.

    Args:
        runs: in any order; those that other programs disturbed count only where there is no calm one.
        cpus: usable ones.

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
    """The list of `flowherd bench --json`: each run with the keys of the demo, and what a curve needs."""
    base = {curve.load: curve.points[0].median / curve.points[0].processes for curve in curves(runs, cpus)}
    return [
        {
            "load": run.load,
            "repeat": run.repeat,
            "processes": run.processes,
            "slots": run.slots,
            "activities": run.activities,
            "completed": run.completed,
            "failed": run.failed,
            "lost": run.lost,
            "duplicates": run.duplicates,
            "wall_s": round(run.wall_s, 3),
            "activities_per_s": round(run.activities_per_s, 2),
            "speedup": round(run.activities_per_s / base[run.load], 3) if base[run.load] else 0.0,
            "engine_cpu": round(run.engine_cpu, 3),
            "others_cpu": None if run.others_cpu is None else round(run.others_cpu, 3),
            "calm": run.is_calm(cpus),
        }
        for run in runs
    ]
