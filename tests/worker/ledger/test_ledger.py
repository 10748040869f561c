"""Records, journals and verdicts: what one process writes, the others read whole or not at all."""

from __future__ import annotations

import os
import signal

import pytest
from attempts_kit import State, state_of
from worker_kit import child_that, claim, open_segment

from flowherd.errors import LedgerFull
from flowherd.ledger import (
    JOURNAL_BYTES,
    Cause,
    Ledger,
    RecordWriter,
    Segment,
    Standing,
)
from flowherd.ledger.record import CRC_BYTES, HEAD, RECORD_BYTES
from flowherd.worker.attempt import DETACHED


def tear(segment: Segment, index: int, at: int) -> None:
    """Changes one byte of a record's body, as a reader sees it that comes amid a write."""
    start = segment.offset + segment.layout.bodies + index * RECORD_BYTES + at
    segment.map[start] ^= 0xFF


def test_a_record_says_everything_the_keeper_needs_to_beat_and_settle(
    segment: Segment, writer: RecordWriter
) -> None:
    """The ledger is the single source for heartbeats and settlement: nothing travels by message."""
    index, sequence = claim(writer)
    writer.running(index, now=11.0, limit_s=300.0)
    record = segment.record(index)
    assert record is not None
    assert (record.activity_id, record.worker_id, record.name) == ("a-1", "w-1", "resize")
    assert (record.claimed_at, record.lease_s) == (10.0, 60.0)
    assert (record.started_at, record.limit_s) == (11.0, 300.0)
    assert (state_of(record), record.sequence, record.index) == (State.RUNNING, sequence, index)


def test_a_waiting_record_has_no_start_even_where_an_earlier_one_had_it(
    segment: Segment, writer: RecordWriter
) -> None:
    """The hang rule must never judge a waiting activity by the start of the one before it."""
    index, _ = claim(writer)
    writer.running(index, now=11.0, limit_s=300.0)
    writer.clear(index)
    again, _ = claim(writer)
    record = segment.record(again)
    assert again == index
    assert record is not None
    assert (record.started_at, record.limit_s) == (0.0, 0.0)


def test_records_lists_what_is_not_free(segment: Segment, writer: RecordWriter) -> None:
    first, _ = claim(writer, activity_id="a-1")
    second, _ = claim(writer, activity_id="a-2")
    third, _ = claim(writer, activity_id="a-3")
    writer.clear(second)
    writer.stands(third, DETACHED)
    assert [(r.activity_id, state_of(r)) for r in segment.records()] == [
        ("a-1", State.CLAIMED),
        ("a-3", State.DETACHED),
    ]
    assert [r.activity_id for r in segment.records() if r.is_owed] == ["a-1"]
    assert first == 0


def test_a_torn_record_is_skipped_and_read_when_it_is_whole_again(
    segment: Segment, writer: RecordWriter
) -> None:
    """Law 2: readers copy, check, and skip until the next scan."""
    index, _ = claim(writer)
    end = CRC_BYTES + HEAD.size + len("a-1w-1resize")
    for at in range(end):
        tear(segment, index, at)
        assert segment.record(index) is None, f"byte {at} was changed and nobody noticed"
        tear(segment, index, at)
    assert segment.record(index) is not None


def test_a_state_byte_that_means_nothing_is_not_a_record(segment: Segment, writer: RecordWriter) -> None:
    index, _ = claim(writer)
    segment.states[index] = 77
    assert list(segment.records()) == []


def test_a_reader_in_another_process_never_sees_a_mixture_of_two_records() -> None:
    """A place is reused thousands of times a second while the keeper reads it."""
    ledger = Ledger(processes=1, records=1)
    segment = open_segment(ledger)

    def write() -> None:
        writer = RecordWriter(segment)
        for n in range(1, 10**9):
            index, _ = writer.claim(f"id-{n}", f"w-{n}", f"n-{n}" * (n % 9 + 1), now=n, lease_s=2 * n)
            writer.running(index, now=3 * n, limit_s=4 * n)
            writer.clear(index)

    seen: set[int] = set()
    with child_that(write):
        while len(seen) < 200:
            record = segment.record(0)
            if record is None:
                continue
            n = int(record.claimed_at)
            seen.add(n)
            assert (record.activity_id, record.worker_id) == (f"id-{n}", f"w-{n}")
            assert (record.name, record.lease_s) == (f"n-{n}" * (n % 9 + 1), 2 * n)
            if state_of(record) is State.RUNNING:
                assert (record.started_at, record.limit_s) == (3 * n, 4 * n)


def test_records_of_a_killed_process_can_be_read_by_the_others() -> None:
    """Faults C3, C4: a record is written before the handler starts and needs no goodbye."""
    ledger = Ledger(processes=1, records=4)
    segment = open_segment(ledger)
    reading, writing = os.pipe()

    def work() -> None:
        writer = RecordWriter(segment)
        index, _ = claim(writer)
        writer.running(index, now=11.0, limit_s=300.0)
        os.write(writing, b"!")
        signal.pause()

    with child_that(work):
        assert os.read(reading, 1) == b"!"
    segment.end(Cause.SIGNAL, signal.SIGKILL)
    assert [r.activity_id for r in segment.records()] == ["a-1"]
    os.close(reading)
    os.close(writing)


