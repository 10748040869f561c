"""Which activities are moved off the loop because they block it: one decision for the whole host.

Workers report runs that occupy their loop (`flowherd.execution.occupancy`). The second run of an activity moves it:
from then on it runs in isolates, in every process, also in one that starts later. A reload forgets what was learned.

The move is announced when no process is known to be blocked by the activity any more: from that line on, no loop is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Level, TellMoved
from flowherd_supervisor.core.state import Blocker, Phase

if TYPE_CHECKING:
    from flowherd_supervisor.core.state import ProcessState
    from flowherd_supervisor.core.transition import Transition

_UNTIL = "it runs on the loop until a reload"
RUNS = 2  # that occupy the loop: one may be a first run that fills a cache


def heard(transition: Transition, event: events.BlockerEvent) -> None:
    """Handles a report of a worker, or an order to keep an activity on the loop."""
    match event:
        case events.LoopBlocked():
            _blocked(transition, event)
        case events.MoveFailed(name=name, reason=reason):
            if _keep(transition, name):
                transition.note("activity_kept", Level.WARNING, name=name, reason=reason, note=_UNTIL)
        case events.KeepRequested(name):
            if _keep(transition, name):
                transition.note("activity_kept", name=name, reason="it was ordered", note=_UNTIL)


def forget(transition: Transition) -> None:
    """Forgets what was learned of the old version of the app, for the new one and for what still runs of the old."""
    if transition.state.blockers or transition.state.kept:
        transition.state = replace(transition.state, blockers={}, kept=frozenset())
        _tell_all(transition)


def go_on(transition: Transition) -> None:
    """Announces moves once every process has left the blocking run."""
    for name, blocker in transition.state.blockers.items():
        if not blocker.is_moved or blocker.is_announced:
            continue
        if any(transition.state.find(*process) is not None for process in blocker.blocks):
            continue
        _put(transition, name, replace(blocker, is_announced=True))
        transition.note(
            "activity_moved",
            Level.WARNING,
            name=name,
            place=blocker.place,
            blocked_s=round(blocker.longest_s, 3),
            cpu_share=round(blocker.cpu_share, 2),
            note="it runs in isolates from now on",
            remedy=f'to keep it on the loop: offload = "loop" in [activities.{name}], or flowherd ctl keep {name}',
        )


def ready(transition: Transition, process: ProcessState) -> None:
    """Tells a new worker what the host has learned."""
    if transition.state.blockers or transition.state.kept:
        _tell(transition, process)


def _tell(transition: Transition, process: ProcessState) -> None:
    state = transition.state
    moved = {name: one.cpu_share for name, one in state.blockers.items() if one.is_moved}
    transition.actions.append(
        TellMoved(process.number, process.incarnation, moved, tuple(sorted(state.kept)))
    )


def _blocked(transition: Transition, event: events.LoopBlocked) -> None:
    """Counts a run once: where it is seen to last, or at its end."""
    state, process = transition.state, (event.index, event.incarnation)
    if not state.plan.moves_blockers or event.name in state.kept or state.find(*process) is None:
        return
    before = state.blockers.get(event.name, Blocker())
    is_known = process in before.blocks
    blocks = before.blocks - {process} if event.is_over else before.blocks | {process}
    is_longest = event.seconds > before.longest_s
    blocker = replace(
        before,
        runs=before.runs + (not is_known),
        blocks=blocks,
        longest_s=max(before.longest_s, event.seconds),
        place=event.place if event.place and (is_longest or not before.place) else before.place,
        cpu_share=max(before.cpu_share, event.cpu_share),
    )
    if blocker.runs >= RUNS and not blocker.is_moved:
        blocker = replace(blocker, is_moved=True)
        moves = {**state.moves, event.name: state.moves.get(event.name, 0) + 1}
        transition.state = replace(state, moves=moves)
    _put(transition, event.name, blocker)
    if blocker.is_moved and not before.is_moved:
        _tell_all(transition)


def _keep(transition: Transition, name: str) -> bool:
    """Keeps an activity on the loop until the next reload, wherever it runs now; False if it is kept already."""
    state = transition.state
    if name in state.kept:
        return False
    blockers = {other: one for other, one in state.blockers.items() if other != name}
    transition.state = replace(state, blockers=blockers, kept=state.kept | {name})
    _tell_all(transition)
    return True


def _tell_all(transition: Transition) -> None:
    for process in transition.state.workers:
        if process.phase is Phase.RUNNING:
            _tell(transition, process)


def _put(transition: Transition, name: str, blocker: Blocker) -> None:
    transition.state = replace(transition.state, blockers={**transition.state.blockers, name: blocker})
