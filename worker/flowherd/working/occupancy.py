"""Which handlers hold a slot: those at work, and those that outlived their outcome; it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.ledger import Cell
from flowherd.working.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.running.run import Run
    from flowherd.working.attempt import Attempt, Tools


class Occupancy:
    """The handlers of one worker from their start until they have really ended.

    Args:
        tools: slots, and the writer whose segment counts what runs.
        vacated: called with each attempt whose handler has ended, once its slot is free again.

    Attributes:
        detached: attempts whose handler outlived its outcome, by activity id.

    """

    def __init__(self, tools: Tools, vacated: Callable[[Attempt], None]) -> None:
        self._tools = tools
        self._tasks = Tasks()
        self._vacated = vacated
        self._running = 0
        self._say_running = tools.writer.segment.writer_of(Cell.RUNNING)
        self.detached: dict[str, Attempt] = {}

    def enter(self) -> None:
        """A handler starts, in a slot that has been taken for it."""
        self._running += 1
        self._say_running(self._running)

    def leave(self, attempt: Attempt, run: Run) -> None:
        """Its outcome is known: frees the slot, at once or when the handler has ended too."""
        if run.has_ended:
            self._vacate(attempt)
        else:
            self.detached[attempt.id] = attempt
            self._tasks.spawn(self._outlive(attempt, run))

    async def _outlive(self, attempt: Attempt, run: Run) -> None:
        await run.ended()
        del self.detached[attempt.id]
        self._vacate(attempt)

    def _vacate(self, attempt: Attempt) -> None:
        self._running -= 1
        self._say_running(self._running)
        self._tools.slots.give_back()
        self._vacated(attempt)
