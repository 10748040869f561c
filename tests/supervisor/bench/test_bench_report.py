"""The bench's picture, table and caption: both formats, all figures, no host name."""

from __future__ import annotations

import io
import platform
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from flowherd.errors import ConfigurationError
from flowherd_supervisor.bench.driver import BenchOptions, run_bench
from flowherd_supervisor.bench.report import Curve, Point, describe_machine, draw, model_of, summary
from flowherd_supervisor.demo.driver import App

if TYPE_CHECKING:
    from pathlib import Path

POINTS = (Point(1, 20.0, 19.0, 21.0, 1.0, 0.05, 0.0, 0), Point(2, 38.0, 37.0, 38.5, 1.9, 0.1, 0.0, 0))
CURVES = [Curve("cpu", POINTS), Curve("io", POINTS[:1])]


def test_the_table_says_every_figure_and_the_verdicts() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(summary(CURVES, 2, "a machine"))
    text = " ".join(out.getvalue().split())
    assert "Computing 1 20.0 19-21 1.00 x 100% 5%" in text
    assert "2 38.0 37-38 1.90 x 95% 10%" in text
    assert "Computing: 2 processes, 1.90 times the rate of one; more were not measured." in text
    assert text.endswith("a machine")


def test_the_picture_is_drawn_in_both_formats(tmp_path: Path) -> None:
    """With the ideal line, the error bars' legend, the efficiency and the machine."""
    pytest.importorskip("matplotlib", reason="needs the extra [bench]")
    paths = [tmp_path / "scaling.svg", tmp_path / "scaling.png"]
    draw(CURVES, 2, "a machine; medians of 3 runs", paths)
    svg = paths[0].read_text()
    for words in (
        "ideal on 2 CPUs",
        "measured, least to most",
        "95%",
        "a machine; medians of 3 runs",
        "LineCollection",
    ):
        assert words in svg, words
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    """A picture that is kept in a repository changes only with its figures."""
    pytest.importorskip("matplotlib", reason="needs the extra [bench]")
    one, two = tmp_path / "1.svg", tmp_path / "2.svg"
    draw(CURVES, 2, "a machine", [one, two])
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("model name\t: Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz\nflags: x", "Intel Xeon E5-2680 v4"),
        ("Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n", "Raspberry Pi 5 Model B Rev 1.0"),
        ("processor : 0\n", ""),
    ],
)
def test_the_processor_is_named_without_trademarks(text: str, model: str) -> None:
    assert model_of(text) == model


def test_the_caption_names_the_machine_but_not_the_host() -> None:
    caption = describe_machine()
    assert "CPU" in caption
    assert f"Python {platform.python_version()}" in caption
    assert platform.node() not in caption


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BenchOptions(loads=("cpu", "gpu")), "no load is called 'gpu': cpu, io, mixed"),
        (BenchOptions(most=0), "at least one process"),
        (BenchOptions(repeat=0), "at least 1"),
        (BenchOptions(seconds=0.0), "more than 0"),
        (BenchOptions(activity="resize"), "needs an APP"),
        (BenchOptions(app=App("my:app", "py-std")), "needs --activity NAME"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_starts(
    options: BenchOptions, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run_bench(options)


def test_a_picture_in_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.pdf must end in \.svg or \.png"):
        run_bench(BenchOptions(pictures=(tmp_path / "x.pdf",)))
