"""A segment's life, the processes' totals and the host's token."""

from __future__ import annotations

import pytest
from worker_kit import child_that, claim, open_segment

from flowherd.ledger import (
    Cause,
    Cell,
    Clock,
    Host,
    Ledger,
    Life,
    ProcessTotal,
    RecordWriter,
    Segment,
    records_needed,
)
from flowherd.worker.attempt import DETACHED


def test_a_segment_goes_from_free_to_live_to_ended_and_back(ledger: Ledger, segment: Segment) -> None:
    assert segment.life is Life.LIVE
    assert segment is not ledger.free_segment()
    segment.end(Cause.STOP, 9)
    assert segment.life is Life.ENDED
    assert (segment.get(Cell.CAUSE), segment.get(Cell.EXIT_STATUS)) == (Cause.STOP, 9)
    segment.settled()
    assert segment.life is Life.FREE
    assert segment is ledger.free_segment()


@pytest.mark.parametrize("step", ["open", "settled"])
def test_a_live_segment_is_neither_opened_again_nor_settled(segment: Segment, step: str) -> None:
    """Nothing is overwritten: an incarnation's memory is its own until its records are settled."""
    with pytest.raises(AssertionError):
        segment.open(index=0, incarnation=2, now=2.0) if step == "open" else segment.settled()


def test_records_of_the_incarnation_before_are_invisible_until_the_new_one_opens(ledger: Ledger) -> None:
    """A keeper must not beat in the name of the dead while the new child still imports its app."""
    segment = open_segment(ledger)
    claim(RecordWriter(segment))
    segment.end(Cause.SIGNAL)
    segment.settled()
    segment.open(index=1, incarnation=2, now=2.0)
    assert not segment.readable
    assert list(segment.records()) == []
    RecordWriter(segment)
    assert segment.readable
    assert list(segment.records()) == []


