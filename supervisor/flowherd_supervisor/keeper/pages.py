"""The keeper's HTTP: one plain ASGI function on uvicorn, in a thread of its own so that it never delays a beat."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvicorn

from flowherd_supervisor.keeper.metrics import CONTENT_TYPE, HostMetrics

if TYPE_CHECKING:
    import socket

    from flowherd.ledger import Ledger
    from flowherd_supervisor.keeper.status import StatusBoard

Send = Callable[[dict[str, Any]], Awaitable[None]]

log = structlog.stdlib.get_logger(__name__)


class PagesThread:
    """Serves the pages on sockets that the supervisor has bound."""

    def __init__(self, ledger: Ledger, board: StatusBoard, sockets: Sequence[socket.socket]) -> None:
        self._board = board
        self._metrics = HostMetrics(ledger, board)
        self._sockets = list(sockets)

    def start(self) -> None:
        """Starts the thread; it ends with the process."""
        threading.Thread(target=self._serve, name="pages", daemon=True).start()

    def _serve(self) -> None:
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            ws="none",
            server_header=False,
            proxy_headers=False,
        )
        try:
            asyncio.run(_Server(config).serve(sockets=self._sockets))
        except Exception as error:
            log.error("pages_ended", exc_info=error)

    async def _app(self, scope: dict[str, Any], _receive: object, send: Send) -> None:
        route = (scope["method"], scope["path"])
        match route:
            case ("GET", "/api/status"):
                await _reply(send, 200, msgspec.json.encode(self._board.document()))
            case ("GET", "/livez"):
                await _reply(send, 200, b'{"status":"ok"}')
            case ("GET", "/readyz"):
                ready = self._board.is_ready()
                await _reply(send, 200 if ready else 503, b'{"ready":%b}' % (b"true" if ready else b"false"))
            case ("GET", "/metrics"):
                await _reply(send, 200, self._metrics.page(), CONTENT_TYPE)
            case (_, "/api/status" | "/livez" | "/readyz" | "/metrics"):
                await _reply(send, 405, b'{"error":"GET only"}')
            case _:
                await _reply(send, 404, b'{"error":"no such page"}')


class _Server(uvicorn.Server):
    """Signals belong to the supervisor's link, not to a web server in a thread."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _reply(send: Send, status: int, body: bytes, content_type: str = "application/json") -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
