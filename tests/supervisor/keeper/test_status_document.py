"""The document of `status --json`: its keys are public, its sums survive the processes that counted."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from flowherd.ledger import Cause, Cell, Clock, Host, Ledger, RecordWriter
from flowherd.link.messages import SupervisorState
from flowherd_supervisor.keeper.status import MEASURED_EVERY_S, StatusBoard

if TYPE_CHECKING:
    from flowherd.ledger import Segment

SUPERVISOR_PID, NO_PID = 4710, 2**22 + 1  # beyond the kernel's largest pid


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(processes=4, records=4)


@pytest.fixture
def board(ledger: Ledger) -> StatusBoard:
    return StatusBoard(ledger, "http://engine:8080", "0.1.0", SUPERVISOR_PID, time.monotonic() - 12.0)


def worker(
    ledger: Ledger, index: int, incarnation: int = 1, *, pid: int = NO_PID, ready: bool = True
) -> Segment:
    """A live segment, as the supervisor and its worker have filled it."""
    segment = ledger.free_segment()
    assert segment is not None
    segment.open(index=index, incarnation=incarnation, now=time.monotonic())
    segment.put(Cell.PID, pid)
    if ready:
        RecordWriter(segment)
        segment.set_clock(Clock.READY_AT, time.monotonic())
        segment.set_clock(Clock.LAST_GOOD_POLL, time.monotonic())
        segment.set_clock(Clock.POLL_RTT_S, 0.0031)
    return segment


def told(wanted: int = 2, **more: object) -> SupervisorState:
    return SupervisorState(state="running", wanted=wanted, total_slots=8, restarts={}, **more)  # type: ignore[arg-type]


def test_the_keys_are_those_of_the_interface(ledger: Ledger, board: StatusBoard) -> None:
    """Adding is free, renaming is not."""
    worker(ledger, 0, pid=os.getpid())
    document = board.document()
    assert document.keys() >= {
        "version", "pid", "state", "uptime_s", "engine", "concurrency", "processes", "restarts", "totals", "children",
    }  # fmt: skip
    assert document["engine"].keys() >= {"url", "reachable", "rtt_ms"}
    assert document["concurrency"].keys() >= {"total", "in_use"}
    assert document["processes"].keys() >= {"wanted", "ready"}
    assert document["totals"].keys() >= {"claimed", "completed", "failed", "lost", "settled_after_crash"}
    (child,) = document["children"]
    assert child.keys() >= {
        "process", "pid", "incarnation", "phase", "slots", "in_flight", "completed", "failed", "loop_lag_ms",
        "rss_mb", "uss_mb", "cpu_percent", "uptime_s", "restarts",
    }  # fmt: skip
    assert (document["pid"], document["uptime_s"]) == (SUPERVISOR_PID, pytest.approx(12.0, abs=1.0))
    assert document["engine"] == {"url": "http://engine:8080", "reachable": True, "rtt_ms": 3.1}


def test_before_the_supervisors_first_message_it_is_starting(board: StatusBoard) -> None:
    """The pages are served before the supervisor has sent its state."""
    document = board.document()
    assert (document["state"], document["processes"]) == ("starting", {"wanted": 0, "ready": 0})
    assert document["children"] == []


def test_the_supervisors_facts_come_from_its_last_message(ledger: Ledger, board: StatusBoard) -> None:
    """Restarts are counted by process."""
    worker(ledger, 1)
    board.supervisor = SupervisorState(state="draining", wanted=3, total_slots=12, restarts={1: 2, 7: 5})
    document = board.document()
    assert (document["state"], document["restarts"]) == ("draining", 7)
    assert document["concurrency"]["total"] == 12
    assert document["children"][0]["restarts"] == 2


def test_children_are_sorted_and_an_overlap_shows_as_two_rows(ledger: Ledger, board: StatusBoard) -> None:
    """Labels are processes; a reload has an old and a new incarnation."""
    for index, incarnation in ((1, 2), (0, 1), (1, 1)):
        worker(ledger, index, incarnation, ready=incarnation == 1)
    rows = [(row["process"], row["incarnation"], row["phase"]) for row in board.document()["children"]]
    assert rows == [(0, 1, "running"), (1, 1, "running"), (1, 2, "starting")]


def test_a_process_that_was_replaced_or_scaled_away_is_finishing_and_not_ready(
    ledger: Ledger, board: StatusBoard
) -> None:
    """Otherwise two of one process are ready, and the old one seems to be a part of the host."""
    for index, incarnation in ((0, 1), (0, 2), (1, 1), (2, 1)):
        worker(ledger, index, incarnation, ready=(index, incarnation) != (1, 2))
    worker(ledger, 1, 2, ready=False)
    board.supervisor = told(wanted=2)
    document = board.document()
    assert document["processes"] == {"wanted": 2, "ready": 2}
    assert [(row["process"], row["incarnation"], row["phase"]) for row in document["children"]] == [
        (0, 1, "finishing"),
        (0, 2, "running"),
        (1, 1, "running"),
        (1, 2, "starting"),
        (2, 1, "finishing"),
    ]


def test_sums_never_fall_when_a_process_ends(ledger: Ledger, board: StatusBoard) -> None:
    """A decreasing counter looks like a reset."""
    segment = worker(ledger, 0)
    for cell, count in ((Cell.CLAIMED, 9), (Cell.COMPLETED, 6), (Cell.FAILED, 2), (Cell.LOST, 1)):
        segment.put(cell, count)
    expected = {"claimed": 9, "completed": 6, "failed": 2, "lost": 1, "settled_after_crash": 0}
    assert board.document()["totals"] == expected
    segment.end(Cause.SIGNAL, 9)
    assert board.document()["totals"] == expected
    ledger.absorb(segment)
    ledger.put(Host.SETTLED, 3)
    assert board.document()["totals"] == expected | {"settled_after_crash": 3}
    worker(ledger, 0, 2)
    document = board.document()
    assert document["totals"] == expected | {"settled_after_crash": 3}
    assert document["children"][0]["completed"] == 6, "a process's row counts its earlier incarnations"


def test_memory_and_cpu_are_measured_from_outside_and_missing_once_the_process_is_gone(
    ledger: Ledger, board: StatusBoard
) -> None:
    """A blocked child is measured too."""
    worker(ledger, 0, pid=os.getpid())
    worker(ledger, 1)
    here, gone = board.document()["children"]
    assert here["rss_mb"] > 5
    assert here["uss_mb"] > 1
    assert here["cpu_percent"] >= 0
    assert (gone["rss_mb"], gone["uss_mb"], gone["cpu_percent"]) == (None, None, None)


def test_however_often_it_is_asked_for_a_process_is_measured_once_a_second(
    ledger: Ledger, board: StatusBoard
) -> None:
    """Measuring 64 processes for each of 20 requests a second would delay heartbeats."""
    worker(ledger, 0, pid=os.getpid())
    board.document()
    meter = board._meters[os.getpid()]
    first = meter.found
    meter.read_at += 60.0  # not long ago, however slow this machine is
    board.document()
    assert meter.found is first
    meter.read_at -= 60.0 + MEASURED_EVERY_S
    board.document()
    assert meter.found is not first


def test_processes_that_ended_are_forgotten(ledger: Ledger, board: StatusBoard) -> None:
    """A crash loop of weeks must not fill the keeper's memory."""
    segment = worker(ledger, 0, pid=os.getpid())
    board.document()
    segment.end(Cause.SIGNAL)
    board.document()
    assert board._meters == {}


