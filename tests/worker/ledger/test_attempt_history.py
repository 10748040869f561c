"""The history of ended attempts: bounded, whole, and kept through crashes and new keepers."""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise

import pytest
from worker_kit import child_that, open_segment

from flowherd.activities_and_outcomes import Failed, Raised
from flowherd.ledger import Cause, Ledger, RecordWriter, Segment, Standing
from flowherd.ledger.attempt_history import (
    HOST_BYTES,
    MOST_ATTEMPTS,
    MOST_FAILURES,
    End,
    decoded,
    history_bytes,
)

RAISED = Raised("ValueError", "no such size", "Traceback …")
FAILURE = Failed("EXECUTION_ERROR", "no such size", retryable=True, raised=RAISED)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(processes=2, records=4)


def live(
    writer: RecordWriter,
    number: int,
    end: End = End.COMPLETED,
    failure: Failed | None = None,
    name: str = "resize",
) -> None:
    """The life of an attempt, from its claim to the engine's answer."""
    at = 10.0 * number
    index, sequence = writer.claim(
        f"a-{number}", "w-1", name, now=at, lease_s=60.0, workflow_id=f"flow-{number}", key="step"
    )
    writer.running(index, now=at + 1, limit_s=300.0)
    writer.clear(index)
    writer.remember(index, sequence, at + 1, at + 2, at + 3, end, failure)


def test_an_entry_says_all_that_is_known_of_an_attempt(ledger: Ledger) -> None:
    writer = RecordWriter(open_segment(ledger, index=1))
    live(writer, 1)
    live(writer, 2, End.FAILED, FAILURE)
    ledger.remember(0.0)
    first, second = decoded(ledger.history.attempts.entries())
    assert (first.activity_id, first.workflow_id, first.name, first.key) == (
        "a-1",
        "flow-1",
        "resize",
        "step",
    )
    assert (first.claimed_at, first.begun_at, first.ended_at, first.closed_at) == (10.0, 11.0, 12.0, 13.0)
    assert (first.process, first.end, first.is_retryable) == (1, End.COMPLETED, False)
    assert (second.end, second.is_retryable, second.code) == (End.FAILED, True, "")
    (failure,) = decoded(ledger.history.failures.entries())
    assert (failure.workflow_id, failure.code, failure.kind) == ("flow-2", FAILURE.code, "ValueError")
    assert failure.message == "no such size"


@pytest.mark.parametrize(
    ("at", "kept"),
    [("/srv/a.py:19 in f", "/srv/a.py:19 in f"), ("/x" * 200 + "/a.py:1 in f", "/a.py:1 in f")],
)
def test_a_failure_keeps_its_line_of_code_also_beside_a_long_message(
    ledger: Ledger, at: str, kept: str
) -> None:
    """The end of a long path names the file, the line and the function."""
    message = "no " * 400
    live(
        RecordWriter(open_segment(ledger)), 1, End.FAILED, Failed("NO_SIZE", message, retryable=False, at=at)
    )
    ledger.remember(0.0)
    [failure] = decoded(ledger.history.failures.entries())
    assert failure.at.endswith(kept)
    assert message.startswith(failure.message)
    assert len(failure.message) > 200


