"""Tells the engine why an activity cannot be run that never got a record; it holds no leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import Cell, Segment
from flowherd.working.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.model import Failed
    from flowherd.working.reporter import Reporter

log = structlog.stdlib.get_logger(__name__)


class Excuses:
    """Deliveries of failures about activities that are not in the table.

    Args:
        told: called after each, whatever became of it.

    """

    def __init__(self, reporter: Reporter, segment: Segment, told: Callable[[], None]) -> None:
        self._reporter = reporter
        self._segment = segment
        self._told = told
        self._tasks = Tasks()
        self._is_abandoned = False
        self.owed = 0

    def give(self, activity_id: str, worker_id: str, failure: Failed) -> None:
        """Delivers `failure` in the background; logs it at once."""
        log.error("activity_not_run", activity_id=activity_id, code=failure.code, reason=failure.message)
        self.owed += 1
        self._tasks.spawn(self._deliver(activity_id, worker_id, failure))

    def abandon(self) -> None:
        """Makes no further tries."""
        self._is_abandoned = True

    async def _deliver(self, activity_id: str, worker_id: str, failure: Failed) -> None:
        try:
            await self._reporter.deliver(
                activity_id, lambda: None if self._is_abandoned else worker_id, failure
            )
        finally:
            self.owed -= 1
            self._segment.add(Cell.FAILED)
            self._told()
