"""Prints the outcome of a workflow that `flowherd submit` has started.

The engine keeps only the message of a failure. Code, class and line are known to the host that ran the attempt.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.logs import visible
from flowherd_supervisor.cli.explain_next import explained_here
from flowherd_supervisor.cli.status_tables import failure_text
from flowherd_supervisor.testkit.workflow_client import attempts_in, code_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowherd_supervisor.cli.explain_next import Explained
    from flowherd_supervisor.testkit.workflow_client import Started, Step, Workflow

    _Explain = Callable[[str], Sequence[Explained]]

_WITHIN_S = 1.0  # for the engine's answer to reach the worker, which then writes the failure down
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A failed step; `code` and `attempts` are None when neither the engine nor a host on this machine knows them."""

    text: str
    code: str | None
    attempts: int | None


def show_outcome(
    started: Started,
    workflow: Workflow,
    *,
    is_one_step: bool,
    as_json: bool,
    explain: _Explain = explained_here,
) -> None:
    """Prints the outcome as a line of JSON or as text, and on stderr the command that shows more of a failure.

    Args:
        started: the workflow.
        workflow: its last status document.
        is_one_step: True to print the outputs of its only step without the name of the step.
        as_json: True to print one JSON object on one line.
        explain: returns what the hosts on this machine know of a workflow.

    """
    steps = workflow.outputs
    output = next(iter(steps.values())) if is_one_step and steps else steps
    failed = failed_steps(started, workflow, explain) if workflow.status == "failed" else []
    if as_json:
        line = {
            "id": started.id,
            "status": workflow.status,
            "output": output or None,
            "error": workflow.error,
            "code": next((one.code for one in failed if one.code), code_in(workflow.error)),
            "attempts": next((one.attempts for one in failed if one.attempts), attempts_in(workflow.error)),
        }
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    else:
        reasons = [one.text for one in failed] or [workflow.error_message or ""]
        lines = [f"{started.definition} {started.id}: {workflow.status}"]
        lines += [visible(f"  {reason}") for reason in reasons if reason]
        lines += [visible(f"  {name}: {_text(value)}") for name, value in output.items()]
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if workflow.status == "failed" and not as_json:
        sys.stderr.write(f"flowherd: flowherd explain {started.id} shows more\n")


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def failed_steps(
    started: Started, workflow: Workflow, explain: _Explain, within_s: float = _WITHIN_S
) -> list[FailedStep]:
    """Returns the failed steps; waits up to `within_s` seconds for a host that still holds one of them."""
    steps = [step for step in workflow.activities if step.error or step.status == "failed"]
    keys = {step.activity_key for step in steps}
    give_up_at = time.monotonic() + within_s
    hosts = explain(started.id) if steps else []
    while any(one.key in keys for host in hosts for one in host.present) and time.monotonic() < give_up_at:
        threading.Event().wait(_LOOK_EVERY_S)
        hosts = explain(started.id)
    return [_failed_step(step, hosts) for step in steps]


def _failed_step(step: Step, hosts: Sequence[Explained]) -> FailedStep:
    failures = [
        (host.pid, event)
        for host in hosts
        for event in host.events
        if event["key"] == step.activity_key and event.get("code")
    ]
    _, last = max(failures, key=lambda one: float(one[1]["at"]), default=(0, None))
    if last is None or not _is_of(last, step):
        code = code_in(step.error)
        named = code is not None and not (step.error or "").startswith(code)
        parts = (step.activity_key, code if named else None, step.error or step.status)
        return FailedStep(": ".join(part for part in parts if part), code, attempts_in(step.error))
    attempts = len({(pid, event["activity_id"], event["seen"]) for pid, event in failures})
    return FailedStep(f"{step.activity_key}: {failure_text(last)}", last["code"], attempts)


def _is_of(event: Mapping[str, Any], step: Step) -> bool:
    """True if a host's failure is the one that the engine has; a host cuts a long message at its end."""
    message = event.get("message") or ""
    return (step.error or "").startswith(message) if message else not step.error