def test_a_last_beat_is_kept_for_attempts_that_have_lasted(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    writer = RecordWriter(segment)
    index, sequence = writer.claim("a-1", "w-1", "resize", now=10.0, lease_s=60.0)
    record = segment.record(index)
    assert record is not None
    segment.judge(record, Standing.GOOD, 29.0)
    writer.remember(index, sequence, 11.0, 39.0, 40.0, End.COMPLETED, None)
    (entry,) = decoded(segment.history.attempts.entries())
    assert entry.beat_at == 29.0


def test_the_attempts_of_an_ended_process_do_not_wait_for_its_settlement(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    live(RecordWriter(segment), 1)
    segment.end(Cause.SIGNAL)
    ledger.remember(0.0)
    assert [one.activity_id for one in decoded(ledger.history.attempts.entries())] == ["a-1"]


def test_the_last_attempts_of_an_ended_process_are_moved_before_its_segment_is_freed(ledger: Ledger) -> None:
    """Free segments are not looked at again."""
    segment = open_segment(ledger)
    live(RecordWriter(segment), 1)
    segment.end(Cause.SIGNAL)
    ledger.absorb(segment)
    [found] = decoded(ledger.history.attempts.entries())
    assert found.activity_id == "a-1"
    assert segment.history.attempts.waiting() == []


def test_the_host_keeps_ten_thousand_attempts_in_memory_that_never_grows(ledger: Ledger) -> None:
    writer = RecordWriter(open_segment(ledger))
    count = MOST_ATTEMPTS + 1234
    for number in range(count):
        live(writer, number)
        if number % 100 == 0:
            ledger.remember(0.0)
    ledger.remember(0.0)
    attempts = ledger.history.attempts
    found = decoded(attempts.entries())
    assert [one.activity_id for one in found] == [f"a-{n}" for n in range(count - MOST_ATTEMPTS, count)]
    assert sum(map(len, attempts.entries())) == MOST_ATTEMPTS * attempts.entry_bytes
    assert HOST_BYTES < 4 << 20
    assert history_bytes() < 256 << 10


def test_successes_displace_no_failure(ledger: Ledger) -> None:
    writer = RecordWriter(open_segment(ledger))
    live(writer, 0, End.FAILED, FAILURE)
    for number in range(1, MOST_ATTEMPTS + 500):
        live(writer, number)
        if number % 100 == 0:
            ledger.remember(0.0)
    assert [one.activity_id for one in decoded(ledger.history.failures.entries())] == ["a-0"]


def test_failures_are_bounded_too(ledger: Ledger) -> None:
    writer = RecordWriter(open_segment(ledger))
    for number in range(MOST_FAILURES + 100):
        live(writer, number, End.FAILED, FAILURE)
        ledger.remember(0.0)
    assert len(ledger.history.failures.entries()) == MOST_FAILURES


def test_more_than_a_worker_s_ring_between_two_scans_is_counted_as_missed(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    writer = RecordWriter(segment)
    own = segment.history.attempts
    for number in range(own.slots + 99):
        live(writer, number)
    ledger.remember(0.0)
    found = decoded(ledger.history.attempts.entries())
    assert [one.activity_id for one in found] == [f"a-{n}" for n in range(100, own.slots + 99)]
    assert own.missed == 100


def test_the_last_entries_of_a_killed_process_are_there_and_the_next_one_goes_on(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    reading, writing = os.pipe()

    def work() -> None:
        writer = RecordWriter(segment)
        live(writer, 1)
        live(writer, 2, End.FAILED, FAILURE)
        os.write(writing, b"!")
        signal.pause()

    with child_that(work):
        assert os.read(reading, 1) == b"!"
    segment.end(Cause.SIGNAL, signal.SIGKILL)
    ledger.remember(0.0)
    ledger.absorb(segment)
    segment.open(index=0, incarnation=2, now=5.0)
    live(RecordWriter(segment), 3)
    ledger.remember(0.0)
    found = decoded(ledger.history.attempts.entries())
    assert [one.activity_id for one in found] == ["a-1", "a-2", "a-3"]
    os.close(reading)
    os.close(writing)


def test_another_keeper_goes_on_where_the_one_before_was_killed(ledger: Ledger) -> None:
    """All of it lies in the map that both inherit: the new one was forked before the old one wrote anything."""
    writer = RecordWriter(open_segment(ledger))
    live(writer, 1)

    def keep() -> None:
        ledger.remember(0.0)

    for number in (2, 3):
        with child_that(keep) as pid:
            assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is not None
        live(writer, number)
    ledger.remember(0.0)
    found = decoded(ledger.history.attempts.entries())
    assert [one.activity_id for one in found] == ["a-1", "a-2", "a-3"]


def test_what_was_not_moved_yet_can_be_read_too(ledger: Ledger) -> None:
    writer = RecordWriter(open_segment(ledger))
    live(writer, 1)
    ledger.remember(0.0)
    live(writer, 2, End.FAILED, FAILURE)
    assert [one.activity_id for one in decoded(ledger.ended_attempts())] == ["a-2", "a-1"]
    assert [one.activity_id for one in decoded(ledger.ended_failures())] == ["a-2"]
    assert [one.activity_id for one in decoded(ledger.ended_attempts(b"flow-1"))] == ["a-1"]
    assert ledger.ended_failures(b"flow-1") == []


def test_the_keeper_adds_what_it_has_told_the_engine_of_a_dead_process(ledger: Ledger) -> None:
    segment = open_segment(ledger, index=1)
    writer = RecordWriter(segment)
    index, _ = writer.claim("a-1", "w-1", "resize", now=10.0, lease_s=60.0, workflow_id="flow-1", key="step")
    writer.running(index, now=11.0, limit_s=300.0)
    record = segment.record(index)
    assert record is not None
    failure = Failed("WORKER_CRASHED", "killed by SIGKILL", retryable=True)
    ledger.history.add(record, (11.0, 12.0, 13.0, 0.0), 1, failure, End.SETTLED)
    ledger.history.add(record, (11.0, 12.0, 14.0, 0.0), 1, None, End.DELIVERED)
    crashed, delivered = decoded(ledger.history.attempts.entries())
    assert (crashed.end, crashed.is_retryable, crashed.workflow_id) == (End.SETTLED, True, "flow-1")
    assert (delivered.end, delivered.key, delivered.claimed_at) == (End.DELIVERED, "step", 10.0)
    (words,) = decoded(ledger.history.failures.entries())
    assert (words.code, words.message) == ("WORKER_CRASHED", "killed by SIGKILL")


@pytest.mark.parametrize("name", ["n" * 5000, "ü" * 300, "", "a\u0000b", "\ud800"])
def test_any_name_and_any_words_fit(ledger: Ledger, name: str) -> None:
    writer = RecordWriter(open_segment(ledger))
    live(writer, 1, End.FAILED, Failed(name or "X", name * 30, retryable=False), name)
    live(writer, 2)
    found = decoded(ledger.ended_failures()) + decoded(ledger.ended_attempts())
    assert [one.activity_id for one in found] == ["a-1", "a-1", "a-2"]
    assert found[0].name == found[1].name
    shown = name.encode("utf-8", "replace").decode()
    assert shown.startswith(found[0].name.rstrip("\ufffd"))
    assert len(found[0].message) <= len(name) * 30


def test_garbage_in_a_ring_is_left_out(ledger: Ledger) -> None:
    """User code can write anywhere in its process's memory."""
    segment: Segment = open_segment(ledger)
    live(RecordWriter(segment), 1)
    own = segment.history.attempts
    own.append(b"\xff" * own.entry_bytes)
    own.append(bytes(own.entry_bytes))
    ledger.remember(0.0)
    found = decoded(ledger.history.attempts.entries())
    assert [one.activity_id for one in found][:1] == ["a-1"]
    assert len(found) <= 2


def test_an_entry_costs_a_worker_no_object_that_stays(ledger: Ledger) -> None:
    """Memory is what the map has from the start: nothing grows with what has happened."""
    writer = RecordWriter(open_segment(ledger))
    for number in range(2_000):
        live(writer, number)
    sizes = []
    for _ in range(3):
        for number in range(500):
            live(writer, number)
        sizes.append(sys.getallocatedblocks())
    assert all(abs(later - earlier) < 100 for earlier, later in pairwise(sizes)), sizes
