"""Replacing processes while the others work: reload, scaling, recycling; pure.

Make before break: a process retires only when its successor is Ready. A successor that does not come
up leaves the old process where it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd_supervisor.core.actions import Drain, Level
from flowherd_supervisor.core.state import Mode, Phase, Seat
from flowherd_supervisor.core.stops import DRAIN_MARGIN_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.core.transition import Turn


def begin(turn: Turn, numbers: Iterable[int]) -> None:
    """Replaces these processes, one after the other (faults.md P6)."""
    turn.state = replace(turn.state, rolling=tuple(numbers))
    go_on(turn)


def scale_requested(turn: Turn, wanted: int) -> None:
    """Changes the number of processes; the budget stays and is split anew."""
    plan = turn.state.plan
    most = min(plan.most_processes, plan.concurrency)
    if not 1 <= wanted <= most or turn.state.mode is not Mode.SERVING:
        turn.note("scale_refused", Level.WARNING, wanted=wanted, at_least=1, at_most=most)
        return
    if wanted != plan.workers:
        turn.note("scaling", processes=wanted, before=plan.workers)
        is_one = plan.threads is not None
        resize(turn, replace(plan, threads=wanted) if is_one else replace(plan, processes=wanted))


def follow_plan(turn: Turn) -> None:
    """Replaces the one process there is when its number of threads is no longer what is wanted."""
    state = turn.state
    seat, busy = state.seats[0], state.rolling or state.molds.awaited or state.molds.reloading
    if state.plan.threads is None or state.mode is not Mode.SERVING or busy:
        return
    if seat.phase is Phase.RUNNING and seat.workers != state.plan.threads:
        supersede(turn, seat, "scale")


def resize(turn: Turn, plan: Plan) -> None:
    """Adds seats, or retires the last ones."""
    state = turn.state
    turn.state = replace(state, plan=plan, seats=state.seats[: plan.processes], rolling=())
    for seat in state.seats[plan.processes :]:
        if seat.alive:
            turn.state = replace(turn.state, retiring=(*turn.state.retiring, seat))
            retire(turn, seat) if seat.phase is Phase.RUNNING else turn.kill(
                seat, "fewer processes are wanted"
            )
    for seat in state.retiring:
        if seat.number >= plan.processes and seat.phase is Phase.RUNNING:
            retire(turn, seat)  # it waited for a successor that will not come
    for number in range(len(state.seats), plan.processes):
        seat = Seat(number)
        turn.state = replace(turn.state, seats=(*turn.state.seats, seat))
        if turn.state.ever_ready or turn.state.molds.ready is not None:
            turn.spawn(seat)


def go_on(turn: Turn) -> None:
    """Replaces the next seat of a reload; one that is not up will be of the new version when it starts."""
    if turn.state.molds.awaited:
        return  # its Ready brings us back here
    while turn.state.rolling:
        seat = turn.state.seats[turn.state.rolling[0]]
        if seat.phase is Phase.RUNNING:
            supersede(turn, seat, "reload")
            return
        if seat.phase is Phase.STARTING:
            return  # it may be of the old version: as above
        turn.state = replace(turn.state, rolling=turn.state.rolling[1:])
    turn.note("reloaded")


def supersede(turn: Turn, seat: Seat, cause: str) -> None:
    """Starts a successor; the process works on until that is Ready."""
    turn.count(seat, cause)
    turn.state = replace(turn.state, retiring=(*turn.state.retiring, seat))
    successor = replace(seat, phase=Phase.WAITING, pid=None, limit=0)
    turn.state = replace(
        turn.state, seats=tuple(successor if s.number == seat.number else s for s in turn.state.seats)
    )
    turn.spawn(successor)


def succeeded(turn: Turn, seat: Seat) -> None:
    """A worker is Ready: its predecessor retires, and the reload goes on."""
    predecessor = turn.state.predecessor(seat)
    if predecessor is not None:
        retire(turn, predecessor)
    if turn.state.rolling[:1] == (seat.number,):
        if predecessor is not None:
            turn.state = replace(turn.state, rolling=turn.state.rolling[1:])
        go_on(turn)


def successor_failed(turn: Turn, seat: Seat, predecessor: Seat) -> None:
    """The old process stays as it is, and the reload ends here (faults.md C20)."""
    if turn.state.plan.threads is not None:
        turn.state = replace(turn.state, plan=replace(turn.state.plan, threads=predecessor.workers))
    turn.note("reload_failed", Level.ERROR, process=seat.number, note="the old version goes on")
    retiring = tuple(old for old in turn.state.retiring if old is not predecessor)
    turn.state = replace(turn.state, retiring=retiring, rolling=())
    kept = replace(predecessor, short_in_row=seat.short_in_row, restarts=seat.restarts)
    turn.state = replace(
        turn.state, seats=tuple(kept if s.number == seat.number else s for s in turn.state.seats)
    )


def recycle(turn: Turn, seat: Seat, reason: str) -> None:
    """Replaces a worker that has done or grown enough; never a crash, and not in the middle of a reload."""
    state = turn.state
    idle = state.mode is Mode.SERVING and not state.rolling and state.predecessor(seat) is None
    idle = idle and not state.molds.awaited
    if idle and seat.phase is Phase.RUNNING and seat in state.seats:
        turn.note("recycling", process=seat.number, reason=reason)
        supersede(turn, seat, "recycle")


def retire(turn: Turn, seat: Seat) -> None:
    """Takes a process's slots away and lets it finish what it has."""
    turn.grant(seat, 0)
    within_s = turn.state.plan.graceful_timeout_s
    retiring = turn.state.find(seat.number, seat.incarnation)
    assert retiring is not None, seat
    turn.put(replace(retiring, phase=Phase.DRAINING, kill_at=turn.now + within_s + DRAIN_MARGIN_S))
    turn.actions.append(Drain(seat.number, seat.incarnation, within_s))
