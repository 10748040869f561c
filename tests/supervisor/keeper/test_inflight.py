"""Running activities of a process, and handlers that block its loop, from the ledger."""

from __future__ import annotations

from typing import Any

import pytest

from flowherd.ledger import Cause, Cell, Claim, Handler, Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import Where
from flowherd.ledger.activity_counts import Ended, Took
from flowherd.ledger.states_and_cells import ISOLATED, pair_of
from flowherd_supervisor.keeper.activity_rows import MOST_SHOWN, by_activity, not_begun_in, running_in
from flowherd_supervisor.keeper.event_stream import BlockWatch, EventLog

FLOW: Any = {"workflow_id": "flow-1", "key": "step"}


def host() -> tuple[Ledger, RecordWriter]:
    ledger = Ledger(processes=2, records=20)
    segment = ledger.free_segment()
    assert segment is not None
    segment.open(index=1, incarnation=1, now=0.0)
    return ledger, RecordWriter(segment)


def test_the_longest_running_are_shown_and_what_only_waits_is_not() -> None:
    """With hundreds of slots the one that hangs must be found."""
    _, writer = host()
    for number in range(MOST_SHOWN + 5):
        index, _ = writer.claim(f"a-{number}", "w-1", "resize", now=1.0, lease_s=60.0, **FLOW)
        if number != 3:
            writer.running(index, now=100.0 - number, limit_s=30.0)
    rows = running_in(writer.segment, now=110.0)
    assert len(rows) == MOST_SHOWN
    assert (
        rows[0]
        == {
            "name": "resize",
            "activity_id": "a-12",
            "for_s": 22.0,
            "limit_s": 30.0,
            "is_over": False,
            "isolated": False,
        }
        | FLOW
    )
    assert [row["for_s"] for row in rows] == sorted((row["for_s"] for row in rows), reverse=True)


@pytest.mark.parametrize("claim", [Claim.REPORTING, Claim.CLOSED])
def test_a_handler_that_runs_on_after_its_outcome_is_shown_as_such(claim: Claim) -> None:
    """It keeps a slot and counts as running, so the table must list it."""
    ledger, writer = host()
    writer.segment.work.add("resize", Where.THREAD)
    index, _ = writer.claim("a-1", "w-1", "resize", now=1.0, lease_s=60.0, **FLOW)
    writer.running(index, now=2.0, limit_s=1.0)
    writer.stands(index, pair_of(Handler.STOPPING, claim))
    assert [row["running"] for row in by_activity(ledger, [])] == [1]
    (row,) = running_in(writer.segment, now=9.0)
    assert (row["activity_id"], row["for_s"], row["is_over"]) == ("a-1", 7.0, True)


def test_a_running_activity_says_that_it_runs_in_an_isolate() -> None:
    """Its process shows no CPU and no memory for it."""
    _, writer = host()
    index, _ = writer.claim("a-1", "w-1", "resize", now=1.0, lease_s=60.0, **FLOW)
    writer.running(index, now=2.0, limit_s=300.0)
    writer.stands(index, pair_of(Handler.RUNNING, Claim.HELD) | ISOLATED)
    (row,) = running_in(writer.segment, now=9.0)
    assert row["isolated"] is True


def test_what_was_claimed_long_ago_and_has_not_begun_is_shown() -> None:
    """N12: an activity that waits to begin is visible."""
    _, writer = host()
    for number, claimed_at in enumerate((10.0, 20.0, 95.0, 5.0)):
        writer.claim(f"a-{number}", "w-1", "resize", now=claimed_at, lease_s=60.0, **FLOW)
    writer.running(3, now=6.0, limit_s=300.0)
    assert not_begun_in(writer.segment, 100.0, 30.0) == [
        {"name": "resize", "activity_id": "a-0", "for_s": 90.0, "waits_for": "a slot"} | FLOW,
        {"name": "resize", "activity_id": "a-1", "for_s": 80.0, "waits_for": "a slot"} | FLOW,
    ]
    assert [row["activity_id"] for row in not_begun_in(writer.segment, 100.0, 1.0)] == ["a-0", "a-1", "a-2"]


