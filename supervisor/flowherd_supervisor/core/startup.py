"""From an ordered fork to Ready, or to the failure to get there; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.exits import Exit as Code
from flowherd_supervisor.core import events, rolling, stops
from flowherd_supervisor.core.actions import Kill, Level, SwitchPolling
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.state import Mode, Phase, Seat

if TYPE_CHECKING:
    from flowherd_supervisor.core.transition import Turn

SPAWN_RETRY_S = 1.0
BOOT_CODES = frozenset({Code.USAGE, Code.BOOT_FAILED})


def forked(turn: Turn, seat: Seat, pid: int) -> None:
    """A process exists; one that was given up while it was made dies at once."""
    turn.put(replace(seat, pid=pid, started_at=turn.now))
    turn.mold_forks(seat.maker)
    turn.note("process_started", process=seat.number, pid=pid, incarnation=seat.incarnation)
    if seat.phase is Phase.DYING:
        turn.actions.append(Kill(seat.number, seat.incarnation))
    elif seat.number == KEEPER and turn.state.mode is Mode.FINISHING:
        stops.finish_keeper(turn)


def spawn_failed(turn: Turn, seat: Seat, reason: str) -> None:
    """Tries again in a while; the others go on (faults.md P12)."""
    serving, mode = turn.state.mode is Mode.SERVING, turn.state.mode
    again = serving or (seat.number == KEEPER and mode is not Mode.FINISHING)
    turn.note(
        "process_not_started",
        Level.WARNING,
        process=seat.number,
        reason=reason,
        again_in_s=SPAWN_RETRY_S if again else None,
    )
    if again:
        turn.retry_in(seat, SPAWN_RETRY_S)
        return
    turn.put(replace(seat, phase=Phase.STOPPED, pid=None))
    if seat.number == KEEPER:
        turn.blame(Code.RELEASED)
        turn.leave()


def ready(turn: Turn, seat: Seat, event: events.ChildReady) -> None:
    """A worker may poll from here on; the first one lets its siblings follow: a bad app has failed only once."""
    if seat.phase is not Phase.STARTING:
        return
    turn.put(replace(seat, phase=Phase.RUNNING, ready_at=turn.now))
    turn.note("process_ready", process=seat.number, took_ms=round((turn.now - seat.started_at) * 1000, 1))
    if seat.number == KEEPER:
        return
    if turn.state.polling:
        turn.actions.append(SwitchPolling(seat.number, seat.incarnation, on=True))
    rolling.succeeded(turn, seat)
    if not turn.state.ever_ready:
        turn.state = replace(turn.state, ever_ready=True)
        turn.note("app_loaded", worker=event.worker_type, activities=dict(event.activities))
        for other in turn.state.seats:
            if other.phase is Phase.WAITING:
                turn.spawn(other)


def boot_failed(turn: Turn, seat: Seat, event: events.BootFailed) -> None:
    """Before any worker was ever ready the app is bad: stop. Later it is a short end like others."""
    if seat.phase is not Phase.STARTING:
        return  # given up already, such as by the failure of a sibling: the user has read the traceback
    turn.note("boot_failed", Level.ERROR, event.report, process=seat.number, reason=event.message)
    if not turn.state.ever_ready or seat.number == KEEPER:
        stops.begin_release(turn, Code(event.code) if event.code in BOOT_CODES else Code.BOOT_FAILED)


def boot_timed_out(turn: Turn, seat: Seat) -> None:
    """Neither Ready nor BootFailed came: the same as BootFailed (faults.md C19)."""
    timeout_s = turn.state.plan.boot_timeout_s
    turn.note("boot_timed_out", Level.ERROR, process=seat.number, after_s=timeout_s, remedy="--boot-timeout")
    turn.kill(seat, "it was not ready in time")
    if not turn.state.ever_ready and seat.number != KEEPER:
        stops.begin_release(turn, Code.BOOT_FAILED)
