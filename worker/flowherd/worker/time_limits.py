"""The time limits of attempts: when each is due, and the end of a handler that takes too long. Pure.

An attempt has one deadline at most, `due_at`. How long its handler may take is `Executors.limit_s`.

    handler             is due after                       and then
    WAITING, ADMITTED   a wait (`Backlog.overdue`)         is named once, then requeued
    RUNNING             its limit, from its first step     is told to stop
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
        cancel_grace_s: from a stop until the outcome is decided without the handler.

    Attributes:
        next_deadline: never later than what time alone changes next.

    """

    def __init__(self, cancel_grace_s: float) -> None:
        self._cancel_grace_s = cancel_grace_s
        self.next_deadline = inf

    def __repr__(self) -> str:
        return f"<TimeLimits [next at {self.next_deadline:g}]>"

    def look_at(self, at: float) -> None:
        """Something changes at that time at the latest."""
        self.next_deadline = min(self.next_deadline, at)

    def set_due(self, attempt: Attempt, at: float) -> None:
        """Gives an attempt a deadline in place of its present one."""
        attempt.due_at = at
        self.next_deadline = min(self.next_deadline, at)

    def grant_grace(self, attempt: Attempt, now: float) -> None:
        """Its handler has been told to stop."""
        self.set_due(attempt, now + self._cancel_grace_s)

    def look_again(self, attempts: Collection[Attempt]) -> None:
        """Finds the next deadline among those that time alone may change."""
        self.next_deadline = min((attempt.due_at for attempt in attempts), default=inf)

    def stood_still(self, attempts: Collection[Attempt], seconds: float) -> None:
        """The process was frozen for so long: it costs no attempt any of its time."""
        for attempt in attempts:
            attempt.due_at += seconds
        self.next_deadline += seconds

    def end(self, attempt: Attempt, now: float) -> tuple[Command, ...]:
        """Stops a handler whose limit is over; after its grace, decides its outcome without it.

        Args:
            attempt: RUNNING or STOPPING, and due.
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
