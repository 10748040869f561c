"""Replaces processes while the others work: reload, scaling, recycling.

A process retires only when its successor is Ready; if that fails to start, the old process stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.end_cause import Cause
from flowherd_supervisor.core import stops
from flowherd_supervisor.core.actions import Drain, Level
from flowherd_supervisor.core.state import Mode, Phase, ProcessState
from flowherd_supervisor.core.stops import DRAIN_MARGIN_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.core.transition import Transition


OLD_GOES_ON = "the old version goes on"
_NEW_ONES_ARE_NEW = (
    "what runs goes on, but a process that starts has the new version: mend it and reload again"
)


def begin(transition: Transition, numbers: Iterable[int]) -> None:
    """Replaces these processes, one after the other (faults.md P6)."""
    transition.state = replace(transition.state, rolling=tuple(numbers))
    go_on(transition)


def scale_requested(transition: Transition, wanted: int) -> None:
    """Changes the number of processes; the budget stays and is divided again."""
    plan = transition.state.plan
    if not 1 <= wanted <= plan.most or transition.state.mode is not Mode.SERVING:
        transition.note("scale_refused", Level.WARNING, wanted=wanted, at_least=1, at_most=plan.most)
        return
    if wanted != plan.workers:
        transition.note("scaling", processes=wanted, before=plan.workers)
        resize(transition, plan.scaled(wanted))


def with_scale_kept(transition: Transition, plan: Plan) -> Plan:
    """Returns the plan with the number of processes that was scaled to, unless the settings have changed it."""
    state = transition.state
    transition.state = replace(state, configured=plan.workers)
    wanted = min(state.plan.workers, plan.most)
    if plan.workers != state.configured or wanted == plan.workers:
        return plan
    transition.note("scale_kept", processes=wanted, settings=plan.workers)
    return plan.scaled(wanted)


def follow_plan(transition: Transition) -> None:
    """With threads, replaces the only process when the wanted number of threads has changed."""
    state = transition.state
    process, busy = state.processes[0], state.rolling or state.zygotes.awaited or state.zygotes.reloading
    if state.plan.threads is None or state.mode is not Mode.SERVING or busy:
        return
    if process.phase is Phase.RUNNING and process.workers != state.plan.threads:
        supersede(transition, process, Cause.SCALE)


def resize(transition: Transition, plan: Plan) -> None:
    """Adds processes, or retires the last ones; a reload goes on with those that stay."""
    state = transition.state
    rolling = tuple(number for number in state.rolling if number < plan.processes)
    transition.state = replace(state, plan=plan, processes=state.processes[: plan.processes], rolling=rolling)
    for process in state.processes[plan.processes :]:
        if process.alive:
            surplus = replace(process, ends_for=process.ends_for or Cause.SCALE)
            transition.state = replace(transition.state, retiring=(*transition.state.retiring, surplus))
            if surplus.phase is Phase.RUNNING:
                retire(transition, surplus)
            else:
                transition.kill(surplus, "fewer processes are wanted")
    for process in state.retiring:
        if process.number >= plan.processes and process.phase is Phase.RUNNING:
            retire(transition, process)  # its successor will not come
    for number in range(len(state.processes), plan.processes):
        process = ProcessState(number)
        transition.state = replace(transition.state, processes=(*transition.state.processes, process))
        if transition.state.ever_ready or transition.state.zygotes.ready is not None:
            transition.spawn(process)
    if rolling[:1] != state.rolling[:1]:
        go_on(transition)  # the number that was being replaced is gone


def go_on(transition: Transition) -> None:
    """Replaces the next process of a reload; one that is not running starts with the new version anyway."""
    if transition.state.zygotes.awaited or transition.state.zygotes.reloading:
        return  # its Ready leads here again, or the failure of a second reload
    while transition.state.rolling:
        process = transition.state.processes[transition.state.rolling[0]]
        if process.phase is Phase.RUNNING:
            supersede(transition, process, Cause.RELOAD)
            return
        if process.phase is Phase.STARTING:
            return  # it may have the old version; its Ready leads here again
        transition.state = replace(transition.state, rolling=transition.state.rolling[1:])
    if transition.state.zygotes.kept is None:
        transition.note("reloaded")


def supersede(transition: Transition, process: ProcessState, cause: Cause) -> None:
    """Starts a successor; the process works until that is Ready."""
    transition.count(process, cause)
    predecessor = replace(process, ends_for=cause)
    transition.state = replace(transition.state, retiring=(*transition.state.retiring, predecessor))
    successor = replace(process, phase=Phase.WAITING, pid=None, limit=0)
    transition.state = replace(
        transition.state,
        processes=tuple(successor if s.number == process.number else s for s in transition.state.processes),
    )
    transition.spawn(successor)


def succeeded(transition: Transition, process: ProcessState) -> None:
    """Retires the predecessor of a worker that is Ready, and continues the reload."""
    predecessor = transition.state.predecessor(process)
    if predecessor is not None:
        retire(transition, predecessor)
    if is_first := _is_of_new_version(transition, process):
        stops.end_zygotes(transition, {Phase.DRAINING})
    if transition.state.rolling[:1] == (process.number,):
        if predecessor is not None:
            transition.state = replace(transition.state, rolling=transition.state.rolling[1:])
        go_on(transition)
    elif is_first and not transition.state.rolling:
        go_on(transition)  # no process ran when the reload began


def _is_of_new_version(transition: Transition, process: ProcessState) -> bool:
    """True if the zygote of the old version is still kept, and a later one has forked this process, or none has."""
    kept = transition.state.zygotes.kept
    return kept is not None and (process.maker == 0 or process.maker > kept.incarnation)


def successor_failed(transition: Transition, process: ProcessState, predecessor: ProcessState) -> None:
    """Keeps the old process and ends the reload (faults.md C20)."""
    if transition.state.plan.threads is not None:
        transition.state = replace(
            transition.state, plan=replace(transition.state.plan, threads=predecessor.workers)
        )
    is_old = process.number not in transition.state.rolling or fall_back(transition)
    note = OLD_GOES_ON if is_old else _NEW_ONES_ARE_NEW
    transition.note("reload_failed", Level.ERROR, process=process.number, note=note)
    retiring = tuple(old for old in transition.state.retiring if old is not predecessor)
    transition.state = replace(transition.state, retiring=retiring, rolling=())
    kept = replace(predecessor, ends_for=None, short_in_row=process.short_in_row, restarts=process.restarts)
    transition.state = replace(
        transition.state,
        processes=tuple(kept if s.number == process.number else s for s in transition.state.processes),
    )


def first_failed(transition: Transition, process: ProcessState) -> None:
    """Ends a reload whose first process does not start, and has no predecessor any more."""
    if process.ready_at is None and _is_of_new_version(transition, process):
        fall_back(transition)
        transition.state = replace(transition.state, rolling=())
        transition.note("reload_failed", Level.ERROR, process=process.number, note=OLD_GOES_ON)


def fall_back(transition: Transition) -> bool:
    """Lets the zygote of the old version fork again, if it is still kept; returns True if it is."""
    kept = transition.state.zygotes.kept
    if kept is None:
        return False
    is_next_coming = transition.state.zygotes.reloading
    stops.end_zygotes(
        transition, {Phase.RUNNING} if is_next_coming else {Phase.STARTING, Phase.RUNNING, Phase.BACKOFF}
    )
    for process in transition.state.workers:
        if process.phase is Phase.STARTING and _is_of_new_version(transition, process):
            transition.kill(process, "its version does not start", Cause.BOOT)
    transition.put(kept.with_phase(Phase.RUNNING))
    transition.state = replace(transition.state, zygotes=replace(transition.state.zygotes, wanted=True))
    return True


def recycle(transition: Transition, process: ProcessState, reason: str) -> None:
    """Replaces a worker that has reached a limit, unless a reload or a replacement is under way."""
    state = transition.state
    idle = state.mode is Mode.SERVING and not state.rolling and state.predecessor(process) is None
    idle = idle and not state.zygotes.awaited
    if idle and process.phase is Phase.RUNNING and process in state.processes:
        transition.note("recycling", process=process.number, reason=reason)
        supersede(transition, process, Cause.RECYCLE)


def retire(transition: Transition, process: ProcessState) -> None:
    """Removes a process's slots and lets it finish what it holds."""
    transition.grant(process, 0)
    within_s = transition.state.plan.graceful_timeout_s
    retiring = transition.state.find(process.number, process.incarnation)
    assert retiring is not None, process
    transition.put(
        replace(retiring, phase=Phase.DRAINING, kill_at=transition.now + within_s + DRAIN_MARGIN_S)
    )
    transition.actions.append(Drain(process.number, process.incarnation, within_s, others_go_on=True))
