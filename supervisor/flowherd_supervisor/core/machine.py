"""The supervisor's brain: `decide(state, event, now, rng) -> (state, actions)`; it does nothing itself.

Laws of the brain, tested with random histories against a model of the world:

1. At most one process a seat: Spawn is ordered only for a seat without one.
2. A process is never signalled before its fork or after its exit, and killed at most once.
3. Time alone ends a stop: once one has begun, no silence of a child can hold it up.
4. Exit is the last order, given once, when no process is left.
5. No worker polls before its Ready is heard: one that starts holds nothing, and a kill loses nothing.

The shell answers every Spawn by ChildForked or SpawnFailed and reports every end by ChildExited. The end of a
mold answers what it was asked for and has not made: it never will.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.exits import Exit as Code
from flowherd_supervisor.core import budget, events, isolates, rolling, stops
from flowherd_supervisor.core import zygotes
from flowherd_supervisor.core import startup
from flowherd_supervisor.core import exits
from flowherd_supervisor.core.actions import Action, DumpStacks, Level, SwitchPolling
from flowherd_supervisor.core.events import KEEPER, MOLD, ChildEvent, Event
from flowherd_supervisor.core.state import Mode, Phase, Seat, State
from flowherd_supervisor.core.transition import Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd_supervisor.core.restarts import Rng


def decide(state: State, event: Event, now: float, rng: Rng) -> tuple[State, Sequence[Action]]:
    """What follows from one fact. News of a process that is gone belong to the past and change nothing.

    Args:
        state: what the last decision returned.
        event: one fact.
        now: monotonic seconds.
        rng: chance, for the jitter of waits.

    """
    if state.mode is Mode.ENDED:
        return state, ()
    turn = Turn(state, now, rng)
    match event:
        case events.Started():
            turn.spawn(state.keeper)
            turn.spawn(Seat(MOLD) if state.molds.wanted else state.seats[0])
        case events.StopRequested(times):
            stops.stop_requested(turn, times)
        case events.PollingSwitched(on):
            _switch_polling(turn, on=on)
        case events.CredentialsRefused(detail):
            _credentials_refused(turn, detail)
        case events.TimePassed():
            _time_passed(turn)
        case events.ReloadRequested(plan):
            zygotes.reload_requested(turn, plan)
        case events.ScaleRequested(processes):
            rolling.scale_requested(turn, processes)
        case events.StacksRequested():
            turn.actions.append(DumpStacks())
        case (
            events.IsolateNeeded()
            | events.IsolateStopWanted()
            | events.IsolateKillWanted()
            | events.IsolateForked()
            | events.IsolateNotForked()
            | events.IsolateExited()
        ):
            isolates.heard(turn, event)
        case _:
            _about_a_child(turn, state.find(event.seat, event.incarnation), event)
    isolates.go_on(turn)
    rolling.follow_plan(turn)
    budget.rebalance(turn)
    stops.finish_if_empty(turn)
    return turn.state, turn.actions


def _about_a_child(turn: Turn, seat: Seat | None, event: ChildEvent) -> None:
    if seat is None:
        turn.note("late_news", process=event.seat, incarnation=event.incarnation)
        return
    if seat.number == MOLD:
        zygotes.heard(turn, seat, event)
        return
    match event:
        case events.ChildForked(pid=pid):
            startup.forked(turn, seat, pid)
        case events.SpawnFailed(reason=reason):
            startup.spawn_failed(turn, seat, reason)
        case events.ChildReady():
            startup.ready(turn, seat, event)
        case events.BootFailed():
            startup.boot_failed(turn, seat, event)
        case events.ChildStopped():
            exits.stopped(turn, seat, event)
        case events.ChildExited(status=status, running=running):
            exits.exited(turn, seat, status, running)
        case events.SlotsSeen():
            budget.slots_seen(turn, seat, event)
        case events.LimitOverdue() | events.SegmentDamaged():
            exits.must_end(turn, seat, event)
        case events.KeeperLate(late_s=late_s):
            exits.keeper_late(turn, seat, late_s)
        case events.WorkerUsedUp(reason=reason):
            rolling.recycle(turn, seat, reason)


def _credentials_refused(turn: Turn, detail: str) -> None:
    """The keeper repeats itself; once is enough."""
    if turn.state.mode is Mode.SERVING:
        turn.note("credentials_refused", Level.ERROR, reason=detail)
        stops.begin_drain(turn, Code.CREDENTIALS_REFUSED)


def _switch_polling(turn: Turn, *, on: bool) -> None:
    """Tells every worker, and those to come; CONT also follows a TERM, and then says nothing new."""
    if on == turn.state.polling:
        return
    turn.state = replace(turn.state, polling=on)
    turn.note("polling_resumed" if on else "polling_paused")
    for seat in turn.state.workers:
        if seat.phase is Phase.RUNNING:
            turn.actions.append(SwitchPolling(seat.number, seat.incarnation, on=on))


def _time_passed(turn: Turn) -> None:
    """Starts what has waited long enough, ends what has taken too long."""
    zygotes.time_passed(turn)
    isolates.time_passed(turn)
    boot_timeout_s = turn.state.plan.boot_timeout_s
    for number in (*range(len(turn.state.seats)), KEEPER):
        seat = turn.state.seat(number)  # as the turn has left it: a stop may have begun with the seat before
        if seat.phase is Phase.BACKOFF and turn.now >= seat.retry_at:
            turn.spawn(seat)
        elif turn.now >= seat.boot_deadline(boot_timeout_s):
            startup.boot_timed_out(turn, seat)
    for worker in turn.state.workers:
        if worker.phase in {Phase.DRAINING, Phase.ABORTING} and turn.now >= worker.kill_at:
            why = "it hung" if worker.phase is Phase.ABORTING else "its time to end is up"
            turn.note("process_killed", Level.WARNING, process=worker.number, reason=why)
            if turn.state.mode is not Mode.SERVING:
                turn.blame(Code.RELEASED)
            turn.kill(worker, why)
    if turn.now >= turn.state.deadline:
        stops.patience_ended(turn)
