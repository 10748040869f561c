"""Ends and durations of activities by name: names from a closed list, and nothing lost with a process."""

from __future__ import annotations

import pytest
from worker_kit import open_segment

from flowherd.ledger import Cause, Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import ENTRIES, Where, WorkTable
from flowherd.ledger.activity_counts import NUMBERS, OTHER, Ended, Took
from flowherd.ledger.histogram import Histogram


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(processes=2, records=4)


def test_each_name_has_its_own_numbers_and_all_others_share_one(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    RecordWriter(segment)
    work = segment.work
    work.add("resize", Where.LOOP)
    work.add("crop", Where.THREAD)
    for name, how in (("resize", Ended.COMPLETED), ("crop", Ended.FAILED), ("nobody's", Ended.FAILED)):
        work.counts.ended(work.entry_of(name), how)
    work.counts.took(work.entry_of("resize"), Took.RUN, 0.5)
    counts = ledger.activity_counts()
    assert set(counts) == {"resize", "crop", OTHER}
    assert [counts[name].ended[Ended.FAILED] for name in ("resize", "crop", OTHER)] == [0, 1, 1]
    assert counts["resize"].ended[Ended.COMPLETED] == 1
    ran = counts["resize"].took[Took.RUN]
    assert (ran.count, ran.total_s) == (1, pytest.approx(0.5, abs=1e-6))
    assert counts["crop"].took[Took.RUN].count == 0


def test_an_activity_that_runs_in_two_places_is_counted_under_one_name() -> None:
    """A reload has moved it from the loop to a thread: the host's table has it twice."""
    table = WorkTable.private()
    table.add("resize", Where.LOOP)
    other = WorkTable.private()
    other.counts.ended(other.add("resize", Where.THREAD), Ended.COMPLETED)
    table.absorb(other)
    assert set(table.read_counts()) == {"resize", OTHER}
    assert table.read_counts()["resize"].ended[Ended.COMPLETED] == 1


def test_the_numbers_of_an_ended_process_move_to_the_host_and_the_next_begins_with_none(
    ledger: Ledger,
) -> None:
    segment = open_segment(ledger)
    RecordWriter(segment)
    segment.work.add("resize", Where.LOOP)
    segment.work.counts.ended(segment.work.entry_of("resize"), Ended.COMPLETED)
    segment.work.counts.took(segment.work.entry_of("unknown"), Took.WAIT, 3.0)
    before = ledger.activity_counts()
    segment.end(Cause.SIGNAL)
    ledger.absorb(segment)
    assert ledger.activity_counts() == before
    segment.open(index=0, incarnation=2, now=1.0)
    RecordWriter(segment)
    segment.work.add("resize", Where.LOOP)
    assert not any(segment.work.read_counts().values())
    assert ledger.activity_counts() == before


def test_more_names_than_there_is_room_for_are_counted_together() -> None:
    table = WorkTable.private()
    for number in range(ENTRIES + 3):
        table.add(f"name {number}", Where.LOOP)
        table.counts.ended(table.entry_of(f"name {number}"), Ended.COMPLETED)
    counts = table.read_counts()
    assert len(counts) == ENTRIES + 1
    assert counts[OTHER].ended[Ended.COMPLETED] == 3


def test_a_long_name_is_found_under_what_is_kept_of_it() -> None:
    table = WorkTable.private()
    name = "ä" * 300
    assert table.add(name, Where.LOOP) == table.entry_of(name)


def test_scribbled_numbers_count_for_nothing() -> None:
    """User code can write anything into its segment."""
    table = WorkTable.private()
    table.add("resize", Where.LOOP)
    table.counts._cells[0] = 2**63
    table.counts.ended(0, Ended.FAILED)
    for cell in range(len(Ended), NUMBERS):
        table.counts._cells[cell] = 2**64 - 1
    found = table.read_counts()["resize"]
    assert (found.ended[:2], found.took) == ((0, 1), (Histogram(),) * len(Took))
