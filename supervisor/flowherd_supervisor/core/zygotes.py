"""The process that has imported the app and forks all others: its births, deaths and replacements; pure.

There are two ways to make workers: forked from a mold, or each importing the app itself. The second is for
apps that do not survive a fork, for `--no-preload`, and for hosts whose molds do not stay alive. A reload
begins with a new mold in any case but `--no-preload`: what it says of the new version decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowherd.exits import Exit as Code
from flowherd_supervisor.core import events, isolates, rolling, stops
from flowherd_supervisor.core.actions import Kill, Level
from flowherd_supervisor.core.startup import BOOT_CODES, SPAWN_RETRY_S
from flowherd_supervisor.core.events import MOLD
from flowherd_supervisor.core.plan import Preload
from flowherd_supervisor.core.state import Mode, Phase, Seat

if TYPE_CHECKING:
    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.core.transition import Turn

SECOND_WAIT_S = 0.5
ENDS, WINDOW_S = 3, 10.0
_OLD_GOES_ON = "the old version goes on"


def reload_requested(turn: Turn, plan: Plan) -> None:
    """Applies new sizes; then a new mold imports the new version, and its Ready lets workers be replaced."""
    if turn.state.mode is not Mode.SERVING:
        turn.note("reload_refused", Level.WARNING, reason="the supervisor is stopping")
        return
    turn.note("reloading", processes=plan.workers, concurrency=plan.concurrency)
    rolling.resize(turn, plan)
    if plan.preload is Preload.NEVER:
        turn.state = replace(turn.state, molds=replace(turn.state.molds, wanted=False, reloading=False))
        stops.end_molds(turn, {Phase.STARTING, Phase.RUNNING, Phase.BACKOFF})
        _start_waiting(turn)
        rolling.begin(turn, range(plan.processes))
        return
    turn.state = replace(turn.state, molds=replace(turn.state.molds, reloading=True))
    stops.end_molds(turn, {Phase.STARTING, Phase.BACKOFF})
    turn.spawn(Seat(MOLD))


def heard(turn: Turn, seat: Seat, event: events.ChildEvent) -> None:
    """News of one mold."""
    match event:
        case events.ChildForked(pid=pid):
            turn.put(replace(seat, pid=pid, started_at=turn.now))
            turn.note("preload_started", process=MOLD, pid=pid, incarnation=seat.incarnation)
            if seat.phase is Phase.DYING:
                turn.actions.append(Kill(MOLD, seat.incarnation))
        case events.SpawnFailed(reason=reason):
            _not_forked(turn, seat, reason)
        case events.ChildReady() if seat.phase is Phase.STARTING:
            _ready(turn, seat, event)
        case events.BootFailed() if seat.phase is Phase.STARTING:
            _boot_failed(turn, seat, event)
        case events.ChildExited(status=status):
            _exited(turn, seat, status)
        case _:
            turn.note("late_news", process=MOLD, incarnation=seat.incarnation)


def time_passed(turn: Turn) -> None:
    """Starts what has waited long enough, ends what does not come up and what does not fork."""
    for seat in turn.state.molds.seats:
        if seat.phase is Phase.BACKOFF and turn.now >= seat.retry_at:
            turn.spawn(seat)
        elif turn.now >= seat.boot_deadline(turn.state.plan.boot_timeout_s):
            _boot_timed_out(turn, seat)
        elif turn.now >= turn.state.answer_due(seat):
            turn.note("preload_late", Level.WARNING, process=MOLD, pid=seat.pid)
            turn.kill(seat, "it did not fork in time")


def _not_forked(turn: Turn, seat: Seat, reason: str) -> None:
    again = turn.state.mode is Mode.SERVING and seat.phase is Phase.STARTING
    wait_s = SPAWN_RETRY_S if again else None
    turn.note("process_not_started", Level.WARNING, process=MOLD, reason=reason, again_in_s=wait_s)
    if again:
        turn.retry_in(seat, SPAWN_RETRY_S)
    else:
        turn.put(replace(seat, phase=Phase.STOPPED, pid=None))


def _ready(turn: Turn, seat: Seat, event: events.ChildReady) -> None:
    """It takes over. Workers that wait are made; those of an older version are replaced one by one."""
    stops.end_molds(turn, {Phase.RUNNING})
    turn.put(replace(seat, phase=Phase.RUNNING, ready_at=turn.now))
    turn.note("preload_ready", process=MOLD, took_ms=round((turn.now - seat.started_at) * 1000, 1))
    usable = not event.hazards or turn.state.plan.preload is Preload.ALWAYS
    if event.hazards:
        turn.note(
            "preload_unsafe",
            Level.WARNING,
            process=MOLD,
            found=list(event.hazards),
            note="processes are forked all the same" if usable else "each process imports the app itself",
            remedy=f"make it in the app's lifespan, or say {'--no-preload' if usable else '--preload'}",
        )
    reloading = turn.state.molds.reloading
    turn.state = replace(turn.state, molds=replace(turn.state.molds, wanted=usable, reloading=False))
    if not usable:
        stops.end_molds(turn, {Phase.RUNNING})
    older = [worker.number for worker in turn.state.seats if worker.alive]
    _start_waiting(turn)
    if reloading:
        rolling.begin(turn, older)
    elif turn.state.rolling:
        rolling.go_on(turn)


def _start_waiting(turn: Turn) -> None:
    """Makes the workers that have waited; by itself the first one must show that the app boots."""
    all_at_once = turn.state.ever_ready or turn.state.molds.wanted
    for seat in turn.state.seats if all_at_once else turn.state.seats[:1]:
        if seat.phase is Phase.WAITING:
            turn.spawn(seat)


def _boot_failed(turn: Turn, seat: Seat, event: events.BootFailed) -> None:
    """Before any worker was ever ready the app is bad: stop. Later the old version goes on."""
    reloading = turn.state.molds.reloading
    if not turn.state.ever_ready:
        turn.note("boot_failed", Level.ERROR, event.report, process=MOLD, reason=event.message)
        stops.begin_release(turn, Code(event.code) if event.code in BOOT_CODES else Code.BOOT_FAILED)
    elif reloading:
        turn.note("reload_failed", Level.ERROR, event.report, reason=event.message, note=_OLD_GOES_ON)
        turn.state = replace(turn.state, molds=replace(turn.state.molds, reloading=False))
    else:
        turn.note("preload_failed", Level.ERROR, event.report, process=MOLD, reason=event.message)
    turn.kill(turn.state.find(MOLD, seat.incarnation) or seat, "it could not start")


def _boot_timed_out(turn: Turn, seat: Seat) -> None:
    """Neither Ready nor BootFailed came: the same as BootFailed (faults.md C19)."""
    timeout_s = turn.state.plan.boot_timeout_s
    turn.note("boot_timed_out", Level.ERROR, process=MOLD, after_s=timeout_s, remedy="--boot-timeout")
    turn.kill(seat, "it was not ready in time")
    if not turn.state.ever_ready:
        stops.begin_release(turn, Code.BOOT_FAILED)


def _exited(turn: Turn, seat: Seat, status: int) -> None:
    """What it was asked for and has not made is asked for again; workers are not touched."""
    turn.put(replace(seat, phase=Phase.STOPPED, pid=None))
    said: dict[str, Any] = {"process": MOLD, "pid": seat.pid, "status": status, "killed_for": seat.killed_for}
    if seat.phase is Phase.DYING:
        turn.note("preload_exited", **said)
    else:
        turn.note("preload_died", Level.WARNING, **said)
    isolates.mold_ended(turn, seat.incarnation)
    serving = turn.state.mode is Mode.SERVING
    for worker in turn.state.workers:
        if worker.unanswered and worker.maker == seat.incarnation:
            is_present = worker in turn.state.seats
            turn.put(worker.with_phase(Phase.STOPPED))
            if serving and is_present:
                turn.spawn(turn.state.seat(worker.number))
    if serving:
        _replace_if_missing(turn, seat)


def _replace_if_missing(turn: Turn, seat: Seat) -> None:
    """At once, the second time in ten seconds after a moment; then workers import the app themselves."""
    molds = turn.state.molds
    if molds.coming:
        return
    if molds.reloading:
        turn.note("reload_failed", Level.ERROR, reason="its import did not end well", note=_OLD_GOES_ON)
        molds = replace(molds, reloading=False)
    if not molds.wanted or molds.ready is not None:
        turn.state = replace(turn.state, molds=molds)
        return
    ends = (*(at for at in molds.ends if turn.now - at < WINDOW_S), turn.now)
    failed_in_row = molds.failed_in_row + (seat.ready_at is None or seat.phase is Phase.DYING)
    give_up = len(ends) >= ENDS or failed_in_row >= ENDS
    turn.state = replace(
        turn.state, molds=replace(molds, wanted=not give_up, ends=ends, failed_in_row=failed_in_row)
    )
    if give_up:
        turn.note("preload_given_up", Level.WARNING, note="each process imports the app itself")
        _start_waiting(turn)
    elif len(ends) == 1:
        turn.spawn(Seat(MOLD))
    else:
        turn.retry_in(Seat(MOLD, incarnation=seat.incarnation), SECOND_WAIT_S)