def test_a_full_segment_says_so_and_changes_nothing(segment: Segment, writer: RecordWriter) -> None:
    for number in range(segment.capacity):
        claim(writer, activity_id=f"a-{number}")
    with pytest.raises(LedgerFull, match="all 4 records are taken"):
        claim(writer, activity_id="one-too-many")
    assert writer.free == 0
    assert len(list(segment.records())) == segment.capacity


def test_identifiers_longer_than_a_record_are_refused_without_losing_a_place(writer: RecordWriter) -> None:
    with pytest.raises(LedgerFull, match="too long"):
        claim(writer, activity_id="a" * RECORD_BYTES)
    assert writer.free == 4


@pytest.mark.parametrize("name", ["n" * 5000, "ü" * 3000, "", "\ud800 alone", "a\u0000b\n"])
def test_any_activity_name_fits(segment: Segment, writer: RecordWriter, name: str) -> None:
    """Names come from definitions, with any length and characters."""
    index, _ = claim(writer, name)
    record = segment.record(index)
    assert record is not None
    assert record.activity_id == "a-1"
    assert record.name[:100] == name.encode(errors="replace").decode()[:100]


def test_sequences_only_grow_and_never_repeat_over_incarnations(ledger: Ledger) -> None:
    """A verdict is matched by sequence: one of an earlier incarnation must never fit."""
    sequences: list[int] = []
    for incarnation in range(1, 4):
        segment = open_segment(ledger, incarnation=incarnation)
        writer = RecordWriter(segment)
        sequences += [claim(writer)[1], claim(writer)[1]]
        segment.end(Cause.SIGNAL)
        segment.settled()
    assert sequences == sorted(set(sequences))


# Journals


def test_a_kept_completion_is_read_back_byte_for_byte(segment: Segment, writer: RecordWriter) -> None:
    """Faults C6: the keeper re-sends exactly what the worker was about to send."""
    index, _ = claim(writer)
    writer.reporting(index, b'{"output":{"n":1}}')
    assert segment.journal(index) == b'{"output":{"n":1}}'


@pytest.mark.parametrize("second", [None, b"x" * (JOURNAL_BYTES + 1)])
def test_a_record_without_a_kept_completion_never_shows_an_earlier_one(
    segment: Segment, writer: RecordWriter, second: bytes | None
) -> None:
    """Sending another activity's output would be the worst of all faults."""
    index, _ = claim(writer)
    writer.reporting(index, b'{"of":"the first"}')
    writer.clear(index)
    again, _ = claim(writer)
    writer.reporting(again, second)
    assert again == index
    assert segment.journal(again) is None


def test_a_new_incarnation_never_shows_a_completion_of_the_one_before(ledger: Ledger) -> None:
    segment = open_segment(ledger)
    index, _ = claim(writer := RecordWriter(segment))
    writer.reporting(index, b'{"of":"the dead"}')
    segment.end(Cause.SIGNAL)
    segment.settled()
    segment.open(index=0, incarnation=2, now=2.0)
    again, _ = claim(writer := RecordWriter(segment))
    writer.reporting(again, None)
    assert again == index
    assert segment.journal(again) is None


def test_a_torn_journal_is_as_good_as_none(segment: Segment, writer: RecordWriter) -> None:
    index, _ = claim(writer)
    writer.reporting(index, b'{"output":{}}')
    segment.map[segment.offset + segment.layout.journals + 8] ^= 0xFF
    assert segment.journal(index) is None


def test_the_largest_completion_that_fits_is_kept_and_its_neighbour_untouched(
    segment: Segment, writer: RecordWriter
) -> None:
    first, _ = claim(writer, activity_id="a-1")
    second, _ = claim(writer, activity_id="a-2")
    writer.reporting(second, b"second")
    writer.reporting(first, b"x" * JOURNAL_BYTES)
    assert segment.journal(first) == b"x" * JOURNAL_BYTES
    assert segment.journal(second) == b"second"


# Verdicts


def test_a_verdict_counts_for_the_sequence_it_was_written_with_alone(
    segment: Segment, writer: RecordWriter
) -> None:
    index, sequence = claim(writer)
    record = segment.record(index)
    assert record is not None
    segment.judge(record, Standing.GONE, 12.0)
    assert segment.standing(index, sequence) is Standing.GONE
    assert segment.last_ok(index, sequence) == 12.0
    writer.clear(index)
    again, later = claim(writer)
    assert again == index
    assert segment.standing(again, later) is Standing.UNKNOWN
    assert segment.last_ok(again, later) == 0.0


def test_a_late_verdict_about_the_record_before_does_not_hit_its_successor(
    segment: Segment, writer: RecordWriter
) -> None:
    """The keeper's verdict may come after the place was reused."""
    index, _ = claim(writer)
    old = segment.record(index)
    assert old is not None
    writer.clear(index)
    again, later = claim(writer)
    segment.judge(old, Standing.GONE, 12.0)
    assert again == index
    assert segment.standing(again, later) is Standing.UNKNOWN
