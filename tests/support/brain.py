"""`decide` with its state, a manual clock and shorthands for events."""

from __future__ import annotations

from random import Random

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Action, Exit, Note, SwitchPolling
from flowherd_supervisor.core.events import KEEPER, ZYGOTE, Event
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.state import Phase, State
from flowherd_supervisor.core.state_machine import decide

SIGKILLED, EXITED_1, EXITED_3 = 9, 1 << 8, 3 << 8


class Brain:
    """`decide` with its state and a clock; 2 processes and 5 slots by default."""

    def __init__(self, processes: int = 2, **plan: object) -> None:
        self.state = State.new(Plan(processes=processes, concurrency=5, **plan))  # type: ignore[arg-type]
        self.now = 100.0
        self.notes: list[Note] = []

    def hears(self, *facts: Event, after: float = 0.0) -> list[Action]:
        """Feeds an event and returns the actions; notes are kept separately."""
        self.now += after
        orders: list[Action] = []
        for fact in facts:
            self.state, new = decide(self.state, fact, self.now, Random(1))
            orders += [order for order in new if not isinstance(order, Note)]
            self.notes += [order for order in new if isinstance(order, Note)]
        return orders

    def at(self, seconds_later: float) -> list[Action]:
        """Sets the time and feeds TimePassed."""
        return self.hears(events.TimePassed(), after=seconds_later)

    def serve(self) -> Brain:
        """Makes keeper and all workers ready, as after a good start."""
        self.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(0), ready(0))
        for number in range(1, len(self.state.processes)):
            self.hears(forked(number), ready(number))
        return self

    def serve_from_zygote(self) -> Brain:
        """Does the same with all workers forked from a zygote."""
        self.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(ZYGOTE), ready(ZYGOTE))
        for number in range(len(self.state.processes)):
            self.hears(forked(number), ready(number))
        return self

    def phases(self) -> list[Phase]:
        return [process.phase for process in self.state.processes]

    def said(self, event: str) -> int:
        return sum(note.event == event for note in self.notes)


def forked(index: int, incarnation: int = 1) -> Event:
    return events.ChildForked(index, incarnation, 1000 + index)


def ready(index: int, incarnation: int = 1, hazards: tuple[str, ...] = ()) -> Event:
    return events.ChildReady(index, incarnation, "py-std", {"add": "loop"}, hazards)


def exited(index: int, incarnation: int = 1, *, status: int = EXITED_1, running: int = 0) -> Event:
    return events.ChildExited(index, incarnation, status, running)


def boot_failed(index: int, incarnation: int = 1, code: int = 3) -> Event:
    return events.BootFailed(index, incarnation, code, "no module named x", "Traceback")


def may_poll(index: int, incarnation: int = 1) -> Action:
    return SwitchPolling(index, incarnation, on=True)


STOP, TWICE = events.StopRequested(), events.StopRequested(times=2)


def leave(brain: Brain) -> int:
    """Lets all processes exit cleanly; returns the exit code."""
    orders: list[Action] = []
    for process in (*brain.state.processes, brain.state.keeper):
        if brain.state.index(process.number).alive:
            orders += brain.hears(exited(process.number, process.incarnation, status=0))
    (code,) = (order.code for order in orders if isinstance(order, Exit))
    return code
