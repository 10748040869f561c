"""The stages of a supervisor's stop: drain, release, kill, and the keeper's final settlement."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit as Code
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Drain, FinishKeeper, Level, Release
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.state import Mode, Phase, ProcessState

if TYPE_CHECKING:
    from flowherd_supervisor.core.transition import Transition

RELEASE_WITHIN_S = 0.5  # on the second signal; then SIGKILL
DRAIN_MARGIN_S = 1.5  # beyond the graceful timeout, for workers to release the rest
SETTLE_WITHIN_S = (
    3.0  # for the keeper, after a drain: with the margins a stop takes less than 5 s beyond its time
)
SETTLE_IN_HURRY_S = 0.4
KEEPER_MARGIN_S = 0.1
_TIME_IS_UP, _NOT_SETTLED = "the time to stop is up", "it could not settle in time"
_NOT_NEEDED = "it is not needed any more"


def heard(transition: Transition, event: events.StopEvent) -> None:
    """Handles what stops the host; an order to drain counts as a signal unless there was one."""
    match event:
        case events.StopRequested(times):
            _stop_requested(transition, times)
        case events.DrainOrdered() if transition.state.stops == 0:
            _stop_requested(transition, 1)
        case events.WorkedOff(idle_s) if transition.state.mode is Mode.SERVING:
            transition.note("worked_off", idle_s=idle_s)
            begin_drain(transition, Code.CLEAN)
        case events.CredentialsRefused(detail) if (
            transition.state.mode is Mode.SERVING
        ):  # the keeper repeats it
            transition.note("credentials_refused", Level.ERROR, reason=detail)
            begin_drain(transition, Code.CREDENTIALS_REFUSED)
        case _:
            return


def _stop_requested(transition: Transition, times: int) -> None:
    """First request: drain. Second: release everything now. Third: kill (faults.md P2, P4).

    Only requests count: the first one after a drain that began by itself changes nothing.
    """
    stops = transition.state.stops + times
    transition.state = replace(transition.state, stops=stops)
    if stops == 1:
        begin_drain(transition, Code.CLEAN)
        return
    begin_release(transition, Code.CLEAN)
    if stops > 2:  # the third
        kill_workers(transition)
        if transition.state.mode is Mode.FINISHING:
            _kill_keeper(transition)


def begin_drain(transition: Transition, code: Code) -> None:
    """Lets workers finish what runs; those that are not ready yet are killed."""
    transition.blame(code)
    if transition.state.mode is not Mode.SERVING:
        return
    within_s = transition.state.plan.graceful_timeout_s
    transition.state = replace(
        transition.state, mode=Mode.DRAINING, deadline=transition.now + within_s + DRAIN_MARGIN_S
    )
    transition.note("draining", within_s=within_s)
    end_zygotes(transition, {Phase.STARTING, Phase.BACKOFF, Phase.DRAINING})
    for process in transition.state.workers:
        if process.phase is Phase.RUNNING:
            transition.put(process.with_phase(Phase.DRAINING))
            transition.actions.append(Drain(process.number, process.incarnation, within_s))
        else:
            _drop(transition, process)


def begin_release(transition: Transition, code: Code) -> None:
    """Gives workers 0.5 s to release everything; a keeper that is already settling gets 0.4 s."""
    transition.blame(code)
    match transition.state.mode:
        case Mode.FINISHING:
            _hasten_keeper(transition)
        case Mode.SERVING | Mode.DRAINING:
            transition.state = replace(
                transition.state, mode=Mode.RELEASING, deadline=transition.now + RELEASE_WITHIN_S
            )
            transition.note("releasing", within_s=RELEASE_WITHIN_S)
            end_zygotes(transition, set(Phase))
            for process in transition.state.workers:
                if process.phase in {Phase.RUNNING, Phase.DRAINING}:
                    transition.put(process.with_phase(Phase.DRAINING))
                    transition.actions.append(Release(process.number, process.incarnation, RELEASE_WITHIN_S))
                else:
                    _drop(transition, process)


def _drop(transition: Transition, process: ProcessState) -> None:
    """Ends a process that holds no work, because it never polled."""
    if process.phase is Phase.STARTING:
        transition.kill(process, "the host stops")
    elif not process.alive:
        transition.put(process.with_phase(Phase.STOPPED))


def end_zygotes(transition: Transition, phases: set[Phase]) -> None:
    """Ends the zygotes in one of these phases."""
    for process in transition.state.zygotes.processes:
        if process.phase in phases:
            transition.kill(process, _NOT_NEEDED) if process.alive else transition.put(
                process.with_phase(Phase.STOPPED)
            )


def kill_workers(transition: Transition) -> None:
    """Kills every worker that still exists."""
    for process in transition.state.workers:
        if process.alive and process.phase is not Phase.DYING:
            transition.note("process_killed", Level.WARNING, process=process.number, reason=_TIME_IS_UP)
            transition.blame(Code.RELEASED)
            transition.kill(process, _TIME_IS_UP)


def finish_if_empty(transition: Transition) -> None:
    """Lets the keeper settle and end once no worker, zygote or isolate is left."""
    state = transition.state
    if state.mode not in {Mode.DRAINING, Mode.RELEASING} or any(process.alive for process in state.workers):
        return
    if state.zygotes.processes:
        end_zygotes(transition, {Phase.RUNNING, Phase.DRAINING})
    if state.zygotes.processes or state.isolates:
        return
    within_s = SETTLE_WITHIN_S if state.mode is Mode.DRAINING else SETTLE_IN_HURRY_S
    transition.state = replace(
        state, mode=Mode.FINISHING, deadline=transition.now + within_s + KEEPER_MARGIN_S
    )
    if not state.keeper.alive:
        transition.spawn(state.keeper)
    finish_keeper(transition)


def finish_keeper(transition: Transition) -> None:
    """Orders the keeper to finish by the deadline; if it is still being forked, the order follows once it exists."""
    keeper = transition.state.keeper
    if keeper.pid is not None and transition.state.deadline < inf:
        within_s = max(0.0, transition.state.deadline - KEEPER_MARGIN_S - transition.now)
        transition.actions.append(FinishKeeper(keeper.incarnation, within_s))


def _hasten_keeper(transition: Transition) -> None:
    sooner = transition.now + SETTLE_IN_HURRY_S + KEEPER_MARGIN_S
    if sooner < transition.state.deadline < inf:
        transition.state = replace(transition.state, deadline=sooner)
        finish_keeper(transition)


def _kill_keeper(transition: Transition) -> None:
    transition.state = replace(transition.state, deadline=inf)
    transition.note("keeper_killed", Level.ERROR, process=KEEPER, reason=_NOT_SETTLED)
    transition.blame(Code.RELEASED)
    transition.kill(transition.state.keeper, _NOT_SETTLED)


def patience_ended(transition: Transition) -> None:
    """Kills whatever is left when the time of the current mode is up."""
    if transition.state.mode is Mode.FINISHING:
        _kill_keeper(transition)
    else:
        transition.state = replace(transition.state, deadline=inf)
        kill_workers(transition)
