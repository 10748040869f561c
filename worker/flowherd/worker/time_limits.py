"""The time limits of attempts: their deadlines, and the stop of a handler that takes too long. Pure.

An attempt has at most one deadline, `due_at`. `Executors.limit_s` is the time its handler may take.

    handler             is due after                       and then
    WAITING, ADMITTED   a wait (`Backlog.overdue`)         is logged once, then requeued
    RUNNING             its limit, from its first step     is stopped
    STOPPING            `cancel_grace_s`                   its outcome, TIMEOUT, is decided without it
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from flowherd.ledger.states_and_cells import Handler
from flowherd.sdk.run_state import CancelReason
from flowherd.worker.attempt_table_types import Deliver, Stop

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowherd.worker.attempt import Attempt
    from flowherd.worker.attempt_table_types import Command


class TimeLimits:
    """The deadlines of a worker's attempts; all times are monotonic seconds.

    Args:
        cancel_grace_s: seconds from a stop until the outcome is decided without the handler.

    Attributes:
        next_deadline: the next time at which something may change by itself, never too late.

    """

    def __init__(self, cancel_grace_s: float) -> None:
        self._cancel_grace_s = cancel_grace_s
        self.next_deadline = inf

    def __repr__(self) -> str:
        return f"<TimeLimits [next at {self.next_deadline:g}]>"

    def look_at(self, at: float) -> None:
        """Moves the next deadline to `at`, if that is sooner."""
        self.next_deadline = min(self.next_deadline, at)

    def set_due(self, attempt: Attempt, at: float) -> None:
        """Replaces the deadline of an attempt."""
        attempt.due_at = at
        self.next_deadline = min(self.next_deadline, at)

    def grant_grace(self, attempt: Attempt, now: float) -> None:
        """Sets the deadline of an attempt whose handler was stopped to the end of its grace."""
        self.set_due(attempt, now + self._cancel_grace_s)

    def look_again(self, attempts: Collection[Attempt]) -> None:
        """Computes the next deadline from all attempts that have one."""
        self.next_deadline = min((attempt.due_at for attempt in attempts), default=inf)

    def stood_still(self, attempts: Collection[Attempt], seconds: float) -> None:
        """Moves all deadlines by the length of a freeze of the process, so that it costs no attempt its time."""
        for attempt in attempts:
            attempt.due_at += seconds
        self.next_deadline += seconds

    def end(self, attempt: Attempt, now: float) -> tuple[Command, ...]:
        """Stops a handler whose limit is over; after its grace, decides the outcome without it.

        Args:
            attempt: a due attempt that is RUNNING or STOPPING.
            now: monotonic seconds.

        """
        if attempt.handler is Handler.RUNNING:
            attempt.stop(CancelReason.TIMEOUT)
            self.grant_grace(attempt, now)
            return (Stop(attempt),)
        attempt.due_at = inf
        last_stop = Stop(attempt, is_last=True)
        if not attempt.is_held:
            return (last_stop,)
        attempt.overrun(attempt.decided(None))
        return Deliver(attempt), last_stop
