"""The keeper's HTTP server, within bounds: uvicorn in a thread of its own, so that it never delays a heartbeat.

This process owns the host's leases, so what clients can take is bounded. h11, unlike the faster parser, bounds headers
and reads no request before the last one is answered. A process may open few descriptors, and the engine's connections
need theirs: more than MOST_TCP clients are never served at once. When one more comes, the one that has kept its place
longest without a whole request gives way; when all are being served, the newcomer is refused. A request must be whole
within HEAD_WITHIN_S, and its reply be taken within REPLY_WITHIN_S. The unix socket has places of its own, so that
`flowherd ctl` gets through whatever the port suffers.
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
_OF_DESCRIPTORS = 1 / 8  # what the TCP clients may take of all that this process may open
_QUIET_S = 10.0  # without a refusal: the crowd is over
_ENDLESS = "/api/events"  # `MOST_WATCHERS` at most

log = structlog.stdlib.get_logger(__name__)


def most_tcp(soft_limit: int) -> int:
    """TCP clients at most, in a process that may open so many descriptors."""
    return max(4, min(MOST_TCP, int(soft_limit * _OF_DESCRIPTORS)))


class Crowd:
    """The present connections, by the way they have come; says once that there are too many, and once that it is over.

    Args:
        most: TCP connections at most; by default what this process's limit of descriptors has room for.

    Attributes:
        most: the same.

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
            f"<Crowd [{len(self._inside[False])} over TCP, {len(self._inside[True])} over the unix socket]>"
        )

    def enter(self, connection: Bounded, *, is_unix: bool) -> bool:
        """Gives a new connection a place, that of the longest idle one if there is no other; False: there is none."""
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
        """A connection has ended, or is about to."""
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
    """A connection within its bounds.

    Attributes:
        crowd: all of them.
        routes: what is served.
        is_served: a whole request has come, and its reply has not gone.

    """

    crowd: Crowd
    routes: Routes
    is_served = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The socket itself tells which way a client has come: nothing in its request can pretend."""
        sock: Any = transport.get_extra_info("socket")
        is_unix = sock.family == socket.AF_UNIX
        if is_unix and not is_own_user(sock):
            log.warning("stranger_refused", note="another user's process on the admin socket")
            transport.abort()
            return
        if not self.crowd.enter(self, is_unix=is_unix):
            transport.abort()
            return
        super().connection_made(transport)
        if is_unix:
            self.app = self.routes.over_unix
        self._expect(HEAD_WITHIN_S)

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """A reply has gone; the next request may have come already."""
        self.is_served = False
        self._expect(
            REPLY_WITHIN_S if self.flow.write_paused else None
        )  # it has gone as far as our own buffer
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self._look()

    def pause_writing(self) -> None:
        """The client does not read: also one that is sent events for ever has to."""
        super().pause_writing()
        self._expect(REPLY_WITHIN_S)

    def resume_writing(self) -> None:
        """Resumes writing: the client reads again."""
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
        """The end, also of what was refused."""
        self._expect(None)
        self.crowd.leave(self)
        if self.transport is not None:  # else it was refused
            super().connection_lost(exc)

    def drop(self) -> None:
        """Ends it without a word."""
        self.crowd.leave(self)
        self.transport.abort()

    def _expect(self, within_s: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if within_s is None else self.loop.call_later(within_s, self.drop)


def bounded(routes: Routes, crowd: Crowd) -> type[asyncio.Protocol]:
    """The protocol for `uvicorn.Config(http=…)`, whose instances uvicorn makes by itself."""
    return type("BoundedProtocol", (Bounded,), {"crowd": crowd, "routes": routes})


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
