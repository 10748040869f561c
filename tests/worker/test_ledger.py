"""Records, journals and verdicts: what one process writes, the others read whole or not at all."""

from __future__ import annotations

import os
import signal

import pytest
from worker_kit import child_that, claim, open_berth

from flowherd.errors import LedgerFull
from flowherd.ledger import (
    HELD,
    JOURNAL_BYTES,
    RECORD_BYTES,
    Berth,
    Cause,
    Ledger,
    RecordBook,
    Standing,
    State,
)
from flowherd.ledger.segment import CRC_BYTES, HEAD


def tear(berth: Berth, index: int, at: int) -> None:
    """Changes one byte of a record's body, as a reader sees it that comes amid a write."""
    start = berth.offset + berth.layout.bodies + index * RECORD_BYTES + at
    berth.map[start] ^= 0xFF


def test_a_record_says_everything_the_keeper_needs_to_beat_and_settle(berth: Berth, book: RecordBook) -> None:
    """The ledger is the single source for heartbeats and settlement: nothing travels by message."""
    index, sequence = claim(book)
    book.running(index, now=11.0, limit_s=300.0)
    record = berth.record(index)
    assert record is not None
    assert (record.activity_id, record.worker_id, record.name) == ("a-1", "w-1", "resize")
    assert (record.claimed_at, record.lease_s) == (10.0, 60.0)
    assert (record.started_at, record.limit_s) == (11.0, 300.0)
    assert (record.state, record.sequence, record.index) == (State.RUNNING, sequence, index)


def test_a_waiting_record_has_no_start_even_where_an_earlier_one_had_it(
    berth: Berth, book: RecordBook
) -> None:
    """The hang rule must never judge a waiting activity by the start of the one before it."""
    index, _ = claim(book)
    book.running(index, now=11.0, limit_s=300.0)
    book.clear(index)
    again, _ = claim(book)
    record = berth.record(again)
    assert again == index
    assert record is not None
    assert (record.started_at, record.limit_s) == (0.0, 0.0)


def test_records_lists_what_is_not_free(berth: Berth, book: RecordBook) -> None:
    first, _ = claim(book, activity_id="a-1")
    second, _ = claim(book, activity_id="a-2")
    third, _ = claim(book, activity_id="a-3")
    book.clear(second)
    book.zombie(third)
    assert [(r.activity_id, r.state) for r in berth.records()] == [
        ("a-1", State.CLAIMED),
        ("a-3", State.ZOMBIE),
    ]
    assert [r.activity_id for r in berth.records() if r.state in HELD] == ["a-1"]
    assert first == 0


def test_a_torn_record_is_skipped_and_read_when_it_is_whole_again(berth: Berth, book: RecordBook) -> None:
    """Law 2: readers copy, check, and skip until the next scan."""
    index, _ = claim(book)
    end = CRC_BYTES + HEAD.size + len("a-1w-1resize")
    for at in range(end):
        tear(berth, index, at)
        assert berth.record(index) is None, f"byte {at} was changed and nobody noticed"
        tear(berth, index, at)
    assert berth.record(index) is not None


def test_a_state_byte_that_means_nothing_is_not_a_record(berth: Berth, book: RecordBook) -> None:
    index, _ = claim(book)
    berth.states[index] = 77
    assert list(berth.records()) == []


def test_a_reader_in_another_process_never_sees_a_mixture_of_two_records() -> None:
    """A place is reused thousands of times a second while the keeper reads it."""
    ledger = Ledger(seats=1, records=1)
    berth = open_berth(ledger)

    def write() -> None:
        book = RecordBook(berth)
        for n in range(1, 10**9):
            index, _ = book.claim(f"id-{n}", f"w-{n}", f"n-{n}" * (n % 9 + 1), now=n, lease_s=2 * n)
            book.running(index, now=3 * n, limit_s=4 * n)
            book.clear(index)

    seen: set[int] = set()
    with child_that(write):
        while len(seen) < 200:
            record = berth.record(0)
            if record is None:
                continue
            n = int(record.claimed_at)
            seen.add(n)
            assert (record.activity_id, record.worker_id) == (f"id-{n}", f"w-{n}")
            assert (record.name, record.lease_s) == (f"n-{n}" * (n % 9 + 1), 2 * n)
            if record.state is State.RUNNING:
                assert (record.started_at, record.limit_s) == (3 * n, 4 * n)


def test_what_a_killed_process_held_is_read_by_those_who_outlive_it() -> None:
    """Faults C3, C4: a record is written before the handler starts and needs no goodbye."""
    ledger = Ledger(seats=1, records=4)
    berth = open_berth(ledger)
    reader, writer = os.pipe()

    def work() -> None:
        book = RecordBook(berth)
        index, _ = claim(book)
        book.running(index, now=11.0, limit_s=300.0)
        os.write(writer, b"!")
        signal.pause()

    with child_that(work):
        assert os.read(reader, 1) == b"!"
    berth.end(Cause.CRASH, signal.SIGKILL)
    assert [r.activity_id for r in berth.records()] == ["a-1"]
    os.close(reader)
    os.close(writer)


