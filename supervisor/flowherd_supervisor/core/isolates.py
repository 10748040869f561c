"""Isolates: processes that hang from the supervisor and work for one worker, one activity at a time; pure.

A worker asks for one by a key of its own, and is told that it has been started and that it has ended; each
question is answered by at most one start and by exactly one end, as long as the worker lives to hear it.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import (
    KillIsolate,
    SpawnIsolate,
    TellIsolateEnded,
    TellIsolateStarted,
    TerminateIsolate,
)
from flowherd_supervisor.core.state import Isolate, Mode, Phase

if TYPE_CHECKING:
    from flowherd_supervisor.core.state import Seat
    from flowherd_supervisor.core.transition import Turn

OUTLIVES_WORKER_S = 1.0  # it has seen the end of its channel by then


def heard(turn: Turn, event: events.IsolateEvent) -> None:
    """News of one isolate, or of what its worker wants."""
    isolate = turn.state.isolate(event.seat, event.incarnation, event.key)
    match event:
        case events.IsolateNeeded(seat, incarnation, key):
            _needed(turn, Isolate(seat, incarnation, key), isolate)
        case _ if isolate is None:
            return  # its end and its worker's wish have crossed
        case events.IsolateForked(pid=pid):
            _forked(turn, isolate, pid)
        case events.IsolateNotForked(reason=reason):
            _gone(turn, isolate, reason=reason)
        case events.IsolateStopWanted():
            _stop(turn, isolate)
        case events.IsolateKillWanted():
            kill(turn, isolate)
        case events.IsolateExited(status=status):
            _gone(turn, isolate, status)


def go_on(turn: Turn) -> None:
    """Has those made that wait: by the mold, or directly where none is coming."""
    state = turn.state
    if state.molds.awaited and state.mode is Mode.SERVING:
        return
    mold = state.molds.ready
    for isolate in state.isolates:
        if isolate.phase is Phase.WAITING and state.mode not in {Mode.SERVING, Mode.DRAINING}:
            kill(turn, isolate)
        elif isolate.phase is Phase.WAITING:
            maker = mold.incarnation if mold is not None else 0
            turn.put_isolate(replace(isolate, phase=Phase.STARTING, maker=maker, asked_at=turn.now))
            turn.actions.append(SpawnIsolate(*isolate.names, maker))


def worker_ended(turn: Turn, worker: Seat) -> None:
    """What has worked for it sees the end of its channel, and is killed soon, during a stop at once."""
    for isolate in turn.state.isolates:
        if (isolate.seat, isolate.incarnation) != (worker.number, worker.incarnation):
            continue
        if turn.state.mode is not Mode.SERVING or isolate.phase is Phase.WAITING:
            kill(turn, isolate)
        elif isolate.phase is not Phase.DYING:
            turn.put_isolate(replace(isolate, kill_at=turn.now + OUTLIVES_WORKER_S))


def mold_ended(turn: Turn, incarnation: int) -> None:
    """What it has not made waits for the next one, with the same descriptors."""
    for isolate in turn.state.isolates:
        if isolate.unanswered and isolate.maker == incarnation:
            if isolate.phase is Phase.DYING:
                _gone(turn, isolate, reason="it was ended before it had begun")
            else:
                turn.put_isolate(replace(isolate, phase=Phase.WAITING, maker=0))


def time_passed(turn: Turn) -> None:
    """Ends those that outlive their workers."""
    for isolate in turn.state.isolates:
        if turn.now >= isolate.kill_at:
            kill(turn, isolate)


def kill(turn: Turn, isolate: Isolate) -> None:
    """SIGKILL for its group, once; one that is still being made is killed as soon as it exists."""
    match isolate.phase:
        case Phase.WAITING:
            _gone(turn, isolate, reason="it was ended before it had begun")
        case Phase.STARTING | Phase.RUNNING:
            turn.put_isolate(replace(isolate, phase=Phase.DYING, kill_at=inf))
            if isolate.pid is not None:
                turn.actions.append(KillIsolate(*isolate.names))
        case _:
            return


def _needed(turn: Turn, wanted: Isolate, taken: Isolate | None) -> None:
    """For a worker that lives; `go_on` has it made."""
    if taken is not None:
        turn.note("isolate_key_taken", process=wanted.seat, isolate=wanted.key)
    elif turn.state.find(wanted.seat, wanted.incarnation) is None or turn.state.mode is Mode.RELEASING:
        turn.actions.append(TellIsolateEnded(*wanted.names, 0, "the worker is ending"))
    else:
        turn.put_isolate(wanted)


def _forked(turn: Turn, isolate: Isolate, pid: int) -> None:
    turn.put_isolate(replace(isolate, pid=pid))
    turn.mold_forks(isolate.maker)
    if isolate.phase is Phase.DYING:
        turn.actions.append(KillIsolate(*isolate.names))
    else:
        turn.put_isolate(replace(isolate, pid=pid, phase=Phase.RUNNING))
        turn.actions.append(TellIsolateStarted(*isolate.names, pid))


def _stop(turn: Turn, isolate: Isolate) -> None:
    """SIGTERM for its group; what has not begun needs no warning."""
    if isolate.phase is Phase.RUNNING:
        turn.actions.append(TerminateIsolate(*isolate.names))
    else:
        kill(turn, isolate)


def _gone(turn: Turn, isolate: Isolate, status: int = 0, reason: str = "") -> None:
    turn.drop_isolate(isolate)
    turn.actions.append(TellIsolateEnded(*isolate.names, status, reason))
