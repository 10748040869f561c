"""The demo's count of executions: what a kill explains, and what nothing explains."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from flowherd_supervisor.demo.journal import KILL_EXPLAINS_S, Execution, executions, record, tally

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_recorded_is_read_back_with_its_process(tmp_path: Path) -> None:
    """The journal is the only witness that is not the code under test."""
    journal = tmp_path / "journal"
    assert executions(journal) == []
    record(str(journal), "measure:a.py:0")
    record(str(journal), "measure:b.py:0")
    ran = executions(journal)
    assert [(each.pid, each.key) for each in ran] == [
        (os.getpid(), "measure:a.py:0"),
        (os.getpid(), "measure:b.py:0"),
    ]
    assert ran[0].started_s <= ran[1].started_s


def test_writers_at_the_same_time_keep_their_lines_whole(tmp_path: Path) -> None:
    """One O_APPEND write a line: no lock is needed, and none could be shared with a killed process."""
    journal = str(tmp_path / "journal")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: record(journal, f"key-{n}"), range(400)))
    assert {each.key for each in executions(tmp_path / "journal")} == {f"key-{n}" for n in range(400)}


def test_once_each_is_right() -> None:
    assert tally([Execution(1.0, 7, "a"), Execution(1.1, 7, "b")], ["a", "b"], {}) == (0, 0, 0)


def test_an_activity_that_never_ran_is_counted() -> None:
    """An engine that says completed without an execution has lost work."""
    assert tally([Execution(1.0, 7, "a")], ["a", "b"], {}).never == 1


def test_a_repeat_without_a_kill_is_a_duplicate() -> None:
    assert tally([Execution(1.0, 7, "a"), Execution(2.0, 8, "a")], ["a"], {}) == (0, 1, 0)


def test_a_repeat_after_the_first_process_was_killed_at_work_is_explained() -> None:
    assert tally([Execution(1.0, 7, "a"), Execution(2.0, 8, "a")], ["a"], {7: 1.05}) == (0, 0, 1)


def test_a_kill_long_after_or_before_the_execution_explains_nothing() -> None:
    """Else every activity a killed process ever ran could run twice unnoticed."""
    ran = [Execution(1.0, 7, "a"), Execution(99.0, 8, "a")]
    assert tally(ran, ["a"], {7: 1.0 + KILL_EXPLAINS_S + 0.1}).duplicates == 1
    assert tally(ran, ["a"], {7: 0.9}).duplicates == 1


def test_one_kill_explains_one_repeat_only() -> None:
    ran = [Execution(1.0, 7, "a"), Execution(2.0, 8, "a"), Execution(3.0, 8, "a")]
    assert tally(ran, ["a"], {7: 1.05}) == (0, 1, 1)
    assert tally(ran, ["a"], {7: 1.05, 8: 3.05}) == (0, 0, 2)


def test_a_killed_last_execution_needs_no_repeat() -> None:
    """Its result had arrived, or was kept and delivered by the keeper."""
    assert tally([Execution(1.0, 7, "a")], ["a"], {7: 1.05}) == (0, 0, 0)
