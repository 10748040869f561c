"""The consequences of a process's exit: restart, replacement, backoff, giving up."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from flowherd.end_cause import Cause
from flowherd.exit_codes import Exit as Code
from flowherd_supervisor.core import events, isolates, rolling_replacement, startup, stops
from flowherd_supervisor.core.actions import Abort, Level
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.startup import BOOT_CODES, SPAWN_RETRY_S
from flowherd_supervisor.core.state import Mode, Phase, ProcessState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd_supervisor.core.state import State
    from flowherd_supervisor.core.transition import Transition

ABORTS_APART_S = 60.0
STACKS_WITHIN_S = 1.0  # for faulthandler, which works with the GIL held; then SIGKILL
KEEPER_ENDS, KEEPER_WINDOW_S = 3, 10.0


def cause_of(state: State, process: ProcessState | None, status: int, running: int) -> Cause:
    """Returns the cause of a process's end; what ran is charged with one that was not planned.

    An end that was ordered has the cause of the order if it came as ordered: by our SIGKILL, or with code 0 and nothing
    left that ran. Anything else happened to the process meanwhile.

    Args:
        state: the state before `decide` gets the exit.
        process: the process before its exit, None if it is not known any more.
        status: its wait status.
        running: the number of activities that ran when it ended.

    """
    unordered = Cause.of_status(status)
    if (
        process is not None
        and process.ready_at is None
        and unordered is Cause.EXIT
        and status >> 8 in BOOT_CODES
    ):
        return Cause.BOOT
    ends_for = process.ends_for if process is not None else None
    if ends_for is not None and not ends_for.is_planned:
        return ends_for
    if state.mode is not Mode.SERVING:
        return Cause.STOP
    if process is None or ends_for is None:
        return unordered
    is_as_ordered = process.phase is Phase.DRAINING and not (status or running)
    return ends_for if is_as_ordered or process.phase is Phase.DYING else unordered


def stopped(transition: Transition, process: ProcessState, event: events.ChildStopped) -> None:
    """Logs what a worker released at the end of a stop."""
    if transition.state.mode is not Mode.SERVING and (event.released or event.undelivered):
        transition.note(
            "work_given_back",
            Level.WARNING,
            process=process.number,
            released=event.released,
            undelivered=list(event.undelivered),
        )
        transition.blame(Code.RELEASED)


def exited(transition: Transition, process: ProcessState, event: events.ChildExited) -> None:
    """Handles an exit; three cases: the keeper, a worker that was to end, a worker that crashed."""
    cause = cause_of(transition.state, process, event.status, event.running)
    fields: dict[str, Any] = {
        "process": process.number,
        "pid": process.pid,
        "cause": cause.label,
        "status": event.status,
        "running": event.running,
        "killed_for": process.killed_for,
    }
    process = replace(process, phase=Phase.STOPPED, pid=None)
    transition.put(process)
    isolates.worker_ended(transition, process)
    if process.number == KEEPER:
        _keeper_exited(transition, process, event.status, fields["pid"])
    elif transition.state.mode is not Mode.SERVING or _was_retiring(transition, process):
        transition.note("process_exited", **fields)
        if event.running and transition.state.mode is not Mode.SERVING:
            transition.blame(Code.RELEASED)
    else:
        _crashed(transition, process, cause, event.running, fields)


def must_end(
    transition: Transition, process: ProcessState, event: events.LimitOverdue | events.SegmentDamaged
) -> None:
    """Aborts a process that hangs or damages its segment; its stacks show why."""
    if isinstance(event, events.LimitOverdue):
        _hangs(transition, process, event)
    else:
        _damaged(transition, process, event.found)


def _hangs(transition: Transition, process: ProcessState, event: events.LimitOverdue) -> None:
    """Aborts a process that hangs, at most once a minute for each index, so that a slow machine does not lose all."""
    if (
        process.phase not in {Phase.RUNNING, Phase.DRAINING}
        or transition.now - process.aborted_at < ABORTS_APART_S
    ):
        return
    transition.note(
        "process_hangs",
        Level.ERROR,
        process=process.number,
        pid=process.pid,
        name=event.name,
        limit_s=event.limit_s,
        seen=event.seen,
        workflow_id=event.workflow_id,
        activity_id=event.activity_id,
        activity_key=event.key,
    )
    _abort(transition, replace(process, aborted_at=transition.now), Cause.HUNG, event.sequence)


def _damaged(transition: Transition, process: ProcessState, found: str) -> None:
    """Aborts a process whose segment was overwritten, before more is damaged; its activities are suspect."""
    if process.phase in {Phase.RUNNING, Phase.DRAINING}:
        transition.note("segment_damaged", Level.ERROR, process=process.number, pid=process.pid, found=found)
        _abort(transition, process, Cause.DAMAGED, 0)


def _abort(transition: Transition, process: ProcessState, cause: Cause, guilty: int) -> None:
    """Orders an end with stacks; `guilty` is the sequence of the record that is charged with it, 0 for none."""
    kill_at = transition.now + STACKS_WITHIN_S
    transition.put(replace(process, phase=Phase.ABORTING, kill_at=kill_at, ends_for=cause))
    transition.actions.append(Abort(process.number, process.incarnation, guilty))


def keeper_late(transition: Transition, process: ProcessState, late_s: float) -> None:
    """Replaces a keeper that is late with heartbeats; the next one finds all it needs in the ledger."""
    if process.phase is Phase.RUNNING:
        transition.note("keeper_late", Level.ERROR, process=KEEPER, pid=process.pid, late_s=round(late_s, 2))
        transition.kill(process, "it was late with its heartbeats")


def _was_retiring(transition: Transition, process: ProcessState) -> bool:
    """True if the process was retiring: it has a successor or is not wanted any more."""
    return all(
        (s.number, s.incarnation) != (process.number, process.incarnation) for s in transition.state.processes
    )


def _crashed(
    transition: Transition, process: ProcessState, cause: Cause, running: int, fields: Mapping[str, Any]
) -> None:
    policy = transition.state.plan.restarts
    short = policy.is_short(ready_at=process.ready_at, ended_at=transition.now, running=running)
    ends = policy.recent(
        (*transition.state.short_ends, transition.now) if short else transition.state.short_ends,
        transition.now,
    )
    transition.state = replace(transition.state, short_ends=ends)
    if (predecessor := transition.state.predecessor(process)) is not None:
        rolling_replacement.successor_failed(transition, process, predecessor)
        startup.start_waiting(transition)  # the old version may fork again
        return
    rolling_replacement.first_failed(transition, process)
    startup.start_waiting(transition)
    in_row = process.short_in_row + 1 if short else 0
    wait_s = policy.wait_s(in_row, since_start_s=transition.now - process.started_at, rng=transition.rng)
    transition.retry_in(replace(process, short_in_row=in_row, restarts=process.restarts + 1), wait_s)
    transition.count(process, cause)
    transition.note("process_died", Level.WARNING, **fields, again_in_s=round(wait_s, 2))
    if policy.gives_up(ends, transition.now):
        transition.note("crash_loop", Level.ERROR, short_ends=len(ends), window_s=policy.window_s)
        stops.begin_drain(transition, Code.CRASH_LOOP)
    elif wait_s <= 0:
        transition.spawn(transition.state.index(process.number))


def _keeper_exited(transition: Transition, process: ProcessState, status: int, pid: int | None) -> None:
    """Restarts the keeper at once, also during a stop, which needs it to settle; three exits in 10 s begin a drain.

    After that it restarts more slowly, since the drain still needs its heartbeats.
    """
    state = transition.state
    if state.mode is Mode.FINISHING and (status == 0 or not transition.now < state.deadline < inf):
        transition.leave()
        return
    ends = tuple(at for at in (*state.keeper_ends, transition.now) if transition.now - at < KEEPER_WINDOW_S)
    transition.state = replace(state, keeper_ends=ends)
    transition.note(
        "keeper_died", Level.ERROR, process=KEEPER, pid=pid, status=status, killed_for=process.killed_for
    )
    process = replace(process, restarts=process.restarts + 1)
    if len(ends) < KEEPER_ENDS:
        transition.spawn(process)
    elif state.mode is Mode.FINISHING:
        transition.blame(Code.INTERNAL)
        transition.leave()
    else:
        transition.retry_in(process, SPAWN_RETRY_S)
        stops.begin_drain(transition, Code.INTERNAL)
