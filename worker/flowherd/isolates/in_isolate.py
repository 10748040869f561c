"""The executor of handlers that run in a process of their own, over the worker's pool of isolates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.isolates.attempt import IsolateRun

if TYPE_CHECKING:
    from flowherd.execution.executor import Outlet
    from flowherd.execution.stepping import LoopMeter
    from flowherd.isolates.pool import Isolates
    from flowherd.model import Outcome
    from flowherd.sdk.activity import ActivityDefinition
    from flowherd.worker.attempt import Attempt


class InIsolate:
    """Runs handlers in isolates.

    Args:
        isolates: the pool.
        meter: knows how many handlers there are.
        outlet: is told what becomes of them.

    """

    def __init__(self, isolates: Isolates, meter: LoopMeter, outlet: Outlet) -> None:
        self._isolates = isolates
        self._meter = meter
        self._outlet = outlet

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Runs it when there is an isolate for it."""
        self._isolates.begin(IsolateRun(attempt, definition, self))

    def stop(self, attempt: Attempt) -> None:
        """Asks the isolate to cancel it; the second time, the isolate is killed."""
        attempt.handle()

    def begin(self, attempt: Attempt) -> bool:
        """See `Outlet.begin`."""
        has_begun = self._outlet.begin(attempt)
        if has_begun:
            self._meter.enter_isolate()
        return has_begun

    def waits(self, attempt: Attempt) -> None:
        """See `Outlet.waits`."""
        self._outlet.waits(attempt)

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """See `Outlet.finished`."""
        if attempt.begun_at:
            self._meter.leave_isolate()
        self._outlet.finished(attempt, outcome)
