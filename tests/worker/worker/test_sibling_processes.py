"""What the processes of a host see of each other's polling, through real segments and real eventfds."""

from __future__ import annotations

import select

import pytest

from flowherd.ledger import Cause, Cell, Clock, Ledger, RecordWriter
from flowherd.ledger.wakeups import Wakeups
from flowherd.worker.sibling_processes import Sibling, Siblings


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(processes=4, records=2)
    for segment in ledger.segments[:3]:
        segment.open(index=segment.number, incarnation=1, now=1.0)
        RecordWriter(segment)
    return ledger


def test_a_process_sees_what_the_others_have_published_and_not_itself(ledger: Ledger) -> None:
    """Single writer per cell: each writes its own segment and reads the others."""
    one, two = (Siblings(ledger.segments, ledger.segments[number], None) for number in (0, 1))
    one.say_worked(5.0)
    one.say_polled(6.0)
    one.say_drained(6.0)
    one.say_next(7.0)
    one.say_pause(0.05, 4.0)
    ledger.segments[0].put(Cell.RUNNING, 3)
    ledger.segments[0].put(Cell.ON_LOOP, 2)
    ledger.segments[0].set_clock(Clock.LOOP_LAG_S, 0.25)
    expected = Sibling(
        0, 7.0, 6.0, 6.0, 5.0, load=3, lag_s=0.25, is_on_loop=True, pause_s=0.05, learned_at=4.0
    )
    assert two.look(10.0) == [expected, Sibling(2)]
    assert one.me() == expected


def test_a_poll_under_way_takes_a_process_out_of_the_calendar(ledger: Ledger) -> None:
    """It may hang for as long as the engine likes."""
    siblings = Siblings(ledger.segments, ledger.segments[0], None)
    siblings.say_next(7.0)
    siblings.say_polled(6.9)
    assert siblings.me().next_poll_at == 0.0


def test_an_ended_process_is_not_seen_any_more_and_a_new_one_is_seen_soon(ledger: Ledger) -> None:
    siblings = Siblings(ledger.segments, ledger.segments[0], None)
    assert [one.number for one in siblings.look(10.0)] == [1, 2]
    ledger.segments[1].end(Cause.SIGNAL)
    assert [one.number for one in siblings.look(10.1)] == [2]
    ledger.segments[3].open(index=1, incarnation=2, now=10.1)
    assert [one.number for one in siblings.look(20.0)] == [2]  # not readable yet
    RecordWriter(ledger.segments[3])
    assert [one.number for one in siblings.look(20.1)] == [2, 3]


def test_a_new_incarnation_is_not_taken_for_the_old_one_in_the_same_segment(ledger: Ledger) -> None:
    """The cells of the one before are cleared with the rest."""
    segment = ledger.segments[1]
    Siblings(ledger.segments, segment, None).say_next(7.0)
    segment.end(Cause.SIGNAL)
    segment.settled()
    segment.open(index=1, incarnation=2, now=10.0)
    siblings = Siblings(ledger.segments, ledger.segments[0], None)
    assert [one.number for one in siblings.look(20.0)] == [2]
    RecordWriter(segment)
    assert siblings.look(20.1)[0] == Sibling(1)


def test_waking_a_sibling_wakes_it_alone(ledger: Ledger) -> None:
    wakeups = Wakeups(len(ledger.segments))
    try:
        Siblings(ledger.segments, ledger.segments[0], wakeups).wake(2)
        ready, _, _ = select.select([wakeups.of(number) for number in range(len(ledger.segments))], [], [], 0)
        assert ready == [wakeups.of(2)]
    finally:
        wakeups.close()


def test_a_process_that_is_alone_has_no_siblings(ledger: Ledger) -> None:
    siblings = Siblings.none(ledger.segments[0])
    siblings.wake(1)
    assert siblings.look(10.0) == []
