"""A reload: new sizes at once, then the new version of the app, process by process.

`shell/inputs_to_events.py` turns HUP into its event. Unless `--no-preload` is set, it begins with a new zygote, and
goes on only if the new version imports there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd_supervisor.core import blockers, events, rolling_replacement, startup, stops
from flowherd_supervisor.core.actions import Level
from flowherd_supervisor.core.events import ZYGOTE
from flowherd_supervisor.core.plan import Preload
from flowherd_supervisor.core.state import Mode, Phase, ProcessState

if TYPE_CHECKING:
    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.core.transition import Transition


def heard(transition: Transition, event: events.ReloadRequested | events.ReloadRefused) -> None:
    """Handles HUP, after the shell has read the settings again."""
    if isinstance(event, events.ReloadRefused):
        transition.note("reload_refused", Level.ERROR, reason=event.reason)
    else:
        _begin(transition, event.plan)


def _begin(transition: Transition, plan: Plan) -> None:
    """Applies the new sizes and starts a new zygote, whose Ready starts the replacement of workers."""
    if transition.state.mode is not Mode.SERVING:
        transition.note("reload_refused", Level.WARNING, reason="the host is stopping")
        return
    plan = rolling_replacement.with_scale_kept(transition, plan)
    transition.note("reloading", processes=plan.workers, concurrency=plan.concurrency)
    transition.state = replace(transition.state, zygotes=replace(transition.state.zygotes, reloading=True))
    blockers.forget(transition)
    rolling_replacement.resize(transition, plan)
    if plan.preload is Preload.NEVER:
        transition.state = replace(
            transition.state, zygotes=replace(transition.state.zygotes, wanted=False, reloading=False)
        )
        stops.end_zygotes(transition, set(Phase))
        startup.start_waiting(transition)
        rolling_replacement.begin(transition, range(plan.processes))
        return
    stops.end_zygotes(transition, {Phase.STARTING, Phase.BACKOFF})
    transition.spawn(ProcessState(ZYGOTE))


def failed(transition: Transition, reason: str, report: str = "") -> None:
    """Ends a reload whose version does not import; one that it has interrupted goes on."""
    transition.note("reload_failed", Level.ERROR, report, reason=reason, note=rolling_replacement.OLD_GOES_ON)
    transition.state = replace(transition.state, zygotes=replace(transition.state.zygotes, reloading=False))
    startup.start_waiting(transition)
    if transition.state.rolling:
        rolling_replacement.go_on(transition)
