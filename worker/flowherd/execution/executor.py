"""The protocol of executors of handlers, and of those they tell what becomes of them; nothing runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Outcome
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


class Outlet(Protocol):
    """Hears from executors what becomes of handlers; its methods are called on the worker's loop."""

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
        """Tells a handler that has begun to end; the second time, that the first has not helped."""
        ...
