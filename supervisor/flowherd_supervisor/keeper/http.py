"""The keeper's HTTP server: uvicorn in a thread of its own, so that it never delays a beat.

What clients can take is bounded, since this process owns the host's leases: `connections.py` bounds their number and
their time, and h11, unlike the faster parser, bounds headers and reads no request before the last one is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import structlog
import uvicorn

from flowherd.worker.tasks import start_thread
from flowherd_supervisor.keeper.connections import Crowd, bounded

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from flowherd_supervisor.keeper.routes import Routes

AGAIN_AFTER_S = 1.0
MOST_HEADER_BYTES = 16 << 10

log = structlog.stdlib.get_logger(__name__)


class HttpThread:
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
        logging.getLogger("uvicorn.error").setLevel(
            logging.ERROR
        )  # else a line for each request that is none
        crowd = Crowd()
        config = uvicorn.Config(
            self._routes.over_tcp,
            http=bounded(self._routes, crowd),
            backlog=crowd.most,  # asyncio accepts so many before it tells of the first
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
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


class _Server(uvicorn.Server):
    """Signals belong to the supervisor's link, not to a web server in a thread, and nobody stops it: no tick."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await asyncio.Event().wait()  # its ten ticks a second cost an idle keeper more than the leases do