def test_what_waits_for_a_permit_says_so_where_the_ledger_knows_it() -> None:
    """Otherwise the reason may also be an isolate or a blocked loop."""
    _, writer = host()
    index, _ = writer.claim("a-1", "w-1", "resize", now=10.0, lease_s=60.0, **FLOW)
    writer.stands(index, pair_of(Handler.ADMITTED, Claim.HELD))
    (row,) = not_begun_in(writer.segment, 100.0, 30.0)
    assert row["waits_for"] == "a permit, an isolate or the loop"
    writer.segment.put(Cell.WAITS_FOR, 2**64 - 1)
    (row,) = not_begun_in(writer.segment, 100.0, 30.0)
    assert row["waits_for"] == "a permit (max_concurrent)"


def test_each_activity_has_a_row_with_all_that_is_known_of_it() -> None:
    """A row for each activity of the app, by name; all others share a row."""
    ledger, writer = host()
    work = writer.segment.work
    work.add("resize", Where.LOOP)
    work.add("crop", Where.LOOP)
    for number, name in enumerate(("resize", "resize", "resize", "crop")):
        index, _ = writer.claim(f"a-{number}", "w-1", name, now=1.0, lease_s=60.0)
        if number < 2:
            writer.running(index, now=2.0, limit_s=30.0)
    for how in (Ended.COMPLETED, Ended.COMPLETED, Ended.FAILED, Ended.CRASHED, Ended.LOST):
        work.counts.ended(work.entry_of("resize"), how)
    for seconds in [0.003] * 18 + [0.1] * 2:
        work.counts.took(work.entry_of("resize"), Took.RUN, seconds)
    measured = {"activity": "resize", "samples": 40, "cpu_share": 0.9, "runs": "async", "verdict": "process"}
    crop, resize = by_activity(ledger, [measured | {"change": True}])
    assert resize == {
        "activity": "resize", "running": 2, "waiting": 1, "completed": 2, "failed": 2, "lost": 1,
        "ran": 20, "run_ms_p50": 4.0, "run_ms_p95": 128.0, "cpu_share": 0.9, "runs": "async", "verdict": "process",
        "moved": False, "change": True,
    }  # fmt: skip
    assert (crop["activity"], crop["waiting"], crop["run_ms_p50"], crop["verdict"]) == ("crop", 1, None, None)
    work.counts.ended(work.entry_of("unknown"), Ended.FAILED)
    assert [row["activity"] for row in by_activity(ledger, [])] == ["crop", "resize", "other"]


def test_a_loop_that_was_blocked_becomes_one_event_with_its_line() -> None:
    """A new process begins at 0; blocks before the first look do not count."""
    ledger, writer = host()
    writer.segment.note_block("/app/old.py:1")
    events = EventLog()
    watch = BlockWatch(ledger, events)
    watch.look()
    assert events.after(0) == []
    writer.segment.note_block("/app/images.py:12")
    writer.segment.note_block("/app/images.py:14")
    watch.look()
    watch.look()
    [event] = events.after(0)
    assert (event["event"], event["process"], event["place"], event["times"]) == (
        "loop_blocked", 1, "/app/images.py:14", 2,
    )  # fmt: skip
    writer.segment.end(Cause.CRASH)
    ledger.absorb(writer.segment)
    writer.segment.open(index=0, incarnation=1, now=1.0)
    RecordWriter(writer.segment)
    assert writer.segment.blocked_at == ""
    watch.look()
    assert len(events.after(0)) == 1


def test_of_a_long_path_the_end_is_kept() -> None:
    """The line number is at the end."""
    _, writer = host()
    writer.segment.note_block("/" + "x" * 2000 + "/images.py:7")
    assert writer.segment.blocked_at.endswith("/images.py:7")
    assert len(writer.segment.blocked_at) == 512
    assert writer.segment.get(Cell.BLOCKS) == 1