def test_a_child_that_dies_before_it_opens_leaves_nothing_to_settle_or_count(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    writer = RecordWriter(segment)
    claim(writer)
    segment.add(Cell.COMPLETED, 5)
    segment.end(Cause.SIGNAL)
    ledger.absorb(segment)
    segment.open(index=0, incarnation=2, now=2.0)
    segment.end(Cause.SIGNAL)
    assert list(segment.records()) == []
    ledger.absorb(segment)
    assert ledger.process_total(0, ProcessTotal.COMPLETED) == 5


def test_a_new_incarnation_begins_to_count_at_zero(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    RecordWriter(segment)
    segment.add(Cell.POLLS, 7)
    segment.set_clock(Clock.LAST_GOOD_POLL, 5.0)
    segment.end(Cause.STOP)
    segment.settled()
    segment.open(index=0, incarnation=2, now=2.0)
    RecordWriter(segment)
    assert segment.get(Cell.POLLS) == 0
    assert segment.clock(Clock.LAST_GOOD_POLL) == 0.0
    assert segment.clock(Clock.STARTED_AT) == 2.0


def test_no_two_records_of_a_host_have_the_same_sequence(ledger: Ledger) -> None:
    """An activity that kills each process it is the first in has died twice, not once in the keeper's writers."""
    sequences = []
    for number in range(3):
        segment = ledger.segments[number % 2]
        segment.open(index=0, incarnation=number + 1, now=1.0)
        sequences += [claim(RecordWriter(segment))[1]]
        segment.end(Cause.SIGNAL)
        segment.settled()
    assert len(set(sequences)) == 3
    assert max(sequences) << 2 < 1 << 64


def test_a_process_keeps_the_counts_of_all_its_incarnations(ledger: Ledger) -> None:
    for process, completed in ((0, 3), (1, 10), (0, 4)):
        segment = open_segment(ledger, index=process)
        RecordWriter(segment)
        segment.add(Cell.COMPLETED, completed)
        segment.add(Cell.LOST)
        segment.end(Cause.STOP)
        ledger.absorb(segment)
    assert [ledger.process_total(index, ProcessTotal.COMPLETED) for index in (0, 1)] == [7, 10]
    assert ledger.ended_total(ProcessTotal.COMPLETED) == 17
    assert ledger.ended_total(ProcessTotal.LOST) == 3
    assert ledger.ended_total(ProcessTotal.FAILED) == 0


def test_there_are_segments_for_an_old_and_a_new_incarnation_of_each_process_and_then_none(
    ledger: Ledger,
) -> None:
    """With none free a process waits; nothing is overwritten."""
    taken = [open_segment(ledger, index=number % 2) for number in range(2 * ledger.processes + 4)]
    assert ledger.free_segment() is None
    for number, segment in enumerate(taken):
        claim(RecordWriter(segment), activity_id=f"of-{number}")
    assert [r.activity_id for segment in taken for r in segment.records()] == [
        f"of-{number}" for number in range(len(taken))
    ]


def test_a_host_is_at_rest_without_held_and_unsettled_records(ledger: Ledger) -> None:
    """The keeper may sleep then, so nothing that it has to look after may escape this."""
    found = {"all are free": ledger.segments.are_at_rest}
    RecordWriter(open_segment(ledger))
    segment = open_segment(ledger)
    found["a worker has not begun"] = ledger.segments.are_at_rest
    writer = RecordWriter(segment)
    claim(writer, activity_id="a-1")
    index, _ = claim(writer, activity_id="a-2")
    found["two are claimed"] = ledger.segments.are_at_rest
    writer.clear(0)
    writer.stands(index, DETACHED)
    found["a detached is left"] = ledger.segments.are_at_rest
    writer.clear(index)
    found["both are cleared"] = ledger.segments.are_at_rest
    claim(writer, activity_id="a-3")
    segment.end(Cause.SIGNAL)
    found["one has ended"] = ledger.segments.are_at_rest
    segment.settled()
    found["it is settled"] = ledger.segments.are_at_rest
    segment.open(index=0, incarnation=3, now=2.0)
    found["its successor has not begun"] = ledger.segments.are_at_rest
    RecordWriter(segment)
    found["its successor has begun"] = ledger.segments.are_at_rest
    busy = {name for name, is_at_rest in found.items() if not is_at_rest}
    assert busy == {"two are claimed", "a detached is left", "one has ended"}


def test_the_representation_is_a_status_line(ledger: Ledger, segment: Segment, writer: RecordWriter) -> None:
    claim(writer)
    assert repr(segment) == "<Segment 0 live, process 0.1, 1 records>"
    assert repr(ledger) == "<Ledger [1 segments in use of 8]>"


def test_a_segment_has_room_for_running_waiting_and_undelivered_work() -> None:
    """Deliveries are bounded at 4 x slots; a surplus poll or two fits besides (faults E19)."""
    assert records_needed(4, 10) == 5 * 4 + 3 * 10


# The host's token


def test_there_is_no_token_before_the_first(ledger: Ledger) -> None:
    assert ledger.token() == (0, "")


def test_each_token_has_a_version_of_its_own(ledger: Ledger) -> None:
    assert [ledger.publish_token(text) for text in ("first", "second", "third")] == [1, 2, 3]
    assert ledger.token() == (3, "third")


def test_publishing_leaves_the_previous_token_in_its_own_area(ledger: Ledger) -> None:
    """A reader that has just read the version must still find that version's text."""
    ledger.publish_token("first")
    ledger.publish_token("second")
    ledger.put(Host.TOKEN_VERSION, 1)
    assert ledger.token() == (1, "first")


def test_a_token_amid_its_replacement_is_no_token(ledger: Ledger) -> None:
    ledger.publish_token("x" * 100)
    text_at = bytes(ledger._map).index(b"x" * 100)
    ledger._map[text_at] ^= 0xFF
    assert ledger.token() == (0, "")


def test_a_token_longer_than_its_area_is_refused_and_the_old_one_stays(ledger: Ledger) -> None:
    ledger.publish_token("old")
    with pytest.raises(ValueError, match="at most 16384"):
        ledger.publish_token("x" * 20_000)
    assert ledger.token() == (1, "old")


def test_a_reader_in_another_process_never_sees_half_a_token() -> None:
    ledger = Ledger(processes=1, records=1)

    def publish() -> None:
        for n in range(10**9):
            ledger.publish_token(f"{n}." * 200)

    seen: set[int] = set()
    with child_that(publish):
        while len(seen) < 200:
            version, token = ledger.token()
            if version:
                assert token == f"{version - 1}." * 200
                seen.add(version)


def test_only_segments_with_a_record_or_an_unsettled_end_are_in_use(ledger: Ledger) -> None:
    """The keeper looks at no others: a free or idle one costs it nothing."""
    RecordWriter(open_segment(ledger))
    holding, ended = open_segment(ledger), open_segment(ledger)
    claim(RecordWriter(holding))
    ended.end(Cause.SIGNAL)
    assert list(ledger.segments.in_use()) == [holding.number, ended.number]
    holding.end(Cause.SIGNAL)
    holding.settled()
    assert list(ledger.segments.in_use()) == [ended.number]
