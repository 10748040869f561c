"""`--burst` ends when all work is done, with a real ledger and this process as the worker."""

from __future__ import annotations

import pytest
from brain import STOP, Brain
from worker_kit import claim, open_segment

from flowherd.ledger import Cause, Cell, Ledger, RecordWriter
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Drain
from flowherd_supervisor.core.state import Mode
from flowherd_supervisor.shell.burst_mode import Burst

IDLE_S = 3.0


class Looks:
    """A burst, and the worker that it watches."""

    def __init__(self) -> None:
        self.ledger = Ledger(processes=1, records=4)
        self.segment = open_segment(self.ledger)
        self.writer = RecordWriter(self.segment)
        self.state = Brain(burst_idle_s=IDLE_S).serve().state
        self._burst = Burst(self.ledger)
        self.at_s = 0.0

    def after(self, seconds: float, *, polls: int = 0) -> bool:
        """True if the burst is over after this time and this number of empty polls."""
        self.at_s += seconds
        self.segment.add(Cell.EMPTY_POLLS, polls)
        return self._burst.is_worked_off(self.state, self.at_s)


@pytest.fixture
def looks() -> Looks:
    made = Looks()
    assert not made.after(0.0, polls=1)
    return made


def test_it_is_over_once_polls_have_brought_nothing_for_the_idle_time(looks: Looks) -> None:
    """Silence is not enough: an engine that does not answer may have a full queue."""
    assert not looks.after(100.0)
    assert looks.after(0.1, polls=1)


def test_it_takes_the_whole_idle_time(looks: Looks) -> None:
    """The next step of a workflow is queued a moment after the last one has ended."""
    assert not looks.after(IDLE_S - 0.1, polls=5)
    assert looks.after(0.1)


def test_what_is_held_and_what_has_just_been_claimed_is_work(looks: Looks) -> None:
    """Also an activity that began and ended between two looks."""
    index, _ = claim(looks.writer)
    assert not looks.after(IDLE_S, polls=1)
    assert not looks.after(IDLE_S, polls=1)
    looks.writer.clear(index)
    assert not looks.after(IDLE_S - 0.1, polls=1)
    looks.segment.add(Cell.CLAIMED)
    assert not looks.after(0.2, polls=1)
    assert looks.after(IDLE_S, polls=1)


def test_what_a_dead_process_held_is_work_until_it_is_settled(looks: Looks) -> None:
    """It is requeued."""
    looks.segment.end(Cause.SIGNAL, 9)
    assert not looks.after(IDLE_S, polls=1)
    assert not looks.after(IDLE_S, polls=1)
    looks.ledger.absorb(looks.segment)
    open_segment(looks.ledger)
    assert not looks.after(IDLE_S - 0.1, polls=1)


def test_while_polling_is_paused_and_without_the_flag_it_is_never_over(looks: Looks) -> None:
    """A paused host is meant to stay."""
    brain = Brain(burst_idle_s=IDLE_S).serve()
    brain.hears(events.PollingSwitched(on=False))
    looks.state = brain.state
    assert not looks.after(IDLE_S, polls=1)
    looks.state = Brain().serve().state
    assert not looks.after(IDLE_S, polls=1)


def test_the_brain_drains_once_all_is_done() -> None:
    """As after TERM, with exit code 0; a stop under way is not changed."""
    brain = Brain(burst_idle_s=IDLE_S).serve()
    orders = brain.hears(events.WorkedOff(IDLE_S))
    assert [type(order) for order in orders] == [Drain, Drain]
    assert (brain.state.mode, brain.state.exit_code, brain.said("worked_off")) == (Mode.DRAINING, 0, 1)
    stopping = Brain(burst_idle_s=IDLE_S).serve()
    stopping.hears(STOP)
    assert stopping.hears(events.WorkedOff(IDLE_S)) == []
    assert stopping.said("worked_off") == 0
