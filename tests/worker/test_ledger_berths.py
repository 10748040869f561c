"""A berth's life, the seats' totals and the host's token."""

from __future__ import annotations

import pytest
from worker_kit import child_that, claim, open_berth

from flowherd.ledger import (
    Berth,
    Cause,
    Cell,
    Clock,
    Host,
    Ledger,
    Life,
    RecordBook,
    SeatTotal,
    records_needed,
)


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


def test_no_two_records_of_a_host_have_the_same_sequence(ledger: Ledger) -> None:
    """An activity that kills each process it is the first in has died twice, not once in the keeper's books."""
    sequences = []
    for number in range(3):
        berth = ledger.berths[number % 2]
        berth.open(seat=0, incarnation=number + 1, now=1.0)
        sequences += [claim(RecordBook(berth))[1]]
        berth.end(Cause.CRASH)
        berth.settled()
    assert len(set(sequences)) == 3
    assert max(sequences) << 2 < 1 << 64


def test_a_seat_keeps_the_counts_of_all_its_incarnations(ledger: Ledger) -> None:
    for seat, completed in ((0, 3), (1, 10), (0, 4)):
        berth = open_berth(ledger, seat=seat)
        RecordBook(berth)
        berth.add(Cell.COMPLETED, completed)
        berth.add(Cell.LOST)
        berth.end(Cause.CLEAN)
        ledger.absorb(berth)
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


def test_a_host_is_at_rest_while_nobody_holds_a_record_or_waits_to_be_settled(ledger: Ledger) -> None:
    """The keeper may sleep then, so nothing that it has to look after may escape this."""
    found = {"all are free": ledger.berths.are_at_rest}
    RecordBook(open_berth(ledger))
    berth = open_berth(ledger)
    found["a worker has not begun"] = ledger.berths.are_at_rest
    book = RecordBook(berth)
    claim(book, activity_id="a-1")
    index, _ = claim(book, activity_id="a-2")
    found["two are claimed"] = ledger.berths.are_at_rest
    book.clear(0)
    book.zombie(index)
    found["a zombie is left"] = ledger.berths.are_at_rest
    book.clear(index)
    found["both are cleared"] = ledger.berths.are_at_rest
    claim(book, activity_id="a-3")
    berth.end(Cause.CRASH)
    found["one has ended"] = ledger.berths.are_at_rest
    berth.settled()
    found["it is settled"] = ledger.berths.are_at_rest
    berth.open(seat=0, incarnation=3, now=2.0)
    found["its successor has not begun"] = ledger.berths.are_at_rest
    RecordBook(berth)
    found["its successor has begun"] = ledger.berths.are_at_rest
    busy = {name for name, is_at_rest in found.items() if not is_at_rest}
    assert busy == {"two are claimed", "a zombie is left", "one has ended"}


def test_the_representation_is_a_status_line(ledger: Ledger, berth: Berth, book: RecordBook) -> None:
    claim(book)
    assert repr(berth) == "<Berth 0 live, seat 0.1, 1 records>"
    assert repr(ledger) == "<Ledger [1 berths in use of 8]>"


def test_a_book_has_room_for_running_waiting_and_undelivered_work() -> None:
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
