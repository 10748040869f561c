"""Scripted faults for tests: a status, a delay or a cut connection, by route."""

from __future__ import annotations

import asyncio
import random
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from flowherd_engine.replies import json_reply

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ROUTES = (
    ("poll", "POST", r"/api/v1/workers/poll"),
    ("heartbeat", "POST", r"/api/v1/activities/[^/]+/heartbeat"),
    ("complete", "POST", r"/api/v1/activities/[^/]+/complete"),
    ("fail", "POST", r"/api/v1/activities/[^/]+/fail"),
    ("token", "POST", r"/api/v1/oauth/token"),
    ("upload", "POST", r"/api/v1/workflows/.+/files/[^/]+"),
    ("download", "GET", r"/api/v1/workflows/.+/files/[^/]+"),
    ("deploy", "POST", r"/api/v1/workflow_definitions"),
    ("submit", "POST", r"/api/v1/workflows"),
    ("status", "GET", r"/api/v1/workflows/[^/]+"),
    ("health", "GET", r"/health(?:/ready)?"),
)
_PATTERNS = tuple((name, method, re.compile(pattern)) for name, method, pattern in _ROUTES)


class Fault(msgspec.Struct, kw_only=True):
    """A fault of the script.

    `route` is a name of `_ROUTES` or `*`; `times` is the number of calls it hits (null: all), `probability` and `seed`
    make it random. After `delay_s` seconds, `status` replies without the engine, or `reset` cuts the connection:
    `before` the engine sees the call, `after` it has committed, or `amid` the reply.
    """

    route: str
    times: Annotated[int, msgspec.Meta(ge=1)] | None = 1
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0
    delay_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    body: Any = msgspec.field(
        default_factory=lambda: {"error": {"code": "SCRIPTED", "message": "a test's fault"}}
    )
    headers: dict[str, str] = {}
    reset: Literal["before", "after", "amid"] | None = None
    hits: int = 0


class Script:
    """The scripted faults, in the order in which they were added."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._chances: dict[int, random.Random] = {}
        self._handled = asyncio.Event()

    def add(self, faults: list[Fault]) -> None:
        """Appends faults to the script."""
        for fault in faults:
            self._chances[id(fault)] = random.Random(fault.seed)
            self.faults.append(fault)

    def clear(self) -> None:
        """Removes all faults."""
        self.faults.clear()
        self._chances.clear()

    def strike(self, route: str) -> Fault | None:
        """Returns the fault that hits this call, if any, and counts the hit."""
        for fault in self.faults:
            if fault.route not in {route, "*"} or fault.times == fault.hits:
                continue
            if self._chances[id(fault)].random() < fault.probability:
                fault.hits += 1
                return fault
        return None

    def handled(self) -> None:
        """Wakes the callers of `happening`."""
        self._handled.set()
        self._handled = asyncio.Event()

    async def happening(self, timeout_s: float) -> None:
        """Waits until the engine has handled another call, at most `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._handled.wait(), timeout_s)
        except TimeoutError:
            return


class FaultLayer:
    """The outermost ASGI middleware, so that it can reach the server's connection."""

    def __init__(self, app: ASGIApp, script: Script) -> None:
        self._app = app
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = None
        if scope["type"] == "http" and self._script.faults:
            fault = self._script.strike(_route(scope["method"], scope["path"]))
        try:
            if fault is None:
                await self._app(scope, receive, send)
            else:
                await self._suffer(fault, scope, receive, send)
        finally:
            self._script.handled()

    async def _suffer(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        match fault:
            case Fault(status=int() as status):
                reply = json_reply(fault.body, status)
                reply.headers.update(fault.headers)
                await reply(scope, receive, send)
            case Fault(reset="before"):
                await _cut(receive, send)
            case Fault(reset="after"):
                await self._app(scope, receive, _swallow)
                await _cut(receive, send)
            case Fault(reset="amid"):
                await self._app(scope, receive, _Halving(send))
                await _cut(receive, send)
            case _:
                await self._app(scope, receive, send)


class _Halving:
    """Passes on the head and the first half of each part of the body."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            body: bytes = message.get("body", b"")
            message = {**message, "body": body[: len(body) // 2], "more_body": True}
        await self._send(message)


async def _swallow(_message: Message) -> None:
    return


async def _cut(receive: Receive, send: Send) -> None:
    """Aborts the connection, which an ASGI layer reaches through uvicorn's cycle object."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("a test's fault")
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _route(method: str, path: str) -> str:
    for name, wanted, pattern in _PATTERNS:
        if method == wanted and pattern.fullmatch(path):
            return name
    return "test" if path.startswith("/__test__/") else "other"
