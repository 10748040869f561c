"""The protocols of the executors of handlers, and of the outlet that they report to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Outcome
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


class Outlet(Protocol):
    """Receives the events of handlers from executors; its methods are called on the worker's loop."""

    def begin(self, attempt: Attempt) -> bool:
        """Called before the handler's first step; returns False when it must not begin."""
        ...

    def waits(self, attempt: Attempt) -> None:
        """Called when the attempt waits for a permit, because others of its name hold them all."""
        ...

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """Called when the handler has ended, or will never begin."""
        ...


class Executor(Protocol):
    """A place where handlers run: a loop, threads or isolates; its methods are called on the worker's loop."""

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Starts the handler, now or soon; calls `Outlet.begin` before its first step."""
        ...

    def stop(self, attempt: Attempt) -> None:
        """Cancels a handler that has begun; a second call means that the first had no effect."""
        ...
