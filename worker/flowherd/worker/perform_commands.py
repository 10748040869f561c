"""Performs the commands of the table of attempts, and turns events of handlers and timers into its facts.

Commands from a fact that arrives while others are performed are queued.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from flowherd.activities_and_outcomes import Completed, Died, Failed, Lost
from flowherd.awake_clock import FREEZE_S, STEP_S
from flowherd.sdk.run_state import CancelReason
from flowherd.worker.activity_log import ActivityLog, Times, say
from flowherd.worker.attempt import OVERRUN
from flowherd.worker.attempt_table_types import (
    Deliver,
    Reject,
    Start,
    Stop,
    WakePoller,
    WarnNotBegun,
    Withdraw,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.activities_and_outcomes import Outcome
    from flowherd.worker.attempt import Attempt
    from flowherd.worker.attempt_table import AttemptTable
    from flowherd.worker.attempt_table_types import Command
    from flowherd.worker.executor_choice import Executors

log = structlog.stdlib.get_logger(__name__)


class Surroundings(Protocol):
    """The receivers of commands that do not concern handlers."""

    def deliver(self, attempt: Attempt) -> None:
        """Delivers the outcome of an attempt."""
        ...

    def reject(self, command: Reject) -> None:
        """Reports the failure of an activity that has no record."""
        ...

    def wake(self, _: WakePoller) -> None:
        """Wakes the poller, since there may be room for more activities."""
        ...

    def changed(self) -> None:
        """Called after any change of any attempt."""
        ...


class Performer:
    """Passes the table's commands to executors and surroundings.

    Args:
        table: the table of attempts, which decides.
        executors: the worker's executors, whose outlet is this object.
        surroundings: the receivers of all other commands.
        clock: monotonic seconds.
        log_completed: see `ActivityLog`.

    """

    def __init__(
        self,
        table: AttemptTable,
        executors: Executors,
        surroundings: Surroundings,
        *,
        clock: Callable[[], float],
        log_completed: bool = False,
    ) -> None:
        self.table = table
        self.log = ActivityLog(log_completed=log_completed, clock=clock)
        self._says_completed = self.log.says_completed
        self._executors = executors
        self._surroundings = surroundings
        self._clock = clock
        self._commands: list[Command] = []
        self._is_performing = False
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf
        self._perform_one: dict[type, Callable[[Any], None]] = {
            Start: self._start,
            Stop: self._stop,
            Withdraw: self._withdraw,
            Deliver: self._deliver,
            Reject: surroundings.reject,
            WarnNotBegun: self._warn,
            WakePoller: surroundings.wake,
        }
        executors.tell(self)

    def perform(self, commands: list[Command]) -> None:
        """Performs the commands that follow from a fact."""
        if self._is_performing:
            self._commands.extend(commands)
            return
        self._is_performing = True
        while commands:
            for command in commands:
                try:
                    self._perform_one[type(command)](command)
                except Exception as error:  # one that fails must not cost the others
                    log.error("internal_error", exc_info=error)
            commands, self._commands = self._commands, []
        self._is_performing = False
        self._surroundings.changed()
        if self.table.next_deadline < self._wakes_at:
            self._set_timer()

    # Events of handlers

    def begin(self, attempt: Attempt) -> bool:
        """See `Outlet.begin`."""
        has_begun = self.table.begin(attempt, self._clock())
        if self.table.next_deadline < self._wakes_at:
            self._set_timer()
        return has_begun

    def waits(self, attempt: Attempt) -> None:
        """See `Outlet.waits`."""
        self.table.waits_for_permit(attempt)

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """See `Outlet.finished`."""
        if attempt.has_ended or isinstance(outcome, Lost):
            return
        is_news = not attempt.is_decided
        commands = self.table.finished(attempt, outcome)
        attempt.note_end()
        if attempt.costs is not None or attempt.files is not None or attempt.trace is not None:
            self._put_away(
                attempt, outcome if isinstance(outcome, Died) else attempt.outcome, is_news=is_news
            )
        if isinstance(outcome, Completed) and attempt.cancel_reason is not None:
            say(logging.WARNING, "late_success_dropped", attempt.ids)
        self._executors.ended(attempt)
        self.perform(commands)

    def _put_away(self, attempt: Attempt, outcome: Outcome | None, *, is_news: bool) -> None:
        if attempt.cancel_reason is CancelReason.LEASE_LOST and attempt.spent != (None, ()):
            cost_usd, usage = attempt.spent  # the engine accepts no report after the lease is lost
            say(logging.WARNING, "spent_by_lost_attempt", attempt.ids, cost_usd=cost_usd, usage=list(usage))
        if attempt.files is not None:
            attempt.files.close()
        if attempt.trace is not None:
            if is_news and outcome is not None:
                attempt.trace.settled(outcome)
            attempt.trace.ended()

    def lost(self, attempt: Attempt) -> None:
        """Handles the loss of an attempt's lease."""
        ids = attempt.ids
        commands = self.table.lost(attempt, self._clock())
        if commands and attempt.records is not None:
            attempt.records.not_completed(ids["activity_id"])
        if commands and attempt.trace is not None:
            attempt.trace.settled(Lost("the lease is somebody else's"))
        self.perform(commands)

    # Commands

    def _start(self, command: Start) -> None:
        attempt = command.attempt
        if attempt.is_alone:
            say(logging.WARNING, "suspect_runs_alone", attempt.ids)
        elif attempt.is_apart:
            say(logging.WARNING, "suspect_runs_in_isolate", attempt.ids)
        self._executors.start(attempt)

    def _stop(self, command: Stop) -> None:
        attempt = command.attempt
        if not attempt.is_busy:
            return
        if not command.is_last:
            assert attempt.cancel_reason is not None
            if attempt.trace is not None:
                attempt.trace.told_to_stop(attempt.cancel_reason)
        self._executors.stop(attempt)

    def _withdraw(self, command: Withdraw) -> None:
        attempt = command.attempt
        attempt.note_end()
        if attempt.trace is not None:
            if attempt.outcome is not None:
                attempt.trace.settled(attempt.outcome)
            attempt.trace.ended()
        self._executors.ended(attempt)

    def _deliver(self, command: Deliver) -> None:
        attempt, outcome = command.attempt, command.attempt.outcome
        if type(outcome) is Failed:
            self._log_failed(attempt, outcome)
        elif self._says_completed:
            self.log.completed(attempt.who, self._times(attempt))
        if attempt.pair == OVERRUN and attempt.trace is not None and attempt.outcome is not None:
            attempt.trace.settled(attempt.outcome)
        self._surroundings.deliver(attempt)

    def _log_failed(self, attempt: Attempt, failure: Failed) -> None:
        self.log.failed(attempt.who, failure, attempt.activity.settings, self._times(attempt))
        if attempt.records is not None:
            attempt.records.not_completed(attempt.id)

    def _times(self, attempt: Attempt) -> Times:
        return Times.of(attempt.claimed_at, attempt.begun_at, self._clock())

    def _warn(self, command: WarnNotBegun) -> None:
        waited_s = round(command.waited_s, 1)
        say(
            logging.WARNING,
            "activity_not_begun",
            command.attempt.ids,
            waited_s=waited_s,
            reason=command.reason,
        )

    # Time

    def _set_timer(self) -> None:
        """Sets the timer to the next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._wakes_at = self.table.next_deadline
        if deadline == inf:
            return
        wait_s = max(0.0, deadline - self._clock())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._time_passed, self._clock() + wait_s)

    def _time_passed(self, expected_at: float) -> None:
        now = self._clock()
        if now - expected_at > FREEZE_S:  # perhaps the host was frozen: the keeper says so within a step
            self._timer = asyncio.get_running_loop().call_later(STEP_S, self._time_passed, inf)
            return
        self._wakes_at = -inf
        commands = self.table.time_passed(now)
        self._set_timer()
        self.perform(commands)

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()
