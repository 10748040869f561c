"""The demo's output: live bars, table, document, and verdict."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from flowherd_supervisor.demo.report import Report, Result, Screen, document, summary

ANSWER = {
    "most_complex": [[9, "a.py", "f", 3]],
    "near_duplicates": 3,
    "closest_pairs": [[1.0, "a.py:3 f", "b.py:9 g"]],
    "sizes": {"functions": 1200},
    "signatures": {"functions": 3061, "bytes": 2_254_350, "sha256": "21"},
}
ONE = Result(1, 100, 100, 0, 0, 0, 0, 0, 10.0, 0.2, correct=True, answer=ANSWER)
TWO = replace(ONE, processes=2, wall_s=5.5)
REPORT = Report(ONE, TWO, usable_cpus=2, files=50, reference_s=9.0, seed=None)


def drawn(report: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(report))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return] # it is the StringIO above


def row(process: int, completed: int, restarts: int = 0) -> dict[str, Any]:
    return {"process": process, "completed": completed, "cpu_percent": 97.0, "restarts": restarts}


def test_the_document_has_the_promised_keys() -> None:
    """Scripts rely on them, and `bench` prints the same."""
    promised = {"processes", "activities", "completed", "failed", "lost", "duplicates", "wall_s"}
    promised |= {"activities_per_s"}
    shown = document(REPORT)
    assert promised | {"baseline_one_process", "speedup"} <= shown.keys()
    assert promised <= shown["baseline_one_process"].keys()
    assert shown["speedup"] == pytest.approx(10 / 5.5, abs=0.001)


def test_only_right_answers_without_losses_are_good() -> None:
    """The exit code depends on it; a wrong baseline proves no speed-up."""
    assert REPORT.good
    assert not replace(REPORT, main=replace(TWO, correct=False)).good
    assert not replace(REPORT, main=replace(TWO, lost=1)).good
    assert not replace(REPORT, baseline=replace(ONE, correct=False)).good


def test_the_summary_names_speed_up_answer_and_what_to_try_next() -> None:
    text = drawn(REPORT)
    for word in (
        "1.82 x",
        "correct",
        "100 of 100",
        "f (a.py:3) with complexity 9",
        "a.py:3 f and b.py:9 g, and 2 more pairs",
        "A file of 3,061 signatures, 2.3 MB, went to the engine and came back byte for byte.",
        "flowherd run my_app:registry -p 4",
    ):
        assert word in text
    assert "processes killed" not in text


def test_a_wrong_answer_is_not_drawn_as_a_success() -> None:
    text = drawn(replace(REPORT, main=replace(TWO, correct=False, answer={})))
    assert "WRONG" in text
    assert "bug in flowherd" in text


def test_on_one_cpu_no_speed_up_is_promised() -> None:
    """A container with one CPU is not a broken installation."""
    text = drawn(Report(ONE, ONE, usable_cpus=1, files=50, reference_s=9.0, seed=None))
    assert "no speed-up is to be expected" in text
    assert "speed-up  " not in text


def test_a_process_that_was_replaced_does_not_fall_back_in_the_picture() -> None:
    """A shrinking bar would look like lost work."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Screen(console) as screen:
        stage = screen.stage("on 2 processes", 100)
        stage.update(60, "30/s", [row(0, 40), row(1, 20)])
        console.file.truncate(0)
        stage.update(61, "30/s", [row(0, 1, restarts=1), row(1, 20)])
        text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO above
    assert "restarted 1 x" in text
    assert " 40 " in text
    assert "61/100" in text


def test_without_a_terminal_a_stage_is_two_plain_lines() -> None:
    """A log file must not fill with control characters."""
    console = Console(file=io.StringIO(), width=120)
    with Screen(console) as screen:
        stage = screen.stage("on 1 process", 10)
        for done in range(10):
            stage.update(done, "1/s", [row(0, done)])
        stage.finish(10, "26.0/s, 0.4 s")
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO above
    assert text == "on 1 process …\non 1 process: 10/10, 26.0/s, 0.4 s\n"


def test_a_pipe_gets_whole_lines() -> None:
    """A wrapped line ends with a blank, and grep finds half of it."""
    console = Console(file=io.StringIO(), width=40)
    Screen(console).say(
        "a title that is longer than forty columns are", "and a line that is as long as the title is"
    )
    assert console.file.getvalue().splitlines() == [
        "a title that is longer than forty columns are", "and a line that is as long as the title is",
    ]  # fmt: skip
