"""The zygote, which has imported the app and forks workers and isolates: its start, exit and replacement.

Workers are forked from a zygote, or each imports the app itself. The latter is for apps that do not survive a fork,
for `--no-preload`, and for hosts whose zygotes keep failing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowherd.exit_codes import Exit as Code
from flowherd_supervisor.core import events, isolates, reload_on_hup, rolling_replacement, startup, stops
from flowherd_supervisor.core.actions import Kill, Level
from flowherd_supervisor.core.events import ZYGOTE
from flowherd_supervisor.core.plan import Preload
from flowherd_supervisor.core.startup import BOOT_CODES, SPAWN_RETRY_S
from flowherd_supervisor.core.state import Mode, Phase, ProcessState

if TYPE_CHECKING:
    from flowherd_supervisor.core.transition import Transition

SECOND_WAIT_S = 0.5
ENDS, WINDOW_S = 3, 10.0


def heard(transition: Transition, process: ProcessState, event: events.ChildEvent) -> None:
    """Handles an event about a zygote."""
    match event:
        case events.ChildForked(pid=pid):
            transition.put(replace(process, pid=pid, started_at=transition.now))
            transition.note("preload_started", process=ZYGOTE, pid=pid, incarnation=process.incarnation)
            if process.phase is Phase.DYING:
                transition.actions.append(Kill(ZYGOTE, process.incarnation))
        case events.SpawnFailed(reason=reason):
            _not_forked(transition, process, reason)
        case events.ChildReady() if process.phase is Phase.STARTING:
            _ready(transition, process, event)
        case events.BootFailed() if process.phase is Phase.STARTING:
            _boot_failed(transition, process, event)
        case events.ChildExited(status=status):
            _exited(transition, process, status)
        case _:
            transition.note("late_news", process=ZYGOTE, incarnation=process.incarnation)


def time_passed(transition: Transition) -> None:
    """Starts a zygote whose pause is over and kills one that does not boot or fork in time."""
    for process in transition.state.zygotes.processes:
        if process.phase is Phase.BACKOFF and transition.now >= process.retry_at:
            transition.spawn(process)
        elif transition.now >= process.boot_deadline(transition.state.plan.boot_timeout_s):
            _boot_timed_out(transition, process)
        elif transition.now >= transition.state.answer_due(process):
            transition.note("preload_late", Level.WARNING, process=ZYGOTE, pid=process.pid)
            transition.kill(process, "it did not fork in time")


def _not_forked(transition: Transition, process: ProcessState, reason: str) -> None:
    again = transition.state.mode is Mode.SERVING and process.phase is Phase.STARTING
    wait_s = SPAWN_RETRY_S if again else None
    transition.note("process_not_started", Level.WARNING, process=ZYGOTE, reason=reason, again_in_s=wait_s)
    if again:
        transition.retry_in(process, SPAWN_RETRY_S)
    else:
        transition.put(replace(process, phase=Phase.STOPPED, pid=None))


def _ready(transition: Transition, process: ProcessState, event: events.ChildReady) -> None:
    """Makes the zygote the one that forks, starts waiting workers and replaces those of an older version."""
    is_reload, old = transition.state.zygotes.reloading, transition.state.zygotes.ready
    if is_reload and old is not None and transition.state.zygotes.kept is None:
        transition.put(old.with_phase(Phase.DRAINING))  # until a process of the new version is ready
    stops.end_zygotes(transition, {Phase.RUNNING})
    transition.put(replace(process, phase=Phase.RUNNING, ready_at=transition.now))
    transition.note(
        "preload_ready", process=ZYGOTE, took_ms=round((transition.now - process.started_at) * 1000, 1)
    )
    usable = not event.hazards or transition.state.plan.preload is Preload.ALWAYS
    if event.hazards:
        transition.note(
            "preload_unsafe",
            Level.WARNING,
            process=ZYGOTE,
            found=list(event.hazards),
            note="processes are forked all the same" if usable else "each process imports the app itself",
            remedy=f"make it in the app's lifespan, or say {'--no-preload' if usable else '--preload'}",
        )
    transition.state = replace(
        transition.state, zygotes=replace(transition.state.zygotes, wanted=usable, reloading=False)
    )
    if not usable:
        stops.end_zygotes(transition, {Phase.RUNNING, Phase.DRAINING})
    older = [worker.number for worker in transition.state.processes if worker.alive]
    startup.start_waiting(transition)
    if is_reload:
        rolling_replacement.begin(transition, older)
    elif transition.state.rolling:
        rolling_replacement.go_on(transition)


def _boot_failed(transition: Transition, process: ProcessState, event: events.BootFailed) -> None:
    """Stops the host if no worker was ever ready, since the app is bad; later the old version stays."""
    is_reload = transition.state.zygotes.reloading
    if not transition.state.ever_ready:
        transition.note(
            "boot_failed", Level.ERROR, event.report, process=ZYGOTE, code=event.code, reason=event.message
        )
        stops.begin_release(transition, Code(event.code) if event.code in BOOT_CODES else Code.BOOT_FAILED)
    elif is_reload:
        reload_on_hup.failed(transition, event.message, event.report)
    else:
        transition.note("preload_failed", Level.ERROR, event.report, process=ZYGOTE, reason=event.message)
    transition.kill(transition.state.find(ZYGOTE, process.incarnation) or process, "it could not start")


def _boot_timed_out(transition: Transition, process: ProcessState) -> None:
    """Neither Ready nor BootFailed came: the same as BootFailed (faults.md C19)."""
    timeout_s = transition.state.plan.boot_timeout_s
    transition.note("boot_timed_out", Level.ERROR, process=ZYGOTE, after_s=timeout_s, remedy="--boot-timeout")
    transition.kill(process, "it was not ready in time")
    if not transition.state.ever_ready:
        stops.begin_release(transition, Code.BOOT_FAILED)


def _exited(transition: Transition, process: ProcessState, status: int) -> None:
    """Logs the exit of a zygote and orders its open forks again; its workers are not affected."""
    transition.put(replace(process, phase=Phase.STOPPED, pid=None))
    fields: dict[str, Any] = {
        "process": ZYGOTE,
        "pid": process.pid,
        "status": status,
        "killed_for": process.killed_for,
    }
    if process.phase is Phase.DYING:
        transition.note("preload_exited", **fields)
    else:
        transition.note("preload_died", Level.WARNING, **fields)
    isolates.zygote_ended(transition, process.incarnation)
    serving = transition.state.mode is Mode.SERVING
    for worker in transition.state.workers:
        if worker.unanswered and worker.maker == process.incarnation:
            is_present = worker in transition.state.processes
            transition.put(worker.with_phase(Phase.STOPPED))
            if serving and is_present:
                transition.spawn(transition.state.index(worker.number))
    if serving:
        _replace_if_missing(transition, process)


def _replace_if_missing(transition: Transition, process: ProcessState) -> None:
    """Starts a new zygote: at once, the second time within 10 s after 0.5 s; then workers import the app themselves."""
    zygotes = transition.state.zygotes
    if zygotes.coming:
        return
    if zygotes.reloading:
        reload_on_hup.failed(transition, "its import did not end well")
        zygotes = transition.state.zygotes
    if not zygotes.wanted or zygotes.ready is not None:
        transition.state = replace(transition.state, zygotes=zygotes)
        return
    ends = (*(at for at in zygotes.ends if transition.now - at < WINDOW_S), transition.now)
    failed_in_row = zygotes.failed_in_row + (process.ready_at is None or process.phase is Phase.DYING)
    give_up = len(ends) >= ENDS or failed_in_row >= ENDS
    transition.state = replace(
        transition.state, zygotes=replace(zygotes, wanted=not give_up, ends=ends, failed_in_row=failed_in_row)
    )
    if give_up:
        transition.note("preload_given_up", Level.WARNING, note="each process imports the app itself")
        startup.start_waiting(transition)
    elif len(ends) == 1:
        transition.spawn(ProcessState(ZYGOTE))
    else:
        transition.retry_in(ProcessState(ZYGOTE, incarnation=process.incarnation), SECOND_WAIT_S)
