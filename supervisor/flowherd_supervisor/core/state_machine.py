"""The supervisor's state machine: `decide(state, event, now, rng) -> (state, actions)`; it has no side effects.

Its laws, tested with random histories against a model of the world:

1. At most one process for each index: Spawn is ordered only for an index without one.
2. A process is never signalled before its fork or after its exit, and killed at most once.
3. Time alone ends a stop: once one has begun, a silent child cannot hold it up.
4. Exit is the last action, ordered once, when no process is left.
5. No worker polls before its Ready arrives: a starting one holds nothing, so that a kill loses nothing.

The shell answers every Spawn with ChildForked or SpawnFailed and reports every exit with ChildExited. The exit of a
zygote also answers its open orders, which it can no longer fork.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit as Code
from flowherd_supervisor.core import (
    blockers,
    events,
    exits_and_restarts,
    isolates,
    reload_on_hup,
    rolling_replacement,
    slot_shares,
    startup,
    stops,
    zygotes,
)
from flowherd_supervisor.core.actions import Action, DumpStacks, Level, SwitchPolling
from flowherd_supervisor.core.events import KEEPER, ZYGOTE, ChildEvent, Event
from flowherd_supervisor.core.state import Mode, Phase, ProcessState, State
from flowherd_supervisor.core.transition import Transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd_supervisor.core.restart_backoff import Rng


def decide(state: State, event: Event, now: float, rng: Rng) -> tuple[State, Sequence[Action]]:
    """Returns the next state and the actions that follow from one event; events of an ended process change nothing.

    Args:
        state: the state that the last decision returned.
        event: the event.
        now: monotonic seconds.
        rng: random numbers for the jitter of waits.

    """
    if state.mode is Mode.ENDED:
        return state, ()
    transition = Transition(state, now, rng)
    match event:
        case events.Started():
            transition.spawn(state.keeper)
            transition.spawn(ProcessState(ZYGOTE) if state.zygotes.wanted else state.processes[0])
        case (
            events.StopRequested() | events.DrainOrdered() | events.WorkedOff() | events.CredentialsRefused()
        ):
            stops.heard(transition, event)
        case events.PollingSwitched(on):
            _switch_polling(transition, on=on)
        case events.TimePassed():
            _time_passed(transition)
        case events.ReloadRequested() | events.ReloadRefused():
            reload_on_hup.heard(transition, event)
        case events.ScaleRequested(processes):
            rolling_replacement.scale_requested(transition, processes)
        case events.StacksRequested():
            transition.actions.append(DumpStacks())
        case (
            events.IsolateNeeded()
            | events.IsolateKillWanted()
            | events.IsolateForked()
            | events.IsolateNotForked()
            | events.IsolateExited()
        ):
            isolates.heard(transition, event)
        case events.LoopBlocked() | events.MoveFailed() | events.KeepRequested():
            blockers.heard(transition, event)
        case _:
            _about_a_child(transition, state.find(event.index, event.incarnation), event)
    isolates.go_on(transition)
    blockers.go_on(transition)
    rolling_replacement.follow_plan(transition)
    slot_shares.rebalance(transition)
    stops.finish_if_empty(transition)
    return transition.state, transition.actions


def _about_a_child(transition: Transition, process: ProcessState | None, event: ChildEvent) -> None:
    if process is None:
        transition.note("late_news", process=event.index, incarnation=event.incarnation)
        return
    if process.number == ZYGOTE:
        zygotes.heard(transition, process, event)
        return
    match event:
        case events.ChildForked(pid=pid):
            startup.forked(transition, process, pid)
        case events.SpawnFailed(reason=reason):
            startup.spawn_failed(transition, process, reason)
        case events.ChildReady():
            startup.ready(transition, process, event)
        case events.BootFailed():
            startup.boot_failed(transition, process, event)
        case events.ChildStopped():
            exits_and_restarts.stopped(transition, process, event)
        case events.ChildExited(status=status, running=running):
            exits_and_restarts.exited(transition, process, status, running)
        case events.SlotsSeen():
            slot_shares.slots_seen(transition, process, event)
        case events.LimitOverdue() | events.SegmentDamaged():
            exits_and_restarts.must_end(transition, process, event)
        case events.KeeperLate(late_s=late_s):
            exits_and_restarts.keeper_late(transition, process, late_s)
        case events.WorkerUsedUp(reason=reason):
            rolling_replacement.recycle(transition, process, reason)


def _switch_polling(transition: Transition, *, on: bool) -> None:
    """Pauses or resumes polling in every worker and in later ones; a CONT without a pause changes nothing."""
    if on == transition.state.polling:
        return
    transition.state = replace(transition.state, polling=on)
    transition.note("polling_resumed" if on else "polling_paused")
    for process in transition.state.workers:
        if process.phase is Phase.RUNNING:
            transition.actions.append(SwitchPolling(process.number, process.incarnation, on=on))


def _time_passed(transition: Transition) -> None:
    """Starts processes whose pause is over and ends those that are past a deadline."""
    zygotes.time_passed(transition)
    isolates.time_passed(transition)
    boot_timeout_s = transition.state.plan.boot_timeout_s
    for number in (*range(len(transition.state.processes)), KEEPER):
        process = transition.state.index(number)  # read again: the process before may have begun a stop
        if process.phase is Phase.BACKOFF and transition.now >= process.retry_at:
            transition.spawn(process)
        elif transition.now >= process.boot_deadline(boot_timeout_s):
            startup.boot_timed_out(transition, process)
    for worker in transition.state.workers:
        if worker.phase in {Phase.DRAINING, Phase.ABORTING} and transition.now >= worker.kill_at:
            why = "it hung" if worker.phase is Phase.ABORTING else "its time to end is up"
            transition.note("process_killed", Level.WARNING, process=worker.number, reason=why)
            if transition.state.mode is not Mode.SERVING:
                transition.blame(Code.RELEASED)
            transition.kill(worker, why)
    if transition.now >= transition.state.deadline:
        stops.patience_ended(transition)
