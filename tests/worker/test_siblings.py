"""What the processes of a host see of each other's polling, through real berths and real eventfds."""

from __future__ import annotations

import select

import pytest

from flowherd.working.pacing import Sibling
from flowherd.ledger import Cause, Cell, Clock, Ledger, RecordBook
from flowherd.ledger.wakeups import Bells
from flowherd.ledger.siblings import Siblings


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(seats=4, records=2)
    for berth in ledger.berths[:3]:
        berth.open(seat=berth.number, incarnation=1, now=1.0)
        RecordBook(berth)
    return ledger


def test_a_process_sees_what_the_others_have_published_and_not_itself(ledger: Ledger) -> None:
    """Single writer per cell: each writes its own berth and reads the others."""
    one, two = (Siblings(ledger.berths, ledger.berths[number], None) for number in (0, 1))
    one.say_worked(5.0)
    one.say_polled(6.0)
    one.say_drained(6.0)
    one.say_next(7.0)
    ledger.berths[0].put(Cell.RUNNING, 3)
    ledger.berths[0].put(Cell.ON_LOOP, 2)
    ledger.berths[0].set_clock(Clock.LOOP_LAG_S, 0.25)
    expected = Sibling(0, 7.0, 6.0, 6.0, 5.0, load=3, lag_s=0.25, is_on_loop=True)
    assert two.look(10.0) == [expected, Sibling(2)]
    assert one.me() == expected


def test_a_poll_under_way_takes_a_process_out_of_the_calendar(ledger: Ledger) -> None:
    """It may hang for as long as the engine likes."""
    siblings = Siblings(ledger.berths, ledger.berths[0], None)
    siblings.say_next(7.0)
    siblings.say_polled(6.9)
    assert siblings.me().next_poll_at == 0.0


def test_an_ended_process_is_not_seen_any_more_and_a_new_one_is_seen_soon(ledger: Ledger) -> None:
    siblings = Siblings(ledger.berths, ledger.berths[0], None)
    assert [one.number for one in siblings.look(10.0)] == [1, 2]
    ledger.berths[1].end(Cause.CRASH)
    assert [one.number for one in siblings.look(10.1)] == [2]
    ledger.berths[3].open(seat=1, incarnation=2, now=10.1)
    assert [one.number for one in siblings.look(20.0)] == [2]  # not readable yet
    RecordBook(ledger.berths[3])
    assert [one.number for one in siblings.look(20.1)] == [2, 3]


def test_a_new_incarnation_is_not_taken_for_the_old_one_in_the_same_berth(ledger: Ledger) -> None:
    """The cells of the one before are cleared with the rest."""
    berth = ledger.berths[1]
    Siblings(ledger.berths, berth, None).say_next(7.0)
    berth.end(Cause.CRASH)
    berth.settled()
    berth.open(seat=1, incarnation=2, now=10.0)
    siblings = Siblings(ledger.berths, ledger.berths[0], None)
    assert [one.number for one in siblings.look(20.0)] == [2]
    RecordBook(berth)
    assert siblings.look(20.1)[0] == Sibling(1)


def test_waking_a_sibling_rings_its_bell_alone(ledger: Ledger) -> None:
    bells = Bells(len(ledger.berths))
    try:
        Siblings(ledger.berths, ledger.berths[0], bells).wake(2)
        ready, _, _ = select.select([bells.of(number) for number in range(len(ledger.berths))], [], [], 0)
        assert ready == [bells.of(2)]
    finally:
        bells.close()


def test_a_process_that_is_alone_has_no_siblings(ledger: Ledger) -> None:
    siblings = Siblings.none(ledger.berths[0])
    siblings.wake(1)
    assert siblings.look(10.0) == []
