"""Predicts the next step of a workflow from the replies of the engine and of the hosts on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from flowherd.client.retry_rules import next_try
from flowherd.counted import counted
from flowherd.leases.cancellation import CANCELLED
from flowherd.leases.engine_watch import OVER, STALLED_AFTER_S
from flowherd_supervisor.cli.ask_local_hosts import Served, asked_here
from flowherd_supervisor.cli.status_tables import standstill_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowherd_supervisor.testkit.workflow_client import Step, Workflow

HOST_WITHIN_S = 5.0  # a host that hangs must not delay the answer for long
RETRIES = frozenset({"requeued", "given_up"})  # events that follow a failed attempt
LONG_S = 5.0  # the longest pause between two polls is --poll-interval-max, 2 s
_DONE = frozenset({"completed", "delivered"})
_ORDER = ("stalled", "running", "stopping", "reporting", "settling", "waiting", "pending", "signal")
NOTHING = "Nothing more happens"  # a text that begins so stands without "Next: "
_MOST = 3  # activities named in the line; the table shows the rest


class Present(msgspec.Struct, frozen=True):
    """An attempt that a host holds; `has_result` is True if it has completed and its result is not delivered yet."""

    activity_id: str
    key: str
    name: str
    process: int
    state: str
    for_s: float
    limit_s: float | None
    waits_for: str | None
    lease_s: float
    has_result: bool = False


class Explained(Served, frozen=True):
    """The reply of a host's `/api/explain`; `standstills`: its processes that make no progress."""

    workflow_id: str
    events: list[dict[str, Any]]
    present: list[Present]
    left_out: int = 0
    moved: tuple[dict[str, Any], ...] = ()
    standstills: tuple[dict[str, Any], ...] = ()

    @property
    def knows(self) -> bool:
        """True if the host has events or attempts of the workflow."""
        return bool(self.events or self.present)


def explained_here(wanted: str, first: str = "", within_s: float = HOST_WITHIN_S) -> list[Explained]:
    """Returns what this machine's hosts know of a workflow or activity; activity `first` takes precedence."""
    first = f"&first={quote(first, safe='')}" if first else ""
    return asked_here(f"/api/explain?id={quote(wanted, safe='')}{first}", Explained, within_s)


def retry_in_s(seen: int) -> float:
    """Seconds until the engine retries by default, after attempt number `seen` on this host (protocol.md §3.2)."""
    return next_try({}, seen).after_s or 0.0


def next_of(
    workflow: Workflow | None, hosts: Sequence[Explained], own: Sequence[Explained], now: float
) -> str:
    """Returns the last line, without its "Next: ".

    Args:
        workflow: the engine's reply; None if it could not be asked.
        hosts: the hosts that know the workflow.
        own: the hosts that work for its engine.
        now: seconds since 1970.

    """
    if workflow is not None and workflow.status == "completed":
        return f"{NOTHING}: the workflow has completed."
    if workflow is not None and workflow.status == "failed":
        return f"{NOTHING}: {_of_failed(workflow)}"
    if workflow is not None and workflow.orchestrator:
        return (
            f"{NOTHING} until the engine is restarted: it says that it is ready, but its orchestrator, which makes "
            f"steps ready, is unhealthy ({workflow.orchestrator})."
        )
    found = sorted(_all(workflow, hosts, own, now), key=lambda one: _ORDER.index(one[0]))
    if not found:
        if workflow is None:
            return "the engine knows; ask again when it answers."
        return "the engine makes the next step ready; it takes a second at most."
    texts = list(dict.fromkeys(text for _, text in found))
    more = f" And {len(texts) - _MOST} more." if len(texts) > _MOST else ""
    return " ".join(texts[:_MOST]) + more


def _of_failed(workflow: Workflow) -> str:
    """Returns why submitting it again is useful; the engine keeps the message of a cancelled activity."""
    errors = {step.activity_key: step.error for step in workflow.activities if step.status == "failed"}
    if set(errors.values()) != {CANCELLED}:
        return "the workflow has failed for good. When the cause is gone, submit it again."
    keys = ", ".join(list(errors)[:_MOST]) + (
        f" and {len(errors) - _MOST} more" if len(errors) > _MOST else ""
    )
    return (
        f"an operator cancelled {keys}, so the workflow has failed for good. "
        "Submit it again only if it is to run after all."
    )


def _all(
    workflow: Workflow | None, hosts: Sequence[Explained], own: Sequence[Explained], now: float
) -> Iterator[tuple[str, str]]:
    """Yields the state of each unfinished activity and a sentence about its next event."""
    held = set()
    for host in hosts:
        for one in host.present:
            if one.state != "detached":
                held.add(one.key)
                yield one.state, _of_present(one, host) + _but(one, host)
    last = _last_events(hosts)
    if workflow is not None and (passed_over := _passed_over(workflow, last, now)):
        yield "stalled", passed_over
        return
    for step in workflow.activities if workflow is not None else ():
        if step.activity_key in held:
            continue
        queue = workflow.workers.get(step.activity_key) if workflow is not None else None
        if step.status in {"pending", "running"}:
            yield "pending", _of_pending(step, last.get(step.activity_key), own, now, queue)
        elif step.status == "waiting":
            yield "signal", f"{step.activity_key} waits for a signal, or for its time-out."


