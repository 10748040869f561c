"""How a supervisor comes to its end: drain, release, kill, and the keeper's last minute; pure."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from flowherd.exits import Exit as Code
from flowherd_supervisor.core.actions import Drain, FinishKeeper, Level, Release
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.state import Mode, Phase, Seat

if TYPE_CHECKING:
    from flowherd_supervisor.core.transition import Turn

RELEASE_WITHIN_S = 0.5  # on the second signal; then SIGKILL
DRAIN_MARGIN_S = 1.5  # beyond the graceful timeout: workers give back what is left
SETTLE_WITHIN_S = 5.0  # the keeper's last minute after a calm stop
SETTLE_IN_HURRY_S = 0.4
KEEPER_MARGIN_S = 0.1
_TIME_IS_UP, _NOT_SETTLED = "the time to stop is up", "it could not settle in time"
_NOT_NEEDED = "it is not needed any more"


def stop_requested(turn: Turn, times: int) -> None:
    """First: drain. Second: give everything back now. Third: kill (faults.md P2, P4).

    Only requests count: the first one after a drain that began by itself changes nothing.
    """
    stops = turn.state.stops + times
    turn.state = replace(turn.state, stops=stops)
    if stops == 1:
        begin_drain(turn, Code.CLEAN)
        return
    begin_release(turn, Code.CLEAN)
    if stops > 2:  # the third
        kill_workers(turn)
        if turn.state.mode is Mode.FINISHING:
            _kill_keeper(turn)


def begin_drain(turn: Turn, code: Code) -> None:
    """Workers finish what runs; those that hold nothing yet are killed."""
    turn.blame(code)
    if turn.state.mode is not Mode.SERVING:
        return
    within_s = turn.state.plan.graceful_timeout_s
    turn.state = replace(turn.state, mode=Mode.DRAINING, deadline=turn.now + within_s + DRAIN_MARGIN_S)
    turn.note("draining", within_s=within_s)
    end_molds(turn, {Phase.STARTING, Phase.BACKOFF})
    for seat in turn.state.workers:
        if seat.phase is Phase.RUNNING:
            turn.put(seat.with_phase(Phase.DRAINING))
            turn.actions.append(Drain(seat.number, seat.incarnation, within_s))
        else:
            _drop(turn, seat)


def begin_release(turn: Turn, code: Code) -> None:
    """Workers get half a second to give everything back, a keeper that settles already not much more."""
    turn.blame(code)
    match turn.state.mode:
        case Mode.FINISHING:
            _hasten_keeper(turn)
        case Mode.SERVING | Mode.DRAINING:
            turn.state = replace(turn.state, mode=Mode.RELEASING, deadline=turn.now + RELEASE_WITHIN_S)
            turn.note("releasing", within_s=RELEASE_WITHIN_S)
            end_molds(turn, set(Phase))
            for seat in turn.state.workers:
                if seat.phase in {Phase.RUNNING, Phase.DRAINING}:
                    turn.put(seat.with_phase(Phase.DRAINING))
                    turn.actions.append(Release(seat.number, seat.incarnation, RELEASE_WITHIN_S))
                else:
                    _drop(turn, seat)


def _drop(turn: Turn, seat: Seat) -> None:
    """Ends a seat that holds no work."""
    if seat.phase is Phase.STARTING:
        turn.kill(seat, "the host stops")
    elif not seat.alive:
        turn.put(seat.with_phase(Phase.STOPPED))


def end_molds(turn: Turn, phases: set[Phase]) -> None:
    """Ends the molds that are in one of these phases; they hold nothing but memory."""
    for seat in turn.state.molds.seats:
        if seat.phase in phases:
            turn.kill(seat, _NOT_NEEDED) if seat.alive else turn.put(seat.with_phase(Phase.STOPPED))


def kill_workers(turn: Turn) -> None:
    """Ends every worker that is still there."""
    for seat in turn.state.workers:
        if seat.alive and seat.phase is not Phase.DYING:
            turn.note("process_killed", Level.WARNING, process=seat.number, reason=_TIME_IS_UP)
            turn.blame(Code.RELEASED)
            turn.kill(seat, _TIME_IS_UP)


def finish_if_empty(turn: Turn) -> None:
    """Once no worker is left, and nothing that could fork, the keeper settles what they held, and ends."""
    state = turn.state
    if state.mode not in {Mode.DRAINING, Mode.RELEASING} or any(seat.alive for seat in state.workers):
        return
    if state.molds.seats:
        end_molds(turn, {Phase.RUNNING})
    if state.molds.seats or state.isolates:
        return
    within_s = SETTLE_WITHIN_S if state.mode is Mode.DRAINING else SETTLE_IN_HURRY_S
    turn.state = replace(state, mode=Mode.FINISHING, deadline=turn.now + within_s + KEEPER_MARGIN_S)
    if not state.keeper.alive:
        turn.spawn(state.keeper)
    finish_keeper(turn)


def finish_keeper(turn: Turn) -> None:
    """Tells the keeper how much time it has; one that is still being made is told once it exists."""
    keeper = turn.state.keeper
    if keeper.pid is not None and turn.state.deadline < inf:
        within_s = max(0.0, turn.state.deadline - KEEPER_MARGIN_S - turn.now)
        turn.actions.append(FinishKeeper(keeper.incarnation, within_s))


def _hasten_keeper(turn: Turn) -> None:
    sooner = turn.now + SETTLE_IN_HURRY_S + KEEPER_MARGIN_S
    if sooner < turn.state.deadline < inf:
        turn.state = replace(turn.state, deadline=sooner)
        finish_keeper(turn)


def _kill_keeper(turn: Turn) -> None:
    turn.state = replace(turn.state, deadline=inf)
    turn.note("keeper_killed", Level.ERROR, process=KEEPER, reason=_NOT_SETTLED)
    turn.blame(Code.RELEASED)
    turn.kill(turn.state.keeper, _NOT_SETTLED)


def patience_ended(turn: Turn) -> None:
    """The time of the present mode is up."""
    if turn.state.mode is Mode.FINISHING:
        _kill_keeper(turn)
    else:
        turn.state = replace(turn.state, deadline=inf)
        kill_workers(turn)
