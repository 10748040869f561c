"""The progress of a workflow while `flowherd submit` waits, its failed attempts, and if anybody polls for it.

It asks the hosts of this machine, as `flowherd explain` does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flowherd.logs import visible
from flowherd_supervisor.cli.ask_local_hosts import served_here
from flowherd_supervisor.cli.explain_next import RETRIES, explained_here, retry_in_s, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd_supervisor.cli.ask_local_hosts import Served
    from flowherd_supervisor.cli.explain_next import Explained
    from flowherd_supervisor.testkit.workflow_client import Started, Workflow

FIRST_AFTER_S = 5.0
ASK_EVERY_S = 5.0
LONG_S = 5.0  # the longest pause between two polls is --poll-interval-max, 2 s


class SubmitProgress:
    """Says on stderr, from `FIRST_AFTER_S` on, what is new; nothing twice.

    The engine shows the state and, once it has failed for good, the error of each step (protocol.md §13). The attempts
    before, and when the next one is due, are known to the host that has run them.

    Args:
        started: what is waited for.
        engine: its address.
        worker_type: whose host should work on it; None where a definition names its own.
        ask: finds the hosts of this machine.
        explain: what they know of a workflow.

    """

    def __init__(
        self,
        started: Started,
        engine: str,
        worker_type: str | None,
        ask: Callable[[], Sequence[Served]] = served_here,
        explain: Callable[[str], Sequence[Explained]] = explained_here,
    ) -> None:
        self._ask = ask
        self._explain = explain
        self._started = started
        self._engine = engine
        self._worker_type = worker_type
        self._said: set[str] = set()
        self._ask_at = 0.0

    def look(self, workflow: Workflow, waited_s: float) -> None:
        """Shows the progress of the workflow after so many seconds."""
        if waited_s < FIRST_AFTER_S:
            return
        for key, text in self._news(workflow, waited_s):
            if key not in self._said:
                self._said.add(key)
                sys.stderr.write(
                    f"flowherd: {self._started.definition} {self._started.id}: {visible(text)}\n"
                )

    def _news(self, workflow: Workflow, waited_s: float) -> Iterator[tuple[str, str]]:
        """Pairs of what makes a line new, and the line."""
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
        if self._worker_type is not None:
            yield from self._nobody_asks(self._worker_type)

    def _nobody_asks(self, worker_type: str) -> Iterator[tuple[str, str]]:
        hosts = [host for host in self._ask() if host.serves(self._engine, worker_type)]
        if not hosts:
            yield (
                "none",
                (
                    f"no host of worker type {worker_type!r} for {self._engine} runs on this machine; "
                    "if none runs elsewhere: flowherd run APP"
                ),
            )
            return
        ages = [host.polled_s_ago for host in hosts if host.polled_s_ago is not None]
        if ages and min(ages) < LONG_S:
            return
        if not any(host.free_slots for host in hosts):
            yield "full", f"all slots of {', '.join(map(str, hosts))} are in use"
        else:
            since = f"for {min(ages):.0f} s" if ages else "yet"
            yield "silent", f"no worker of type {worker_type!r} on this machine has polled {since}"


def _failed_attempts(host: Explained) -> Iterator[tuple[str, str]]:
    """The failures of a host's attempts, and when the engine hands the activity out again."""
    words: dict[tuple[str, int], str] = {}
    for event in host.events:
        attempt = event["activity_id"], event["seen"]
        if event.get("code"):
            words[attempt] = words_of(event)
        elif attempt in words and event["event"] in RETRIES:
            again = ", and not again"
            if event["event"] == "requeued":
                again = f"; the engine tries again after {retry_in_s(event['seen']):.0f} s, or as its definition says"
            yield str(attempt), f"{event['key']}: attempt {event['seen']} on {host}: {words[attempt]}{again}"
