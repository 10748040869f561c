"""Reports a workflow's progress, failed attempts and missing pollers while `flowherd submit` waits.

Queries the hosts on this machine, as `flowherd explain` does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flowherd.logs import visible
from flowherd_supervisor.cli.ask_local_hosts import origin, served_here
from flowherd_supervisor.cli.explain_next import LONG_S, RETRIES, explained_here, retry_in_s
from flowherd_supervisor.cli.status_tables import failure_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flowherd_supervisor.cli.ask_local_hosts import Served
    from flowherd_supervisor.cli.explain_next import Explained
    from flowherd_supervisor.testkit.workflow_client import Started, Workflow

FIRST_AFTER_S = 5.0
ASK_EVERY_S = 5.0


class SubmitProgress:
    """Prints news to stderr after `FIRST_AFTER_S` seconds, each piece once.

    The engine returns the state of each step and, once it has failed for good, its error (protocol.md §13). Earlier
    attempts, and when the next one is due, are known only to the host that ran them.

    Args:
        started: the workflow.
        engine: its engine's address.
        workers: the worker type of each step by its key, as far as it is known.
        ask: lists the hosts on this machine.
        explain: returns what they know of a workflow.

    """

    def __init__(
        self,
        started: Started,
        engine: str,
        workers: Mapping[str, str],
        ask: Callable[[], Sequence[Served]] = served_here,
        explain: Callable[[str], Sequence[Explained]] = explained_here,
    ) -> None:
        self._ask = ask
        self._explain = explain
        self._started = started
        self._engine = engine
        self._workers = workers
        self._said: set[str] = set()
        self._ask_at = 0.0

    def look(self, workflow: Workflow, waited_s: float) -> None:
        """Prints what is new in the workflow's status after `waited_s` seconds."""
        if waited_s < FIRST_AFTER_S:
            return
        for key, text in self._news(workflow, waited_s):
            if key not in self._said:
                self._said.add(key)
                sys.stderr.write(
                    f"flowherd: {self._started.definition} {self._started.id}: {visible(text)}\n"
                )

    def _news(self, workflow: Workflow, waited_s: float) -> Iterator[tuple[str, str]]:
        """Yields pairs of a key, by which a line is printed once, and the line."""
        steps = ", ".join(f"{step.activity_key} {step.status}" for step in workflow.activities)
        yield steps, f"{workflow.status} after {waited_s:.0f} s" + (f": {steps}" if steps else "")
        for step in workflow.activities:
            if step.error:
                yield step.error, f"{step.activity_key}: {step.error}"
        if waited_s < self._ask_at:
            return
        self._ask_at = waited_s + ASK_EVERY_S
        for host in self._explain(self._started.id):
            yield from _failed_attempts(host)
        here = [host for host in self._ask() if origin(host.engine) == origin(self._engine)]
        pending = {step.activity_key for step in workflow.activities if step.status == "pending"}
        for worker_type in sorted({self._workers[key] for key in pending & self._workers.keys()}):
            yield from self._missing_pollers(worker_type, here)

    def _missing_pollers(self, worker_type: str, here: Sequence[Served]) -> Iterator[tuple[str, str]]:
        hosts = [host for host in here if host.worker == worker_type]
        if not hosts:
            others = ", ".join(sorted({host.worker for host in here if host.worker}))
            poll = f" (the hosts here poll {others})" if others else ""
            text = (
                f"no host of worker type {worker_type!r} for {self._engine} runs on this machine{poll}; "
                "if none runs elsewhere: flowherd run APP"
            )
            yield f"none {worker_type}", text
            return
        ages = [host.polled_s_ago for host in hosts if host.polled_s_ago is not None]
        if ages and min(ages) < LONG_S:
            return
        if not any(host.free_slots for host in hosts):
            yield f"full {worker_type}", f"all slots of {', '.join(map(str, hosts))} are in use"
        else:
            since = f"for {min(ages):.0f} s" if ages else "yet"
            yield (
                f"silent {worker_type}",
                f"no worker of type {worker_type!r} on this machine has polled {since}",
            )


def _failed_attempts(host: Explained) -> Iterator[tuple[str, str]]:
    """Yields the failures of a host's attempts with the time of the next attempt."""
    words: dict[tuple[str, int], str] = {}
    for event in host.events:
        attempt = event["activity_id"], event["seen"]
        if event.get("code"):
            words[attempt] = failure_text(event)
        elif attempt in words and event["event"] in RETRIES:
            again = ", and not again"
            if event["event"] == "requeued":
                due_s = retry_in_s(event["seen"])
                again = f"; the engine tries again in {due_s:.0f} s, unless the definition says otherwise"
            yield str(attempt), f"{event['key']}: attempt {event['seen']} on {host}: {words[attempt]}{again}"