def test_a_full_book_says_so_and_changes_nothing(berth: Berth, book: RecordBook) -> None:
    for number in range(berth.capacity):
        claim(book, activity_id=f"a-{number}")
    with pytest.raises(LedgerFull, match="all 4 records are taken"):
        claim(book, activity_id="one-too-many")
    assert book.free == 0
    assert len(list(berth.records())) == berth.capacity


def test_identifiers_longer_than_a_record_are_refused_without_losing_a_place(book: RecordBook) -> None:
    with pytest.raises(LedgerFull, match="too long"):
        claim(book, activity_id="a" * RECORD_BYTES)
    assert book.free == 4


@pytest.mark.parametrize("name", ["n" * 5000, "ü" * 3000, "", "\ud800 alone", "a\u0000b\n"])
def test_any_activity_name_fits(berth: Berth, book: RecordBook, name: str) -> None:
    """Names come from definitions: their length and characters are nobody's promise."""
    index, _ = claim(book, name)
    record = berth.record(index)
    assert record is not None
    assert record.activity_id == "a-1"
    assert record.name[:100] == name.encode(errors="replace").decode()[:100]


def test_sequences_only_grow_and_never_repeat_over_incarnations(ledger: Ledger) -> None:
    """A verdict is matched by sequence: one of an earlier incarnation must never fit."""
    sequences: list[int] = []
    for incarnation in range(1, 4):
        berth = open_berth(ledger, incarnation=incarnation)
        book = RecordBook(berth)
        sequences += [claim(book)[1], claim(book)[1]]
        berth.end(Cause.CRASH)
        berth.settled()
    assert sequences == sorted(set(sequences))


# Journals


def test_a_kept_completion_is_read_back_byte_for_byte(berth: Berth, book: RecordBook) -> None:
    """Faults C6: the keeper re-sends exactly what the worker was about to send."""
    index, _ = claim(book)
    book.reporting(index, b'{"output":{"n":1}}')
    assert berth.journal(index) == b'{"output":{"n":1}}'


@pytest.mark.parametrize("second", [None, b"x" * (JOURNAL_BYTES + 1)])
def test_a_record_without_a_kept_completion_never_shows_an_earlier_one(
    berth: Berth, book: RecordBook, second: bytes | None
) -> None:
    """Sending another activity's output would be the worst of all faults."""
    index, _ = claim(book)
    book.reporting(index, b'{"of":"the first"}')
    book.clear(index)
    again, _ = claim(book)
    book.reporting(again, second)
    assert again == index
    assert berth.journal(again) is None


def test_a_new_incarnation_never_shows_a_completion_of_the_one_before(ledger: Ledger) -> None:
    berth = open_berth(ledger)
    index, _ = claim(book := RecordBook(berth))
    book.reporting(index, b'{"of":"the dead"}')
    berth.end(Cause.CRASH)
    berth.settled()
    berth.open(seat=0, incarnation=2, now=2.0)
    again, _ = claim(book := RecordBook(berth))
    book.reporting(again, None)
    assert again == index
    assert berth.journal(again) is None


def test_a_torn_journal_is_as_good_as_none(berth: Berth, book: RecordBook) -> None:
    index, _ = claim(book)
    book.reporting(index, b'{"output":{}}')
    berth.map[berth.offset + berth.layout.journals + 8] ^= 0xFF
    assert berth.journal(index) is None


def test_the_largest_completion_that_fits_is_kept_and_its_neighbour_untouched(
    berth: Berth, book: RecordBook
) -> None:
    first, _ = claim(book, activity_id="a-1")
    second, _ = claim(book, activity_id="a-2")
    book.reporting(second, b"second")
    book.reporting(first, b"x" * JOURNAL_BYTES)
    assert berth.journal(first) == b"x" * JOURNAL_BYTES
    assert berth.journal(second) == b"second"


# Verdicts


def test_a_verdict_counts_for_the_sequence_it_was_written_with_alone(berth: Berth, book: RecordBook) -> None:
    index, sequence = claim(book)
    record = berth.record(index)
    assert record is not None
    berth.judge(record, Standing.GONE, 12.0)
    assert berth.standing(index, sequence) is Standing.GONE
    assert berth.last_ok(index, sequence) == 12.0
    book.clear(index)
    again, later = claim(book)
    assert again == index
    assert berth.standing(again, later) is Standing.UNKNOWN
    assert berth.last_ok(again, later) == 0.0


def test_a_late_verdict_about_the_record_before_does_not_hit_its_successor(
    berth: Berth, book: RecordBook
) -> None:
    """The keeper's answer may come after the place was given to somebody else."""
    index, _ = claim(book)
    old = berth.record(index)
    assert old is not None
    book.clear(index)
    again, later = claim(book)
    berth.judge(old, Standing.GONE, 12.0)
    assert again == index
    assert berth.standing(again, later) is Standing.UNKNOWN
