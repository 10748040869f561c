"""Isolates: children of the supervisor that each work for one worker, one activity at a time.

A worker requests an isolate under a key of its own and gets a message when it has started and when it has ended. While
the worker lives, each request gets at most one start and exactly one end.
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
)
from flowherd_supervisor.core.state import Isolate, Mode, Phase

if TYPE_CHECKING:
    from flowherd_supervisor.core.state import ProcessState
    from flowherd_supervisor.core.transition import Transition

OUTLIVES_WORKER_S = 1.0  # enough to see that its channel has closed


def heard(transition: Transition, event: events.IsolateEvent) -> None:
    """Handles an event about one isolate or a request of its worker."""
    isolate = transition.state.isolate(event.index, event.incarnation, event.key)
    match event:
        case events.IsolateNeeded(index, incarnation, key):
            _needed(transition, Isolate(index, incarnation, key), isolate)
        case _ if isolate is None:
            return  # it ended before the worker's request arrived
        case events.IsolateForked(pid=pid):
            _forked(transition, isolate, pid)
        case events.IsolateNotForked(reason=reason):
            _gone(transition, isolate, reason=reason)
        case events.IsolateKillWanted():
            kill(transition, isolate)
        case events.IsolateExited(status=status):
            _gone(transition, isolate, status)


def go_on(transition: Transition) -> None:
    """Orders the isolates that wait: from the zygote, or directly if none is coming."""
    state = transition.state
    if state.zygotes.awaited and state.mode is Mode.SERVING:
        return
    zygote = state.zygotes.ready
    for isolate in state.isolates:
        if isolate.phase is Phase.WAITING and state.mode not in {Mode.SERVING, Mode.DRAINING}:
            kill(transition, isolate)
        elif isolate.phase is Phase.WAITING:
            maker = zygote.incarnation if zygote is not None else 0
            transition.put_isolate(
                replace(isolate, phase=Phase.STARTING, maker=maker, asked_at=transition.now)
            )
            transition.actions.append(SpawnIsolate(*isolate.names, maker))


def worker_ended(transition: Transition, worker: ProcessState) -> None:
    """Kills the isolates of a worker that has ended: after a second, or at once during a stop."""
    for isolate in transition.state.isolates:
        if (isolate.index, isolate.incarnation) != (worker.number, worker.incarnation):
            continue
        if transition.state.mode is not Mode.SERVING or isolate.phase is Phase.WAITING:
            kill(transition, isolate)
        elif isolate.phase is not Phase.DYING:
            transition.put_isolate(replace(isolate, kill_at=transition.now + OUTLIVES_WORKER_S))


def zygote_ended(transition: Transition, incarnation: int) -> None:
    """Makes isolates that an ended zygote has not forked wait for the next one, with the same descriptors."""
    for isolate in transition.state.isolates:
        if isolate.unanswered and isolate.maker == incarnation:
            if isolate.phase is Phase.DYING:
                _gone(transition, isolate, reason="it was ended before it had begun")
            else:
                transition.put_isolate(replace(isolate, phase=Phase.WAITING, maker=0))


def time_passed(transition: Transition) -> None:
    """Kills isolates that outlive their workers."""
    for isolate in transition.state.isolates:
        if transition.now >= isolate.kill_at:
            kill(transition, isolate)


def kill(transition: Transition, isolate: Isolate) -> None:
    """Kills an isolate's process group once; one that is still being forked is killed as soon as it exists."""
    match isolate.phase:
        case Phase.WAITING:
            _gone(transition, isolate, reason="it was ended before it had begun")
        case Phase.STARTING | Phase.RUNNING:
            transition.put_isolate(replace(isolate, phase=Phase.DYING, kill_at=inf))
            if isolate.pid is not None:
                transition.actions.append(KillIsolate(*isolate.names))
        case _:
            return


def _needed(transition: Transition, wanted: Isolate, taken: Isolate | None) -> None:
    """Accepts a request of a worker that is not ending; `go_on` orders the isolate."""
    if taken is not None:
        transition.note("isolate_key_taken", process=wanted.index, isolate=wanted.key)
    elif (
        transition.state.find(wanted.index, wanted.incarnation) is None
        or transition.state.mode is Mode.RELEASING
    ):
        transition.actions.append(TellIsolateEnded(*wanted.names, 0, "the worker is ending"))
    else:
        transition.put_isolate(wanted)


def _forked(transition: Transition, isolate: Isolate, pid: int) -> None:
    transition.put_isolate(replace(isolate, pid=pid))
    transition.zygote_forks(isolate.maker)
    if isolate.phase is Phase.DYING:
        transition.actions.append(KillIsolate(*isolate.names))
    else:
        transition.put_isolate(replace(isolate, pid=pid, phase=Phase.RUNNING))
        transition.actions.append(TellIsolateStarted(*isolate.names, pid))


def _gone(transition: Transition, isolate: Isolate, status: int = 0, reason: str = "") -> None:
    transition.drop_isolate(isolate)
    transition.actions.append(TellIsolateEnded(*isolate.names, status, reason))
