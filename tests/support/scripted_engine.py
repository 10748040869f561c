"""An HTTP server that plays a script of replies, delays, resets and invalid data, byte by byte.

It listens on an ephemeral loopback port and implements just enough HTTP/1.1. Each route (the end of its path) has
a list of replies that are played in order; after the list the one given with `always` is played, else the engine's
usual good reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GOOD = {
    "poll": {"activities": [], "count": 0},
    "heartbeat": {"acknowledged": True, "next_heartbeat_seconds": 30},
    "complete": {"acknowledged": True},
    "fail": {"acknowledged": True, "will_retry": True},
    "token": {"access_token": "token-1", "token_type": "Bearer", "expires_in": 86400},
}


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def route(self) -> str:
        """The end of its path: poll, heartbeat, complete, fail or token."""
        return self.path.rpartition("/")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Play:
    """One reply.

    Attributes:
        status: status of the reply.
        body: bytes are sent unchanged, anything else as JSON.
        headers: headers besides content-type and content-length.
        hold: the reply begins when this event is set.
        trickle_s: seconds between its bytes.
        reset_after: number of bytes of the reply after which the connection is reset; 0 = before the first.
        close_after: number of bytes after which the connection is closed properly.
        raw: the whole reply instead of status, headers and body.
        close: close the connection afterwards without announcing it.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    trickle_s: float = 0.0
    reset_after: int | None = None
    close_after: int | None = None
    raw: bytes | None = None
    close: bool = False

    def encoded(self, route: str) -> bytes:
        if self.raw is not None:
            return self.raw
        content = GOOD.get(route, {}) if self.body is None else self.body
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "text/plain" if isinstance(content, bytes) else "application/json"
        lines = {"content-type": kind, "content-length": str(len(data)), **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {self.status} x\r\n{head}\r\n".encode() + data


def envelope(status: int, code: str, message: str, **headers: str) -> Play:
    """Builds an error in the engine's form (protocol.md §1.4)."""
    return Play(status, {"error": {"code": code, "message": message}}, headers)


class ScriptedEngine:
    """The server; use `scripted_engine`.

    Attributes:
        requests: all requests so far, in order, regardless of their replies.
        settings: settings for the clients that are created for it.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self.settings: dict[str, Any] = {}
        self._scripts: defaultdict[str, deque[Play]] = defaultdict(deque)
        self._always: dict[str, Play] = {}
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    def script(self, route: str, *plays: Play) -> None:
        """Appends replies for the next requests of a route."""
        self._scripts[route].extend(plays)

    def always(self, route: str, play: Play) -> None:
        """Sets the reply for requests of a route after the script."""
        self._always[route] = play

    def of(self, route: str) -> list[Request]:
        """Returns the requests of one route."""
        return [request for request in self.requests if request.route == route]

    async def asked(self, route: str, times: int = 1) -> None:
        """Waits until a route has had `count` requests."""
        async with asyncio.timeout(10.0):
            while len(self.of(route)) < times:
                self._changed.clear()
                await self._changed.wait()

    async def close_idle(self) -> None:
        """Closes every connection, as a restarted engine does with those kept alive (faults.md E4)."""
        for writer in list(self._open):
            writer.close()
            with contextlib.suppress(ConnectionError):  # the client closed it first
                await writer.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        self.connections += 1
        number = self.connections
        self._open.add(writer)
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError
            ):  # the client may disconnect at any time
                while (request := await _read(reader, number)) is not None:
                    self.requests.append(request)
                    self._changed.set()
                    script = self._scripts[request.route]
                    play = script.popleft() if script else self._always.get(request.route, Play())
                    if not await _reply(writer, play, request.route):
                        break
        finally:
            self._open.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body, connection)


async def _reply(writer: asyncio.StreamWriter, play: Play, route: str) -> bool:
    """Plays one reply; False when the connection ends with it."""
    if play.hold is not None:
        await play.hold.wait()
    data = play.encoded(route)
    if play.reset_after is not None:
        await _send(writer, data[: play.reset_after], play.trickle_s)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False
    if play.close_after is not None:
        await _send(writer, data[: play.close_after], play.trickle_s)
        return False
    await _send(writer, data, play.trickle_s)
    return not play.close


async def _send(writer: asyncio.StreamWriter, data: bytes, trickle_s: float) -> None:
    if not trickle_s:
        writer.write(data)
        await writer.drain()
        return
    for number in range(len(data)):
        writer.write(data[number : number + 1])
        await writer.drain()
        await asyncio.sleep(trickle_s)


@contextlib.asynccontextmanager
async def scripted_engine() -> AsyncIterator[ScriptedEngine]:
    """A scripted engine on an ephemeral port, closed at the end with all its connections."""
    engine = ScriptedEngine()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    engine.url = f"http://{host}:{port}"
    try:
        yield engine
    finally:
        server.close()
        await engine.close_idle()