def test_a_worker_that_is_not_up_yet_shows_nothing_of_the_segments_last_tenant(
    ledger: Ledger, board: StatusBoard
) -> None:
    """The segment is reused before the new worker has opened it."""
    segment = worker(ledger, 0)
    segment.put(Cell.COMPLETED, 5)
    segment.put(Cell.RUNNING, 3)
    segment.end(Cause.SIGNAL)
    segment.settled()
    worker(ledger, 0, 2, ready=False)
    (row,) = board.document()["children"]
    assert (row["phase"], row["completed"], row["in_flight"], row["slots"]) == ("starting", 0, 0, 0)


@pytest.mark.parametrize(
    ("wanted", "up", "ready"),
    [(4, 4, True), (4, 2, True), (4, 1, False), (3, 1, False), (1, 1, True), (1, 0, False)],
)
def test_c21_with_more_than_half_the_processes_down_it_is_not_ready(
    ledger: Ledger, board: StatusBoard, wanted: int, up: int, *, ready: bool
) -> None:
    """Faults C21: a load balancer must switch before all processes are down."""
    board.supervisor = told(wanted)
    for index in range(wanted):
        worker(ledger, index, ready=index < up)
    assert board.is_ready() is ready


def test_two_incarnations_of_one_process_count_as_one_process(ledger: Ledger, board: StatusBoard) -> None:
    """Otherwise a reload would hide that half the host is down."""
    board.supervisor = told(4)
    worker(ledger, 0, 1)
    worker(ledger, 0, 2)
    assert not board.is_ready()


def test_a_process_that_is_still_being_made_is_no_child_yet(ledger: Ledger, board: StatusBoard) -> None:
    """The zygote has not answered yet; a pid of 0 would address a whole process group in a kill."""
    worker(ledger, 0, pid=0, ready=False)
    assert board.document()["children"] == []


def test_of_threads_that_share_a_process_only_the_first_row_has_its_memory(
    ledger: Ledger, board: StatusBoard
) -> None:
    """The sum of the rows counts it once; its restarts are those of each row."""
    worker(ledger, 0, pid=os.getpid())
    worker(ledger, 1, pid=os.getpid())
    board.supervisor = SupervisorState("running", 2, 8, {0: 3}, threads=True)
    document = board.document()
    assert [row["rss_mb"] is None for row in document["children"]] == [False, True]
    assert [row["restarts"] for row in document["children"]] == [3, 3]
    assert (document["parallel"], document["restarts"]) == ("threads", 3)
