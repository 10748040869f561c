"""Stalled processes: a handler blocks the loop, or a signal has stopped them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from flowherd.ledger import Cell, Clock, Ledger, RecordWriter
from flowherd_supervisor.keeper.standstill import loop_lag_s, standstill
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1000.0


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(processes=2, records=4)


@pytest.fixture
def writer(ledger: Ledger) -> RecordWriter:
    segment = ledger.free_segment()
    assert segment is not None
    segment.open(index=1, incarnation=1, now=NOW - 60)
    segment.put(Cell.PID, os.getpid())
    return RecordWriter(segment)


def runs(writer: RecordWriter, *, since: float, on_loop: bool = True) -> int:
    index, _ = writer.claim("a-1", "w-1", "resize", now=since, lease_s=60.0, workflow_id="flow-1", key="step")
    writer.running(index, now=since, limit_s=300.0)
    writer.segment.put(Cell.ON_LOOP, index + 1 if on_loop else 0)
    return index


def test_a_blocked_loop_is_reported_with_the_activity_and_its_line(writer: RecordWriter) -> None:
    """The last measurement is as old as the block, so the smoothed lag still looks fine."""
    segment = writer.segment
    runs(writer, since=NOW - 30)
    segment.set_clock(Clock.LOOP_READ_AT, NOW - 12)
    segment.set_clock(Clock.LOOP_LAG_S, 0.0004)
    segment.note_block("/app/images.py:7")
    assert standstill(segment, NOW) == {
        "for_s": 12.0, "is_stopped": False, "name": "resize", "activity_id": "a-1", "key": "step",
        "workflow_id": "flow-1", "at": "/app/images.py:7",
    }  # fmt: skip
    assert loop_lag_s(segment, NOW) == 12.0
    segment.set_clock(Clock.LOOP_READ_AT, NOW - 0.2)
    assert standstill(segment, NOW) is None
    assert loop_lag_s(segment, NOW) == 0.0004


def test_a_loop_without_handlers_is_not_measured_and_not_reported(writer: RecordWriter) -> None:
    segment = writer.segment
    segment.set_clock(Clock.LOOP_READ_AT, NOW - 50)
    assert standstill(segment, NOW) is None
    runs(writer, since=NOW - 0.3)
    assert standstill(segment, NOW) is None, "the first handler for a while has just begun"


def test_between_steps_no_activity_is_blamed(writer: RecordWriter) -> None:
    """A thread may hold the GIL; the line that blocked last is not the cause."""
    runs(writer, since=NOW - 30, on_loop=False)
    writer.segment.set_clock(Clock.LOOP_READ_AT, NOW - 9)
    writer.segment.note_block("/app/old.py:7")
    found = standstill(writer.segment, NOW)
    assert found is not None
    assert (found["name"], found["at"]) == ("", "")


@pytest.fixture
def stopped() -> Iterator[int]:
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    os.kill(program.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    yield program.pid
    program.kill()
    program.communicate()


def test_a_stopped_process_is_reported_even_if_it_holds_nothing(writer: RecordWriter, stopped: int) -> None:
    writer.segment.put(Cell.PID, stopped)
    writer.segment.set_clock(Clock.LAST_GOOD_POLL, NOW - 7)
    found = standstill(writer.segment, NOW)
    assert found is not None
    assert (found["for_s"], found["is_stopped"], found["name"]) == (7.0, True, "")


def test_the_documents_of_status_and_explain_have_it(ledger: Ledger, writer: RecordWriter) -> None:
    runs(writer, since=time.monotonic() - 30)
    writer.segment.set_clock(Clock.LOOP_READ_AT, time.monotonic() - 20)
    board = StatusBoard(ledger, "http://engine:8080", "0.1.0", 1, 0.0)
    (child,) = board.document()["children"]
    assert child["standstill"]["name"] == "resize"
    assert child["loop_lag_ms"] >= 20_000
    (one,) = board.activities()["standstills"]
    assert (one["process"], one["name"]) == (1, "resize")
