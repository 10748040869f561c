"""`/__test__/…`: a movable clock, scripted faults and the journal, for tests; only with `test_hooks`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from . import bodies
from .faults import Fault
from .replies import TextError, json_reply

if TYPE_CHECKING:
    import sqlite3

    from starlette.requests import Request
    from starlette.responses import Response

    from .engine import Engine
    from .faults import Script

__all__ = ["HooksApi"]

MAX_WAIT_S = 30.0


class _Advance(msgspec.Struct):
    advance_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    sweep: bool = True


_ADVANCE = msgspec.json.Decoder(_Advance)
_FAULTS = msgspec.json.Decoder(list[Fault] | Fault)


class HooksApi:
    """Steers an engine under test."""

    def __init__(self, engine: Engine, script: Script) -> None:
        self._engine = engine
        self._script = script

    async def clock(self, request: Request) -> Response:
        """POST lets time pass and, unless `sweep` is false, sweeps; both methods answer `{"now_s"}`."""
        if request.method == "POST":
            wanted, _ = await bodies.read_json(request, _ADVANCE)
            self._engine.clock.advance(wanted.advance_s)
            if wanted.sweep:
                await self._engine.sweep()
        return json_reply({"now_s": self._engine.clock.now_s()})

    async def faults(self, request: Request) -> Response:
        """POST one fault or a list of them; GET shows them with their hits; DELETE forgets them."""
        match request.method:
            case "POST":
                wanted, _ = await bodies.read_json(request, _FAULTS)
                self._script.add(wanted if isinstance(wanted, list) else [wanted])
            case "DELETE":
                self._script.clear()
            case _:
                pass
        return json_reply({"faults": self._script.faults})

    async def ledger(self, request: Request) -> Response:
        """The journal after entry `after`, of one `activity_id` or all; waits `wait_s` for the first."""
        query = request.query_params
        try:
            after, wait_s = int(query.get("after", "0")), float(query.get("wait_s", "0"))
        except ValueError as error:
            raise TextError(400, f"Failed to deserialize query string: {error}") from error
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + min(wait_s, MAX_WAIT_S)
        while True:
            entries = await self._engine.database.transact(
                self._engine.journal.read, after, query.get("activity_id")
            )
            left_s = deadline_s - loop.time()
            if entries or not left_s > 0:
                return json_reply({"entries": entries})
            await self._script.happening(left_s)

    async def activities(self, request: Request) -> Response:
        """The queue rows as they are, of one `workflow_id` or all: what the public API does not show."""
        rows = await self._engine.database.transact(_rows, request.query_params.get("workflow_id"))
        return json_reply({"activities": rows})


def _rows(connection: sqlite3.Connection, workflow_id: str | None) -> list[dict[str, Any]]:
    names = ("workflow_id", "key", "activity_id", "status", "claimed_by", "retry_count", "lease_ends_s")
    rows = connection.execute(
        "SELECT w.id, a.key, a.id, a.status, a.claimed_by, a.retry_count, a.lease_ends_s"
        " FROM activities a JOIN workflows w ON w.seq = a.workflow_seq"
        " WHERE (:id IS NULL OR w.id = :id) ORDER BY a.seq",
        {"id": workflow_id},
    )
    return [dict(zip(names, row, strict=True)) for row in rows]
