"""What runs in a process now, and whose handlers keep its loop, as the ledger says it."""

from __future__ import annotations

from flowherd.ledger import Cause, Cell, Ledger, RecordWriter
from flowherd_supervisor.keeper.event_stream import BlockWatch, EventLog
from flowherd_supervisor.keeper.status import MOST_SHOWN, not_begun_in, running_in


def host() -> tuple[Ledger, RecordWriter]:
    ledger = Ledger(processes=2, records=20)
    segment = ledger.free_segment()
    assert segment is not None
    segment.open(index=1, incarnation=1, now=0.0)
    return ledger, RecordWriter(segment)


def test_the_longest_running_are_shown_and_what_only_waits_is_not() -> None:
    """Who has hundreds of slots looks for the one that hangs."""
    _, writer = host()
    for number in range(MOST_SHOWN + 5):
        index, _ = writer.claim(f"a-{number}", "w-1", "resize", now=1.0, lease_s=60.0)
        if number != 3:
            writer.running(index, now=100.0 - number, limit_s=30.0)
    rows = running_in(writer.segment, now=110.0)
    assert len(rows) == MOST_SHOWN
    assert rows[0] == {"name": "resize", "activity_id": "a-12", "for_s": 22.0, "limit_s": 30.0}
    assert [row["for_s"] for row in rows] == sorted((row["for_s"] for row in rows), reverse=True)


def test_what_was_claimed_long_ago_and_has_not_begun_is_shown() -> None:
    """N12: whatever waits to begin is seen."""
    _, writer = host()
    for number, claimed_at in enumerate((10.0, 20.0, 95.0, 5.0)):
        writer.claim(f"a-{number}", "w-1", "resize", now=claimed_at, lease_s=60.0)
    writer.running(3, now=6.0, limit_s=300.0)
    assert not_begun_in(writer.segment, now=100.0) == [
        {"name": "resize", "activity_id": "a-0", "for_s": 90.0, "waits_for": "a slot"},
        {"name": "resize", "activity_id": "a-1", "for_s": 80.0, "waits_for": "a slot"},
    ]


def test_a_loop_that_was_blocked_becomes_one_event_with_its_line() -> None:
    """A new process begins at 0, and what was there before the first look is history."""
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
    """The line number stands there."""
    _, writer = host()
    writer.segment.note_block("/" + "x" * 2000 + "/images.py:7")
    assert writer.segment.blocked_at.endswith("/images.py:7")
    assert len(writer.segment.blocked_at) == 512
    assert writer.segment.get(Cell.BLOCKS) == 1
