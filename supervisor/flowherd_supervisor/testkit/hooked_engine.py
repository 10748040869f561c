"""The embedded engine with hooks for tests: `python -m flowherd_supervisor.testkit.hooked_engine`.

`/__test__/clock` advances its clock, `/__test__/faults` scripts faults, `/__test__/ledger` returns the journal of all
claims and verdicts, and `/__test__/activities` returns the raw rows of the queue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec
from starlette.requests import Request

from flowherd_engine import request_bodies
from flowherd_engine.app import build_app, reply_to
from flowherd_engine.clock import Clock
from flowherd_engine.engine import Engine
from flowherd_engine.replies import TextError, json_reply, not_found
from flowherd_engine.serve import serve
from flowherd_engine.settings import EngineSettings
from flowherd_supervisor.testkit.claim_journal import TABLE, JournaledQueue, entries
from flowherd_supervisor.testkit.scripted_faults import Fault, FaultLayer, Script

if TYPE_CHECKING:
    import sqlite3

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/__test__/"
MAX_WAIT_S = 30.0


class MovableClock(Clock):
    """The wall clock plus the seconds that tests have added."""

    def __init__(self) -> None:
        self._added_s = 0.0

    def now_s(self) -> float:
        """Returns the engine's current time in seconds since 1970."""
        return super().now_s() + self._added_s

    def advance(self, by_s: float) -> None:
        """Advances the clock by `by_s` seconds; leases, backoffs and timeouts all follow it."""
        self._added_s += by_s


class HookedEngine(Engine):
    """An engine with a clock that tests can advance and a journal of its verdicts."""

    clock: MovableClock
    clock_type = MovableClock
    queue_type = JournaledQueue

    @classmethod
    async def open(cls, settings: EngineSettings) -> Self:
        """Opens the engine as `Engine.open` does, with a table for the journal."""
        engine = await super().open(settings)
        await engine.database.execute(TABLE)
        return engine


class _Advance(msgspec.Struct):
    advance_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    sweep: bool = True


_ADVANCE = msgspec.json.Decoder(_Advance)
_FAULTS = msgspec.json.Decoder(list[Fault] | Fault)


class Hooks:
    """ASGI middleware that answers `/__test__/…` and passes other requests on."""

    def __init__(self, app: ASGIApp, engine: HookedEngine, script: Script) -> None:
        self._app = app
        self._engine = engine
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        try:
            response = await self._answer(Request(scope, receive, send))
        except Exception as error:  # noqa: BLE001 - the outermost place: every error becomes a reply
            response = reply_to(error)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        match request.method, request.url.path.removeprefix(PREFIX):
            case "GET" | "POST", "clock":
                return await self._clock(request)
            case "GET" | "POST" | "DELETE", "faults":
                return await self._faults(request)
            case "GET", "ledger":
                return await self._ledger(request)
            case "GET", "activities":
                workflow_id = request.query_params.get("workflow_id")
                return json_reply({"activities": await self._engine.database.transact(_rows, workflow_id)})
            case _:
                raise not_found("The requested resource was not found")

    async def _clock(self, request: Request) -> Response:
        """POST advances the clock and, unless `sweep` is false, sweeps; both methods return `{"now_s"}`."""
        if request.method == "POST":
            wanted, _ = await request_bodies.read_json(request, _ADVANCE)
            self._engine.clock.advance(wanted.advance_s)
            if wanted.sweep:
                await self._engine.sweep()
        return json_reply({"now_s": self._engine.clock.now_s()})

    async def _faults(self, request: Request) -> Response:
        """POST adds one fault or a list; GET returns all with their hits; DELETE removes them."""
        if request.method == "POST":
            wanted, _ = await request_bodies.read_json(request, _FAULTS)
            self._script.add(wanted if isinstance(wanted, list) else [wanted])
        elif request.method == "DELETE":
            self._script.clear()
        return json_reply({"faults": self._script.faults})

    async def _ledger(self, request: Request) -> Response:
        """Returns the entries after `after`, of one `activity_id` or all; waits up to `wait_s` for the first."""
        query = request.query_params
        try:
            after, wait_s = int(query.get("after", "0")), float(query.get("wait_s", "0"))
        except ValueError as error:
            raise TextError(400, f"Failed to deserialize query string: {error}") from error
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + min(wait_s, MAX_WAIT_S)
        while True:
            found = await self._engine.database.transact(entries, after, query.get("activity_id"))
            left_s = deadline_s - loop.time()
            if found or not left_s > 0:
                return json_reply({"entries": found})
            await self._script.happening(left_s)


def _rows(connection: sqlite3.Connection, workflow_id: str | None) -> list[dict[str, Any]]:
    """Reads the columns that the public API does not return."""
    names = ("workflow_id", "key", "activity_id", "status", "claimed_by", "retry_count", "lease_ends_s")
    rows = connection.execute(
        "SELECT w.id, a.key, a.id, a.status, a.claimed_by, a.retry_count, a.lease_ends_s"
        " FROM activities a JOIN workflows w ON w.seq = a.workflow_seq"
        " WHERE (:id IS NULL OR w.id = :id) ORDER BY a.seq",
        {"id": workflow_id},
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def hooked_app(engine: HookedEngine) -> ASGIApp:
    """Returns the ASGI application of `engine` with its hooks."""
    script = Script()
    return FaultLayer(Hooks(build_app(engine), engine, script), script)


async def opened(settings: EngineSettings) -> tuple[HookedEngine, ASGIApp]:
    """Opens a hooked engine and returns it with its application, for `serve`."""
    engine = await HookedEngine.open(settings)
    return engine, hooked_app(engine)


if __name__ == "__main__":
    flags = EngineSettings.from_flags("python -m flowherd_supervisor.testkit.hooked_engine")
    raise SystemExit(serve(flags, opened))
