"""The keeper's HTTP server: uvicorn in a thread of its own, so that it never delays a beat; it knows no routes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flowherd.working.tasks import start_thread
from flowherd_supervisor.keeper.guard import is_own_user

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowherd_supervisor.keeper.routes import Routes

AGAIN_AFTER_S = 1.0

log = structlog.stdlib.get_logger(__name__)


class PagesThread:
    """Serves routes on sockets that the supervisor has bound."""

    def __init__(self, routes: Routes, sockets: Sequence[socket.socket]) -> None:
        self._routes = routes
        self._sockets = list(sockets)

    def start(self) -> None:
        """Starts the thread; it ends with the process."""
        start_thread("pages", self._serve_for_ever)

    def _serve_for_ever(self) -> None:
        """Whatever ends the server, another one follows: it has copies of the sockets, and closes those."""
        while True:
            self._serve()
            threading.Event().wait(AGAIN_AFTER_S)

    def _serve(self) -> None:
        config = uvicorn.Config(
            self._routes.over_tcp,
            http=_told_apart(self._routes),
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            ws="none",
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        try:
            asyncio.run(_Server(config).serve(sockets=[sock.dup() for sock in self._sockets]))
        except (Exception, SystemExit) as error:
            log.error("pages_ended", exc_info=error)


def _told_apart(routes: Routes) -> type[asyncio.Protocol]:
    """A protocol that knows from the socket itself over which way a request has come: nothing in it can pretend."""

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            sock: Any = transport.get_extra_info("socket")
            if sock.family == socket.AF_UNIX:
                if not is_own_user(sock):
                    log.warning("stranger_refused", note="another user's process on the admin socket")
                    transport.abort()
                    return
                self.app = routes.over_unix
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.transport is not None:  # else it was refused
                super().connection_lost(exc)

    return Protocol


class _Server(uvicorn.Server):
    """Signals belong to the supervisor's link, not to a web server in a thread, and nobody stops it: no tick."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await asyncio.Event().wait()  # its ten ticks a second cost an idle keeper more than the leases do
