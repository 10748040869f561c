"""The outcomes of a worker's attempts on their way to the engine; it decides nothing, and holds no table."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import State
from flowherd.working.attempt import counter_of, kept_of
from flowherd.working.reporter import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.model import Result
    from flowherd.working.attempt import Attempt, Tools

log = structlog.stdlib.get_logger(__name__)

_REPORTING, _WITHDRAWN = State.REPORTING, Delivery.WITHDRAWN  # looked up for each activity, which is dear


class Deliveries:
    """Hands each outcome to the reporter, once it is in the ledger.

    Args:
        tools: engine, writer and reporter.
        settled: called with each attempt about which nothing is owed any more.
        ended: called after each delivery, whatever became of it.

    Attributes:
        under_way: how many have not ended.

    """

    def __init__(self, tools: Tools, settled: Callable[[Attempt], None], ended: Callable[[], None]) -> None:
        self._tools = tools
        self._settled = settled
        self._ended = ended
        self._is_abandoned = False
        self._posts: list[Callable[[], None]] = []
        tools.meter.on_turn_end = self._turn_ended
        self.under_way = 0

    def post(self, attempt: Attempt, outcome: Result) -> None:
        """Delivers what became of an attempt."""
        attempt.outcome, attempt.state = outcome, _REPORTING
        tools, speaker = self._tools, attempt.activity.worker_id
        kept = kept_of(attempt, tools.engine)
        tools.writer.reporting(attempt.index, kept)
        self.under_way += 1
        then = partial(self._delivered, attempt, outcome, time.monotonic())
        encoded = ("", None) if self._is_abandoned else (speaker, kept)
        fence, timeout_s = partial(self._fence, attempt), attempt.activity.timeout_s
        post = partial(tools.reporter.post, attempt.id, fence, outcome, encoded, then, timeout_s)
        if tools.meter.is_in_turn:
            self._posts.append(post)
        else:
            post()

    def _turn_ended(self) -> None:
        """Sends what handlers that ran one after the other have brought about: an engine is woken once for all."""
        posts, self._posts = self._posts, []
        for post in posts:
            try:
                post()
            except Exception as error:
                log.error("internal_error", exc_info=error)

    def abandon(self) -> None:
        """Time is up: each ends with its present call."""
        self._is_abandoned = True

    def _fence(self, attempt: Attempt) -> str | None:
        return attempt.activity.worker_id if attempt.is_owed and not self._is_abandoned else None

    def _delivered(self, attempt: Attempt, outcome: Result, began: float, delivery: Delivery) -> None:
        self.under_way -= 1
        if delivery is not _WITHDRAWN and attempt.is_owed:
            self._tools.writer.ended(counter_of(outcome, delivery), time.monotonic() - began)
            self._settled(attempt)
        self._ended()
