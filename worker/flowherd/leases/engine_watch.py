"""Names two defects of an engine that its users would meet as silence; it changes nothing (protocol.md §16).

D1: the engine has taken an activity's result, and passes over the event that should make its workflow go on.
D2: the engine says that it is ready, while the part of it that schedules has ended.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime  # noqa: TC003 - msgspec reads it
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from flowherd.client.kruxia_replies import answer_to
from flowherd.ledger.attempt_history import End, decoded
from flowherd.transport.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import httpx

    from flowherd.ledger import Ledger
    from flowherd.ledger.attempt_history import EndedAttempt

LOOK_EVERY_S = 30.0
STALLED_AFTER_S = 60.0  # without a move since the receipt: an engine's own looks are a second apart at most
MOST_WORKFLOWS = 4_000  # that are remembered: of more in a minute, some are not watched
OVER = frozenset({"completed", "failed", "skipped"})
_ROWS = 1000  # protocol.md §13: at most
_WITHIN_S = 10.0
_CLOCKS_S = 1.5  # between two clocks that are compared: the engine's is read in whole seconds

_Shape = TypeVar("_Shape")

log = structlog.stdlib.get_logger(__name__)


class _Check(msgspec.Struct):
    status: str = ""
    message: str | None = None


class Health(msgspec.Struct):
    """The answer to `/health/ready`."""

    status: str = ""
    checks: dict[str, _Check] = {}

    @property
    def hidden_trouble(self) -> str | None:
        """The orchestrator's own words, if it is unhealthy while the engine says that it is ready."""
        found = self.checks.get("orchestrator")
        if self.status != "ready" or found is None or found.status != "unhealthy":
            return None
        return found.message or "unhealthy"


class Row(msgspec.Struct):
    """A workflow in a list."""

    id: str
    updated_at: datetime


class _Rows(msgspec.Struct):
    workflows: list[Row]


class _Step(msgspec.Struct):
    activity_key: str
    status: str = ""


class _Workflow(msgspec.Struct):
    activities: list[_Step] = []


class Receipt(NamedTuple):
    """The engine has taken a result; `at` in monotonic seconds."""

    at: float
    key: str
    activity_id: str


class Receipts:
    """The last receipt of each workflow that has gone on here within the last minute. Pure."""

    def __init__(self) -> None:
        self._last: dict[str, Receipt] = {}

    def note(self, ended: Iterable[EndedAttempt]) -> None:
        """Takes what has ended since, the oldest first."""
        for one in ended:
            is_known = self._last.pop(one.workflow_id, None) is not None
            if one.end in {End.COMPLETED, End.DELIVERED} and (is_known or len(self._last) < MOST_WORKFLOWS):
                self._last[one.workflow_id] = Receipt(one.closed_at, one.key, one.activity_id)

    def are_due(self, now: float) -> bool:
        """True when one is so old that its workflow should have gone on."""
        return any(now - one.at >= STALLED_AFTER_S for one in self._last.values())

    def unanswered(self, rows: Iterable[Row], engine_now_s: float, now: float) -> list[tuple[str, Receipt]]:
        """The workflows of those that are due that have not changed since; forgets all that are due.

        Args:
            rows: the engine's running workflows.
            engine_now_s: its clock, in seconds since 1970.
            now: ours.

        """
        due = {name: one for name, one in self._last.items() if now - one.at >= STALLED_AFTER_S}
        for name in due:
            del self._last[name]
        return [
            (row.id, due[row.id])
            for row in rows
            if row.id in due and engine_now_s - row.updated_at.timestamp() >= now - due[row.id].at - _CLOCKS_S
        ]


class EngineWatch:
    """Looks twice a minute, and logs each defect once.

    Args:
        http: has the engine's address, and the host's token if it has one.
        ledger: knows what the engine has taken.
        clock: monotonic seconds, as in the ledger.

    """

    def __init__(
        self, http: httpx.AsyncClient, ledger: Ledger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._http = http
        self._ledger = ledger
        self._clock = clock
        self._receipts = Receipts()
        self._taken = 0  # entries of the host's history
        self._is_unhealthy = False

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - an engine that is away is told of elsewhere; leases go on
                log.debug("engine_not_watched", reason=f"{type(error).__name__}: {error}")

    async def look(self) -> None:
        """Looks once; raises what the calls raise."""
        health, _ = await self._get("/health/ready", Health)
        self._say_health(health.hidden_trouble)
        history = self._ledger.history.attempts
        taken, self._taken = self._taken, history.written
        self._receipts.note(decoded(history.since(taken)))
        if not self._receipts.are_due(self._clock()):
            return
        page, engine_now_s = await self._get(f"/api/v1/workflows?status=running&limit={_ROWS}", _Rows)
        for workflow_id, one in self._receipts.unanswered(page.workflows, engine_now_s, self._clock()):
            workflow, _ = await self._get(f"/api/v1/workflows/{quote(workflow_id, safe='')}", _Workflow)
            if any(step.activity_key == one.key and step.status not in OVER for step in workflow.activities):
                self._say_stalled(workflow_id, one)

    async def _get(self, path: str, shape: type[_Shape]) -> tuple[_Shape, float]:
        """The document, and the engine's clock in seconds since 1970."""
        async with asyncio.timeout(_WITHIN_S):
            reply = await self._http.get(path)
        answer_to(Reply(reply.status_code, reply.headers, reply.content), f"GET {path}", None)
        date = reply.headers.get("date")
        engine_now_s = parsedate_to_datetime(date).timestamp() if date else time.time()
        return msgspec.json.decode(reply.content, type=shape), engine_now_s

    def _say_health(self, trouble: str | None) -> None:
        if (trouble is not None) is self._is_unhealthy:
            return
        self._is_unhealthy = trouble is not None
        if trouble is None:
            log.info("engine_healthy_again")
            return
        log.warning(
            "engine_unhealthy",
            reason=f"orchestrator: {trouble}",
            note="it says that it is ready but makes no step ready: restart the engine",
        )

    def _say_stalled(self, workflow_id: str, one: Receipt) -> None:
        log.warning(
            "workflow_stalled",
            workflow_id=workflow_id,
            activity_key=one.key,
            activity_id=one.activity_id,
            for_s=round(self._clock() - one.at),
            note="the engine has taken this result and passed it over: submit the workflow again; "
            "this one fails at its time-out",
        )
