"""What a curve means, in plain words; pure, and careful to claim no more than was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowherd_supervisor.bench.runs import Curve, Point

ENGINE_IS_FULL = 0.85  # of the one CPU that its one process can use
NOISE = 0.1  # of all CPUs, or of a rate
TITLES = {"cpu": "Computing", "io": "Waiting", "mixed": "Both in turn"}


def verdict(curve: Curve, cpus: int) -> str:
    """One or two sentences: how many processes, and why not more."""
    best, title = curve.best, TITLES.get(curve.load, curve.load)
    said = f"{title}: {_processes(best)}"
    if len(curve.points) == 1:
        return f"{said} was all that was measured."
    more = [point for point in curve.points if point.processes > best.processes]
    if not more:
        if best.processes < cpus:
            return f"{said}, {_gain(best)}; more may help, up to {cpus} CPUs, but were not measured."
        return f"{said}, {_gain(best)}; more were not measured."
    return f"{said}{_gained(best)}; more do not help because {_reason(curve, best, more, cpus)}."


def doubts(found: list[Curve], cpus: int) -> list[str]:
    """What makes the figures worse than the machine is; empty after a good run."""
    lines = []
    points = [(curve, point) for curve in found for point in curve.points]
    full = [point for _, point in points if point.engine_cpu >= ENGINE_IS_FULL]
    if full:
        fewest = min(point.processes for point in full)
        lines.append(
            f"From {fewest} process{'es' if fewest > 1 else ''} on the engine, which has one CPU at most, was the "
            "bottleneck: the curve is the engine's, not that of your machine."
        )
    others = max((point.others_cpu for _, point in points), default=0.0)
    if others > NOISE * cpus:
        lines.append(f"Other programs used up to {others:.1f} of {cpus} CPUs: try again when they are quiet.")
    left_out = sum(point.left_out for _, point in points)
    if left_out:
        lines.append(f"{left_out} runs were left out, because other programs disturbed them.")
    wide = max((point.spread for _, point in points), default=0.0)
    if wide > 2 * NOISE:
        lines.append(f"Runs of the same kind differ by up to {wide:.0%}: believe no smaller difference.")
    failed = sum(point.failed for _, point in points)
    if failed:
        lines.append(f"{failed} activities failed or got lost: what is measured is not what you meant.")
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


def _processes(point: Point) -> str:
    return "1 process" if point.processes == 1 else f"{point.processes} processes"


def _gain(point: Point) -> str:
    return f"{point.speedup:.2f} times the rate of one"


def _gained(point: Point) -> str:
    return "" if point.processes == 1 else f", {_gain(point)}"
