"""The start of a process, from the ordered fork to Ready or to its failure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit as Code
from flowherd_supervisor.core import blockers, events, rolling_replacement, stops
from flowherd_supervisor.core.actions import Kill, Level, SwitchPolling
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.state import Mode, Phase, ProcessState

if TYPE_CHECKING:
    from flowherd_supervisor.core.transition import Transition

SPAWN_RETRY_S = 1.0
BOOT_CODES = frozenset({Code.USAGE, Code.BOOT_FAILED})


def forked(transition: Transition, process: ProcessState, pid: int) -> None:
    """Records the pid of a new process; kills it if it was given up while it was forked."""
    transition.put(replace(process, pid=pid, started_at=transition.now))
    transition.zygote_forks(process.maker)
    transition.note("process_started", process=process.number, pid=pid, incarnation=process.incarnation)
    if process.phase is Phase.DYING:
        transition.actions.append(Kill(process.number, process.incarnation))
    elif process.number == KEEPER and transition.state.mode is Mode.FINISHING:
        stops.finish_keeper(transition)


def start_waiting(transition: Transition) -> None:
    """Starts the waiting workers; without a zygote only the first, which must show that the app boots."""
    all_at_once = transition.state.ever_ready or transition.state.zygotes.wanted
    for process in transition.state.processes if all_at_once else transition.state.processes[:1]:
        if process.phase is Phase.WAITING:
            transition.spawn(process)


def spawn_failed(transition: Transition, process: ProcessState, reason: str) -> None:
    """Tries again after a second; the other processes are not affected (faults.md P12)."""
    serving, mode = transition.state.mode is Mode.SERVING, transition.state.mode
    again = serving or (process.number == KEEPER and mode is not Mode.FINISHING)
    transition.note(
        "process_not_started",
        Level.WARNING,
        process=process.number,
        reason=reason,
        again_in_s=SPAWN_RETRY_S if again else None,
    )
    if again:
        transition.retry_in(process, SPAWN_RETRY_S)
        return
    transition.put(replace(process, phase=Phase.STOPPED, pid=None))
    if process.number == KEEPER:
        transition.blame(Code.RELEASED)
        transition.leave()


def ready(transition: Transition, process: ProcessState, event: events.ChildReady) -> None:
    """Lets a worker poll; the first Ready also starts the other workers, so that a bad app fails only once."""
    if process.phase is not Phase.STARTING:
        return
    transition.put(replace(process, phase=Phase.RUNNING, ready_at=transition.now))
    transition.note(
        "process_ready",
        process=process.number,
        took_ms=round((transition.now - process.started_at) * 1000, 1),
    )
    if process.number == KEEPER:
        return
    blockers.ready(transition, process)
    on = transition.state.polling
    transition.actions.append(SwitchPolling(process.number, process.incarnation, on=on))
    rolling_replacement.succeeded(transition, process)
    if not transition.state.ever_ready:
        transition.state = replace(transition.state, ever_ready=True)
        transition.note("app_loaded", worker=event.worker_type, activities=dict(event.activities))
        for other in transition.state.processes:
            if other.phase is Phase.WAITING:
                transition.spawn(other)


def boot_failed(transition: Transition, process: ProcessState, event: events.BootFailed) -> None:
    """Stops the host if no worker was ever ready, since the app is bad; later it counts as a short end."""
    if process.phase is not Phase.STARTING:
        return  # already given up, such as after a sibling's failure, whose traceback is logged
    fields = {"process": process.number, "code": event.code, "reason": event.message}
    transition.note("boot_failed", Level.ERROR, event.report, **fields)
    if not transition.state.ever_ready or process.number == KEEPER:
        stops.begin_release(transition, Code(event.code) if event.code in BOOT_CODES else Code.BOOT_FAILED)


def boot_timed_out(transition: Transition, process: ProcessState) -> None:
    """Kills a process that sent neither Ready nor BootFailed in time; else as BootFailed (faults.md C19)."""
    timeout_s = transition.state.plan.boot_timeout_s
    transition.note(
        "boot_timed_out", Level.ERROR, process=process.number, after_s=timeout_s, remedy="--boot-timeout"
    )
    transition.kill(process, "it was not ready in time")
    if not transition.state.ever_ready and process.number != KEEPER:
        stops.begin_release(transition, Code.BOOT_FAILED)
