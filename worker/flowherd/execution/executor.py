"""The protocols of executors and of their outlets; nothing runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Outcome
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


class Outlet(Protocol):
    """Receives the outcomes of handlers from executors; its methods are called on the worker's loop."""

    def begin(self, attempt: Attempt) -> bool:
        """The handler is about to take its first step; False when it must not."""
        ...

    def waits(self, attempt: Attempt) -> None:
        """Others of its name have all permits."""
        ...

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """The handler has ended, or will never begin."""
        ...


class Executor(Protocol):
    """A place where handlers run: a loop, threads or isolates; its methods are called on the worker's loop."""

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Runs the handler soon, or now; the outlet is asked before its first step."""
        ...

    def stop(self, attempt: Attempt) -> None:
        """Stops a handler that has begun; the second call follows one that did not help."""
        ...