def _passed_over(workflow: Workflow, last: Mapping[str, Mapping[str, Any]], now: float) -> str:
    """The result that the engine has taken and done nothing with since (protocol.md §16); "" if there is none."""
    changed_at = workflow.updated_at.timestamp() if workflow.updated_at is not None else 0.0
    for step in workflow.activities:
        event = last.get(step.activity_key)
        if event is None or event["event"] not in _DONE or step.status in OVER:
            continue
        if (for_s := now - event["at"]) >= STALLED_AFTER_S and changed_at <= event["at"]:
            return (
                f"{NOTHING}: the engine took the result of {step.activity_key} {for_s:.0f} s ago and has passed it "
                "over. Submit the workflow again; this one fails at its time-out."
            )
    return ""


def _of_present(one: Present, host: Explained) -> str:
    where = f"on process {one.process} of {host}"
    what = one.key or one.name
    match one.state:
        case "running":
            left_s = max((one.limit_s or 0.0) - one.for_s, 0.0)
            limit = f", or is stopped at its limit in {left_s:.0f} s" if one.limit_s else ""
            return f"{what} has run for {one.for_s:.0f} s {where}: it ends by itself{limit}."
        case "stopping":
            return f"{what} was told to stop {where}: it ends, or its process is ended after --cancel-grace."
        case "reporting":
            how = "completed" if one.has_result else "ended"
            return f"{what} has {how} {where}: the engine is told, as soon as it answers."
        case "settling" if one.waits_for:
            return (
                f"{what} had not begun when its process ended {where}: another process goes on with it, or, if none "
                "has a free slot, the keeper tells the engine, which may run it again."
            )
        case "settling":
            return (
                f"{what} has lost its process {where}: the keeper tells the engine, which may run it again."
            )
        case _:
            return f"{what} begins {where} when it gets {one.waits_for or 'a slot'}."


def _but(one: Present, host: Explained) -> str:
    """Returns why the attempt's process makes no progress, "" if it does."""
    lines = standstill_lines(_standing(host, one.process))
    return f" But {lines[0]}." if lines else ""


def _standing(host: Explained, process: int | None = None) -> list[dict[str, Any]]:
    """Returns the stalled processes of a host in the form that `standstill_lines` takes."""
    return [
        {"process": found["process"], "standstill": found}
        for found in host.standstills
        if process is None or found["process"] == process
    ]


def _of_pending(
    step: Step, last: Mapping[str, Any] | None, own: Sequence[Explained], now: float, queue: str | None
) -> str:
    key = step.activity_key
    polling = [host for host in own if queue is None or host.worker == queue]
    if queue is not None and last is None and not polling:
        return f"{key} waits in queue {queue!r}, or runs on another machine; {_nobody(own)}"
    polling = polling or list(own)
    if last is not None and last["event"] == "requeued":
        due_s = retry_in_s(last["seen"]) - (now - last["at"])
        when = f"in about {due_s:.0f} s" if due_s >= 1 else "at the next poll"
        return (
            f"the engine hands {key} out again {when}, unless its definition names another delay; "
            f"{_poller(polling)}."
        )
    if last is not None and last["event"] == "lost":
        return f"another worker has {key}, or the engine hands it out again; {_poller(polling)}."
    return f"{key} is claimed by the next poll for its worker type, or runs on another machine; {_poller(polling)}."


def _nobody(own: Sequence[Explained]) -> str:
    if not own:
        return "no host on this machine polls it: flowherd run APP starts one."
    others = ", ".join(f"{host} polls {host.worker}" for host in own)
    return f"no host on this machine polls it; {others}. Is the definition's worker: right?"


def _poller(own: Sequence[Explained]) -> str:
    """Describes the hosts that may poll for it."""
    if not own:
        return "no host on this machine works for this engine: flowherd run APP starts one"
    parts = []
    for host in own:
        name = f"{host} (worker type {host.worker})"
        if host.polled_s_ago is None:
            parts.append(f"{name} has not polled yet")
        elif host.free_slots <= 0:
            parts.append(f"all slots of {name} are in use")
        elif host.polled_s_ago > LONG_S:
            causes = "; ".join(standstill_lines(_standing(host)))
            parts.append(
                f"{name} has not polled for {host.polled_s_ago:.0f} s" + (f" ({causes})" if causes else "")
            )
        else:
            parts.append(f"{name} polls, with {counted(host.free_slots, 'free slot')}")
    return "; ".join(parts)


def _last_events(hosts: Sequence[Explained]) -> dict[str, Mapping[str, Any]]:
    """Maps each activity key to its newest event."""
    events = sorted((event for host in hosts for event in host.events), key=lambda event: float(event["at"]))
    return {event["key"]: event for event in events}
