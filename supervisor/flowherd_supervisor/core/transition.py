"""One decision under way: the state and the orders so far; it holds no policy and does nothing itself."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core.actions import Action, Exit, Kill, Level, Note, SetSlots, Spawn
from flowherd_supervisor.core.events import KEEPER, MOLD
from flowherd_supervisor.core.state import Mode, Phase, Seat, State

if TYPE_CHECKING:
    from flowherd.exits import Exit as Code
    from flowherd_supervisor.core.restarts import Rng
    from flowherd_supervisor.core.state import Isolate


class Turn:
    """Collects what one event leads to; the functions of births, deaths and stops write on it."""

    def __init__(self, state: State, now: float, rng: Rng) -> None:
        self.state = state
        self.now = now
        self.rng = rng
        self.actions: list[Action] = []

    def note(self, event: str, level: Level = Level.INFO, report: str = "", **fields: object) -> None:
        """Adds a line for the log."""
        self.actions.append(Note(event, fields, level, report))

    def put(self, seat: Seat) -> None:
        """Remembers a seat."""
        self.state = self.state.with_seat(seat)

    def blame(self, code: Code) -> None:
        """The first reason for a bad exit code stays."""
        self.state = replace(self.state, exit_code=self.state.exit_code or code)

    def count(self, seat: Seat, cause: str) -> None:
        """Remembers why a worker was replaced; `cause` is one of a closed list (faults.md S2)."""
        of_seat = self.state.causes.get(seat.number, {})
        of_seat = {**of_seat, cause: of_seat.get(cause, 0) + 1}
        self.state = replace(self.state, causes={**self.state.causes, seat.number: of_seat})

    def spawn(self, seat: Seat) -> None:
        """Orders the seat's next incarnation; a worker waits for the mold, if that has yet to come."""
        assert not seat.alive, seat
        molds = self.state.molds
        is_worker = seat.number not in {KEEPER, MOLD}
        if is_worker and molds.awaited:
            self.put(replace(seat, phase=Phase.WAITING, pid=None, retry_at=inf))
            return
        maker = molds.ready.incarnation if is_worker and molds.wanted and molds.ready else 0
        incarnation = self.state.incarnations.get(seat.number, 0) + 1
        self.state = replace(self.state, incarnations={**self.state.incarnations, seat.number: incarnation})
        seat = replace(
            seat,
            phase=Phase.STARTING,
            incarnation=incarnation,
            pid=None,
            started_at=self.now,
            ready_at=None,
            retry_at=inf,
            kill_at=inf,
            is_damaged=False,
            ceiling=seat.limit,
            n=0,
            applied=0,
            held=0,
            workers=(self.state.plan.threads or 1) if is_worker else 1,
            maker=maker,
            killed_for="",
        )
        self.put(seat)
        self.actions.append(Spawn(seat.number, seat.incarnation, seat.limit, maker, seat.workers))

    def retry_in(self, seat: Seat, wait_s: float) -> None:
        """Leaves the seat empty for a while."""
        self.put(replace(seat, phase=Phase.BACKOFF, pid=None, retry_at=self.now + wait_s))

    def grant(self, seat: Seat, limit: int) -> None:
        """Changes a seat's number of slots; one that is just being forked is asked again once it exists."""
        if not seat.alive:
            self.put(replace(seat, limit=limit, ceiling=limit))
        elif seat.pid is not None:
            n = seat.n + 1
            self.put(replace(seat, limit=limit, ceiling=max(seat.ceiling, limit), n=n))
            self.actions.append(SetSlots(seat.number, seat.incarnation, limit, n))

    def mold_forks(self, maker: int) -> None:
        """Remembers that one has made what it was asked for; 0 is the supervisor."""
        if maker:
            molds = replace(self.state.molds, failed_in_row=0, forked_at=self.now)
            self.state = replace(self.state, molds=molds)

    def put_isolate(self, isolate: Isolate) -> None:
        """Remembers an isolate."""
        others = (one for one in self.state.isolates if one.names != isolate.names)
        self.state = replace(self.state, isolates=(*others, isolate))

    def drop_isolate(self, isolate: Isolate) -> None:
        """It belongs to the past."""
        kept = tuple(one for one in self.state.isolates if one.names != isolate.names)
        self.state = replace(self.state, isolates=kept)

    def kill(self, seat: Seat, why: str) -> None:
        """SIGKILL, once, and why; a process that is still being made is killed as soon as it exists."""
        if not seat.alive or seat.phase is Phase.DYING:
            return
        self.put(replace(seat, phase=Phase.DYING, killed_for=why))
        if seat.pid is not None:
            self.actions.append(Kill(seat.number, seat.incarnation))

    def leave(self) -> None:
        """The last order of all."""
        self.state = replace(self.state, mode=Mode.ENDED, deadline=inf)
        self.actions.append(Exit(self.state.exit_code))
