"""The curves as a picture, SVG or PNG; it draws, and needs the extra `[bench]`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from flowherd_supervisor.bench.words import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from flowherd_supervisor.bench.runs import Curve

_MEASURED, _IDEAL, _PALE = "#0b6e99", "#9a9a9a", "#5a5a5a"
_WIDTH, _HEIGHT = 4.2, 3.9  # inches of one load
_CAPTION_CHARS = 52  # of each load's width


def draw(found: Sequence[Curve], cpus: int, caption: str, paths: Sequence[Path]) -> None:
    """Write one picture of all loads to each path, in the format of its suffix.

    Args:
        found: one panel for each.
        cpus: usable ones: the ideal line ends its rise there.
        caption: the machine, and how often was measured.
        paths: `.svg` and `.png`.

    """
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
    most = 1 if curve.load == "io" else cpus  # waiting needs no CPU, and one loop waits for all
    ideal = [base * min(count, most) for count in counts]
    axes.plot(counts, ideal, linestyle="--", color=_IDEAL, label=f"ideal on {cpus} CPUs")
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
