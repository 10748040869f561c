"""What the demo shows: the live bars, the table, the document, and when it exits with 0."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from flowherd.errors import ConfigurationError
from flowherd_supervisor.cli import engine_extra as extra
from flowherd_supervisor.demo import driver
from flowherd_supervisor.demo.chaos import Chaos
from flowherd_supervisor.demo.client import Child, Status, decode_status
from flowherd_supervisor.demo.progress import Screen
from flowherd_supervisor.demo.report import Report, Result, document, summary

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


def row(process: int, pid: int, incarnation: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"process": process, "pid": pid, "incarnation": incarnation, "phase": "running", "slots": 4}
    row |= {"in_flight": 2, "completed": 5, "failed": 0, "loop_lag_ms": 0.6, "rss_mb": 24.2, "uss_mb": 4.1}
    return row | {"cpu_percent": 97.0, "uptime_s": 12.0, "restarts": 0} | changes


def status(*rows: dict[str, Any]) -> Status:
    totals = {"claimed": 0, "completed": 9, "failed": 0, "lost": 0, "settled_after_crash": 0}
    return decode_status(
        {"pid": 1, "processes": {"wanted": 2, "ready": 2}, "totals": totals, "children": list(rows)}
    )


def test_the_document_has_the_promised_keys() -> None:
    """interface.md: people script against them, and `bench` prints the same."""
    promised = {"processes", "activities", "completed", "failed", "lost", "duplicates", "wall_s"}
    promised |= {"activities_per_s"}
    shown = document(REPORT)
    assert promised | {"baseline_one_process", "speedup"} <= shown.keys()
    assert promised <= shown["baseline_one_process"].keys()
    assert shown["speedup"] == pytest.approx(10 / 5.5, abs=0.001)


def test_only_right_answers_without_losses_are_good() -> None:
    """The exit code hangs on it; a baseline that went wrong proves no speed-up."""
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
        "a.py:3 f and b.py:9 g, and 2 pairs more",
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
    """A container with one CPU is no broken installation."""
    text = drawn(Report(ONE, ONE, usable_cpus=1, files=50, reference_s=9.0, seed=None))
    assert "no speed-up is to be expected" in text
    assert "speed-up  " not in text


def test_an_overlap_of_two_incarnations_is_one_row() -> None:
    """A process's old and new process both have a row while its replacement runs (design.md §4)."""
    children = status(row(0, 11, 2, completed=7), row(1, 12), row(0, 10, 1)).children
    assert [(child.process, child.pid) for child in children] == [(0, 11), (1, 12)]


def test_a_process_that_was_replaced_does_not_fall_back_in_the_picture() -> None:
    """A bar that shrinks reads as lost work."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Screen(console) as screen:
        stage = screen.stage("on 2 processes", 100)
        stage.update(60, "30/s", [Child(0, 10, "running", 40, 99.0, 0), Child(1, 11, "running", 20, 98.0, 0)])
        console.file.truncate(0)
        stage.update(61, "30/s", [Child(0, 12, "running", 1, 99.0, 1), Child(1, 11, "running", 20, 98.0, 0)])
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
            stage.update(done, "1/s", [Child(0, 10, "running", done, 99.0, 0)])
        stage.finish(10, "26.0/s, 0.4 s")
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO above
    assert text == "on 1 process …\non 1 process: 10/10, 26.0/s, 0.4 s\n"


def test_chaos_waits_a_pause_kills_only_running_children_and_notes_whom() -> None:
    """A child that is only starting would be a boot failure, not an experiment."""
    killed: list[tuple[int, int]] = []

    def kill(pid: int, supervisor: int) -> bool:
        killed.append((pid, supervisor))
        return True

    chaos = Chaos(seed=1, kill=kill)
    now = status(row(0, 10, phase="starting"), row(1, 12))
    chaos.act(now, 100.0)
    chaos.act(now, 101.0)
    assert killed == []
    chaos.act(now, 103.0)
    chaos.act(now, 103.1)
    assert killed == [(12, 1)]
    assert chaos.kills.keys() == {12}


def test_a_kill_that_met_nobody_is_not_noted() -> None:
    """Else it would explain a repeat that it did not cause."""
    chaos = Chaos(seed=1, kill=lambda _pid, _supervisor: False)
    chaos.act(status(row(0, 10)), 100.0)
    chaos.act(status(row(0, 10)), 103.0)
    assert chaos.kills == {}


@pytest.mark.parametrize(
    ("package", "processes", "remedy"),
    [("no_such_module", 2, "pip install 'flowherd[engine]'"), ("json", 0, "-p: the demo needs at least one")],
)
def test_what_cannot_run_says_what_to_do_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, package: str, processes: int, remedy: str
) -> None:
    """The engine is an extra: the first command of a newcomer must not end in a traceback."""
    monkeypatch.setattr(extra, "PACKAGES", (package,))
    with pytest.raises(ConfigurationError, match=re.escape(remedy)):
        driver.run_demo(driver.DemoOptions(processes=processes))
