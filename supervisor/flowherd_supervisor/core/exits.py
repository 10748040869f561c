"""What follows the end of a process, as `waitpid` has told it; pure."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from flowherd.ends import kind_of
from flowherd.exits import Exit as Code
from flowherd_supervisor.core import events, isolates, rolling, stops
from flowherd_supervisor.core.actions import Abort, Level
from flowherd_supervisor.core.startup import BOOT_CODES, SPAWN_RETRY_S
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.state import Mode, Phase, Seat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd_supervisor.core.transition import Turn

ABORTS_APART_S = 60.0
STACKS_WITHIN_S = 1.0  # for faulthandler, which works with the GIL held; then SIGKILL
KEEPER_ENDS, KEEPER_WINDOW_S = 3, 10.0


def stopped(turn: Turn, seat: Seat, event: events.ChildStopped) -> None:
    """A worker says what it gave back at the end of a stop."""
    if turn.state.mode is not Mode.SERVING and (event.released or event.undelivered):
        turn.note(
            "work_given_back",
            Level.WARNING,
            process=seat.number,
            released=event.released,
            undelivered=list(event.undelivered),
        )
        turn.blame(Code.RELEASED)


def exited(turn: Turn, seat: Seat, status: int, running: int) -> None:
    """There are three cases: the keeper; a worker during a stop; a worker that nobody told to end."""
    said: dict[str, Any] = {
        "process": seat.number,
        "pid": seat.pid,
        "status": status,
        "running": running,
        "killed_for": seat.killed_for,
    }
    kind = _kind_of(seat, status)
    seat = replace(seat, phase=Phase.STOPPED, pid=None)
    turn.put(seat)
    isolates.worker_ended(turn, seat)
    if seat.number == KEEPER:
        _keeper_exited(turn, seat, status, said["pid"])
    elif turn.state.mode is not Mode.SERVING or _was_retiring(turn, seat):
        turn.note("process_exited", **said)
        if running and turn.state.mode is not Mode.SERVING:
            turn.blame(Code.RELEASED)
    else:
        _crashed(turn, seat, kind, running, said)


def must_end(turn: Turn, seat: Seat, event: events.LimitOverdue | events.SegmentDamaged) -> None:
    """A process that does harm as long as it lives; its stacks show what it does."""
    if isinstance(event, events.LimitOverdue):
        _hangs(turn, seat, event)
    else:
        _damaged(turn, seat, event.found)


def _hangs(turn: Turn, seat: Seat, event: events.LimitOverdue) -> None:
    """Ends a process that hangs, at most one of a seat in a minute: a slow machine must not become a massacre."""
    if seat.phase not in {Phase.RUNNING, Phase.DRAINING} or turn.now - seat.aborted_at < ABORTS_APART_S:
        return
    turn.note(
        "process_hangs",
        Level.ERROR,
        process=seat.number,
        pid=seat.pid,
        activity_id=event.activity_id,
        name=event.name,
        limit_s=event.limit_s,
    )
    turn.put(replace(seat, phase=Phase.ABORTING, kill_at=turn.now + STACKS_WITHIN_S, aborted_at=turn.now))
    turn.actions.append(Abort(seat.number, seat.incarnation, event.sequence))


def _damaged(turn: Turn, seat: Seat, found: str) -> None:
    """Ends a process in whose memory somebody has scribbled, before it does more: who ran there is suspect."""
    if seat.phase in {Phase.RUNNING, Phase.DRAINING}:
        turn.note("segment_damaged", Level.ERROR, process=seat.number, pid=seat.pid, found=found)
        turn.put(replace(seat, phase=Phase.ABORTING, kill_at=turn.now + STACKS_WITHIN_S, is_damaged=True))
        turn.actions.append(Abort(seat.number, seat.incarnation, 0))


def keeper_late(turn: Turn, seat: Seat, late_s: float) -> None:
    """A keeper that does not beat is replaced; the ledger tells the next one everything."""
    if seat.phase is Phase.RUNNING:
        turn.note("keeper_late", Level.ERROR, process=KEEPER, pid=seat.pid, late_s=round(late_s, 2))
        turn.kill(seat, "it was late with its heartbeats")


def _was_retiring(turn: Turn, seat: Seat) -> bool:
    """Whether the process that has ended was not its seat's present one: a successor is there or coming."""
    return all((s.number, s.incarnation) != (seat.number, seat.incarnation) for s in turn.state.seats)


def _kind_of(seat: Seat, status: int) -> str:
    """Why a worker ended that nobody told to, in a word of a closed list; `seat` is as it was."""
    if seat.ready_at is None:
        is_boot_failure = seat.phase is Phase.DYING or (
            kind_of(status) == "exit" and status >> 8 in BOOT_CODES
        )
        return "boot" if is_boot_failure else kind_of(status)
    if seat.is_damaged:
        return "damaged"
    return "hung" if seat.phase in {Phase.ABORTING, Phase.DYING} else kind_of(status)


def _crashed(turn: Turn, seat: Seat, kind: str, running: int, said: Mapping[str, Any]) -> None:
    policy = turn.state.plan.restarts
    short = policy.is_short(ready_at=seat.ready_at, ended_at=turn.now, running=running)
    ends = policy.recent((*turn.state.short_ends, turn.now) if short else turn.state.short_ends, turn.now)
    turn.state = replace(turn.state, short_ends=ends)
    if (predecessor := turn.state.predecessor(seat)) is not None:
        rolling.successor_failed(turn, seat, predecessor)
        return
    in_row = seat.short_in_row + 1 if short else 0
    wait_s = policy.wait_s(in_row, since_start_s=turn.now - seat.started_at, rng=turn.rng)
    turn.retry_in(replace(seat, short_in_row=in_row, restarts=seat.restarts + 1), wait_s)
    turn.count(seat, kind)
    turn.note("process_died", Level.WARNING, **said, again_in_s=round(wait_s, 2))
    if policy.gives_up(ends, turn.now):
        turn.note("crash_loop", Level.ERROR, short_ends=len(ends), window_s=policy.window_s)
        stops.begin_drain(turn, Code.CRASH_LOOP)
    elif wait_s <= 0:
        turn.spawn(turn.state.seat(seat.number))


def _keeper_exited(turn: Turn, seat: Seat, status: int, pid: int | None) -> None:
    """A keeper restarts at once, also during a stop: somebody must settle. Three ends in 10 s are a defect.

    After a defect it restarts more slowly, since a drain still needs its heartbeats.
    """
    state = turn.state
    if state.mode is Mode.FINISHING and (status == 0 or not turn.now < state.deadline < inf):
        turn.leave()
        return
    ends = tuple(at for at in (*state.keeper_ends, turn.now) if turn.now - at < KEEPER_WINDOW_S)
    turn.state = replace(state, keeper_ends=ends)
    turn.note("keeper_died", Level.ERROR, process=KEEPER, pid=pid, status=status, killed_for=seat.killed_for)
    seat = replace(seat, restarts=seat.restarts + 1)
    if len(ends) < KEEPER_ENDS:
        turn.spawn(seat)
    elif state.mode is Mode.FINISHING:
        turn.blame(Code.INTERNAL)
        turn.leave()
    else:
        turn.retry_in(seat, SPAWN_RETRY_S)
        stops.begin_drain(turn, Code.INTERNAL)
