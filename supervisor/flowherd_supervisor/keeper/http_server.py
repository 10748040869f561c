"""The keeper's HTTP server: uvicorn in its own thread, so that it never delays a heartbeat, with limits for clients.

The keeper holds the host's leases, so clients must not exhaust it. h11, unlike the faster parser, limits headers and
reads no request before the previous one is answered. Descriptors are scarce and connections to the engine need them, so
at most MOST_TCP clients are connected. For one more, the oldest connection without a complete request is closed; if all
are being served, the new one is refused. A request must be complete within HEAD_WITHIN_S, and its reply must be read
within REPLY_WITHIN_S. The unix socket has separate places, so that `flowherd ctl` works even if the port is flooded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from flowherd.background import start_thread
from flowherd_supervisor.keeper.access_check import is_own_user

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowherd_supervisor.keeper.routes import Routes

AGAIN_AFTER_S = 1.0
MOST_HEADER_BYTES = 16 << 10
MOST_TCP, MOST_UNIX = 64, 16
HEAD_WITHIN_S = 5.0
REPLY_WITHIN_S = 20.0
_OF_DESCRIPTORS = 1 / 8  # share of this process's descriptors for TCP clients
_QUIET_S = 10.0  # time without a refusal after which the port counts as quiet
_ENDLESS = "/api/events"  # `MOST_WATCHERS` at most

log = structlog.stdlib.get_logger(__name__)


def most_tcp(soft_limit: int) -> int:
    """Returns the largest number of TCP clients for a process with this limit of descriptors."""
    return max(4, min(MOST_TCP, int(soft_limit * _OF_DESCRIPTORS)))


class Clients:
    """The current connections over TCP and unix socket; logs once when there are too many and once when that ends.

    Args:
        most: the most TCP connections; by default derived from this process's limit of descriptors.

    Attributes:
        most: the most TCP connections.

    """

    def __init__(self, most: int | None = None) -> None:
        if most is None:
            most = most_tcp(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.most = most
        self._most = {False: most, True: MOST_UNIX}
        self._inside: dict[bool, dict[Bounded, None]] = {False: {}, True: {}}
        self._turned_away = 0
        self._over: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<Clients [{len(self._inside[False])} over TCP, {len(self._inside[True])} over the unix socket]>"
        )

    def enter(self, connection: Bounded, *, is_unix: bool) -> bool:
        """Admits a connection, if need be in place of the oldest one without a request; False if there is no room."""
        inside = self._inside[is_unix]
        if len(inside) >= self._most[is_unix]:
            self._note_crowd()
            idle = next((one for one in inside if not one.is_served), None)
            if idle is None:
                return False
            idle.drop()
        inside[connection] = None
        return True

    def leave(self, connection: Bounded) -> None:
        """Removes a connection that has ended, or is about to."""
        for inside in self._inside.values():
            inside.pop(connection, None)

    def _note_crowd(self) -> None:
        self._turned_away += 1
        if self._over is None:
            log.warning("admin_port_crowded", note="clients without a whole request give way to newer ones")
        else:
            self._over.cancel()
        self._over = asyncio.get_running_loop().call_later(_QUIET_S, self._note_quiet)

    def _note_quiet(self) -> None:
        log.info("admin_port_quiet", turned_away=self._turned_away)
        self._turned_away, self._over = 0, None


class Bounded(H11Protocol):
    """A connection with limits.

    Attributes:
        clients: all clients.
        routes: the routes to serve.
        is_served: True from a complete request until its reply is sent.

    """

    clients: Clients
    routes: Routes
    is_served = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admits a client by its socket, which a request cannot fake."""
        sock: Any = transport.get_extra_info("socket")
        is_unix = sock.family == socket.AF_UNIX
        if is_unix and not is_own_user(sock):
            log.warning("stranger_refused", note="another user's process on the admin socket")
            transport.abort()
            return
        if not self.clients.enter(self, is_unix=is_unix):
            transport.abort()
            return
        super().connection_made(transport)
        if is_unix:
            self.app = self.routes.over_unix
        self._expect(HEAD_WITHIN_S)

    def data_received(self, data: bytes) -> None:
        """Reads more of a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Ends a request; the next one may already have arrived."""
        self.is_served = False
        self._expect(REPLY_WITHIN_S if self.flow.write_paused else None)  # so far it is only in our buffer
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self._look()

    def pause_writing(self) -> None:
        """Starts the deadline of a client that does not read, also of an event stream."""
        super().pause_writing()
        self._expect(REPLY_WITHIN_S)

    def resume_writing(self) -> None:
        """Ends the deadline of a client that reads again."""
        super().resume_writing()
        if self._is_endless or not self.is_served:
            self._expect(None)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            if self._deadline is None:
                self._expect(HEAD_WITHIN_S)  # another request has begun
        elif not self.is_served:
            self.is_served = True
            self._expect(None if self._is_endless else REPLY_WITHIN_S)

    @property
    def _is_endless(self) -> bool:
        return self.is_served and self.scope["path"] == _ENDLESS

    def connection_lost(self, exc: Exception | None) -> None:
        """Cleans up a connection, also a refused one."""
        self._expect(None)
        self.clients.leave(self)
        if self.transport is not None:  # else it was refused
            super().connection_lost(exc)

    def drop(self) -> None:
        """Aborts the connection."""
        self.clients.leave(self)
        self.transport.abort()

    def _expect(self, within_s: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if within_s is None else self.loop.call_later(within_s, self.drop)


def bounded(routes: Routes, clients: Clients) -> type[asyncio.Protocol]:
    """Returns the protocol class for `uvicorn.Config(http=…)`, which uvicorn instantiates."""
    return type("BoundedProtocol", (Bounded,), {"clients": clients, "routes": routes})


class HttpThread:
    """Serves routes on sockets that the supervisor has bound."""

    def __init__(self, routes: Routes, sockets: Sequence[socket.socket]) -> None:
        self._routes = routes
        self._sockets = list(sockets)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the thread; it ends with the process."""
        start_thread("pages", self._serve_for_ever)

    async def answered(self, within_s: float) -> None:
        """Waits until the orders that the supervisor has received are answered, at most `within_s` seconds.

        One step of the thread's loop sends an order and its reply, so the next step comes after both.
        """
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError, TimeoutError):  # the server has ended, or hangs
            async with asyncio.timeout(within_s):
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop))

    def _serve_for_ever(self) -> None:
        """Restarts the server whenever it ends; each run gets copies of the sockets, which it closes."""
        while True:
            self._serve()
            threading.Event().wait(AGAIN_AFTER_S)

    def _serve(self) -> None:
        logging.getLogger("uvicorn.error").setLevel(
            logging.ERROR
        )  # else it logs a line for each invalid request
        clients = Clients()
        config = uvicorn.Config(
            self._routes.over_tcp,
            http=bounded(self._routes, clients),
            backlog=clients.most,  # asyncio accepts this many before it reports the first
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
            asyncio.run(self._run(_Server(config)))
        except (Exception, SystemExit) as error:
            log.error("pages_ended", exc_info=error)

    async def _run(self, server: _Server) -> None:
        self._loop = asyncio.get_running_loop()
        await server.serve(sockets=[sock.dup() for sock in self._sockets])


class _Server(uvicorn.Server):
    """A server without signal handlers, which belong to the process, and without uvicorn's periodic tick."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await asyncio.Event().wait()  # its ten ticks a second cost an idle keeper more than the leases do
