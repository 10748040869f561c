"""The ledger: what is written by one process is read whole or not at all by the others."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from flowherd.berth import CRC_BYTES, HEAD
from flowherd.errors import LedgerFull
from flowherd.ledger import (
    HELD,
    JOURNAL_BYTES,
    RECORD_BYTES,
    Berth,
    Cause,
    Cell,
    Clock,
    Host,
    Ledger,
    Life,
    RecordBook,
    SeatTotal,
    Standing,
    State,
    records_needed,
)


def open_berth(ledger: Ledger, *, seat: int = 0, incarnation: int = 1) -> Berth:
    berth = ledger.free_berth()
    assert berth is not None
    berth.open(seat=seat, incarnation=incarnation, now=1.0)
    return berth


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(seats=2, records=4)


@pytest.fixture
def berth(ledger: Ledger) -> Berth:
    return open_berth(ledger)


@pytest.fixture
def book(berth: Berth) -> RecordBook:
    return RecordBook(berth)


def claim(book: RecordBook, name: str = "resize", *, activity_id: str = "a-1") -> tuple[int, int]:
    return book.claim(activity_id, "w-1", name, now=10.0, lease_s=60.0)


def tear(berth: Berth, index: int, at: int) -> None:
    """Changes one byte of a record's body, as a reader sees it that comes amid a write."""
    start = berth.offset + berth.layout.bodies + index * RECORD_BYTES + at
    berth.map[start] ^= 0xFF


@contextlib.contextmanager
def child_that(work: Callable[[], None]) -> Iterator[int]:
    """A forked process that runs `work`; killed and reaped at the end if it still runs."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):  # the parent sees the exit code
            work()
            os._exit(0)
        os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# Records


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
        while len(seen) < 500:
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


# A berth's life


def test_a_berth_goes_from_free_to_live_to_ended_and_back(ledger: Ledger, berth: Berth) -> None:
    assert berth.life is Life.LIVE
    assert berth is not ledger.free_berth()
    berth.end(Cause.STOPPED, 9)
    assert berth.life is Life.ENDED
    assert (berth.get(Cell.CAUSE), berth.get(Cell.EXIT_STATUS)) == (Cause.STOPPED, 9)
    berth.settled()
    assert berth.life is Life.FREE
    assert berth is ledger.free_berth()


@pytest.mark.parametrize("step", ["open", "settled"])
def test_a_live_berth_is_neither_opened_again_nor_settled(berth: Berth, step: str) -> None:
    """Nothing is overwritten: an incarnation's memory is its own until its records are settled."""
    with pytest.raises(AssertionError):
        berth.open(seat=0, incarnation=2, now=2.0) if step == "open" else berth.settled()


def test_records_of_the_incarnation_before_are_invisible_until_the_new_one_opens(ledger: Ledger) -> None:
    """A keeper must not beat in the name of the dead while the new child still imports its app."""
    berth = open_berth(ledger)
    claim(RecordBook(berth))
    berth.end(Cause.CRASH)
    berth.settled()
    berth.open(seat=1, incarnation=2, now=2.0)
    assert not berth.readable
    assert list(berth.records()) == []
    RecordBook(berth)
    assert berth.readable
    assert list(berth.records()) == []


def test_a_child_that_dies_before_it_opens_leaves_nothing_to_settle_or_count(ledger: Ledger) -> None:
    berth = open_berth(ledger)
    book = RecordBook(berth)
    claim(book)
    berth.add(Cell.COMPLETED, 5)
    berth.end(Cause.CRASH)
    ledger.absorb(berth)
    berth.settled()
    berth.open(seat=0, incarnation=2, now=2.0)
    berth.end(Cause.CRASH)
    assert list(berth.records()) == []
    ledger.absorb(berth)
    assert ledger.seat_total(0, SeatTotal.COMPLETED) == 5


def test_a_new_incarnation_begins_to_count_at_zero(ledger: Ledger) -> None:
    berth = open_berth(ledger)
    RecordBook(berth)
    berth.add(Cell.POLLS, 7)
    berth.set_clock(Clock.LAST_GOOD_POLL, 5.0)
    berth.end(Cause.CLEAN)
    berth.settled()
    berth.open(seat=0, incarnation=2, now=2.0)
    RecordBook(berth)
    assert berth.get(Cell.POLLS) == 0
    assert berth.clock(Clock.LAST_GOOD_POLL) == 0.0
    assert berth.clock(Clock.STARTED_AT) == 2.0


def test_a_seat_keeps_the_counts_of_all_its_incarnations(ledger: Ledger) -> None:
    for seat, completed in ((0, 3), (1, 10), (0, 4)):
        berth = open_berth(ledger, seat=seat)
        RecordBook(berth)
        berth.add(Cell.COMPLETED, completed)
        berth.add(Cell.LOST)
        berth.end(Cause.CLEAN)
        ledger.absorb(berth)
        berth.settled()
    assert [ledger.seat_total(seat, SeatTotal.COMPLETED) for seat in (0, 1)] == [7, 10]
    assert ledger.ended_total(SeatTotal.COMPLETED) == 17
    assert ledger.ended_total(SeatTotal.LOST) == 3
    assert ledger.ended_total(SeatTotal.FAILED) == 0


def test_there_are_berths_for_an_old_and_a_new_incarnation_of_each_seat_and_then_none(ledger: Ledger) -> None:
    """With none free a seat waits; nothing is overwritten."""
    taken = [open_berth(ledger, seat=number % 2) for number in range(2 * ledger.seats + 4)]
    assert ledger.free_berth() is None
    for number, berth in enumerate(taken):
        claim(RecordBook(berth), activity_id=f"of-{number}")
    assert [r.activity_id for berth in taken for r in berth.records()] == [
        f"of-{number}" for number in range(len(taken))
    ]


def test_the_representation_is_a_status_line(ledger: Ledger, berth: Berth, book: RecordBook) -> None:
    claim(book)
    assert repr(berth) == "<Berth 0 live, seat 0.1, 1 records>"
    assert repr(ledger) == "<Ledger [1 berths in use of 8]>"


def test_a_book_has_room_for_running_waiting_and_undelivered_work() -> None:
    """Deliveries are bounded at 4 x slots; a surplus poll or two fits besides (faults E19)."""
    assert records_needed(4, 10) == 5 * 4 + 3 * 10


# The host's cells and its token


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
    ledger = Ledger(seats=1, records=1)

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
