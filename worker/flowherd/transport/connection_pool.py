"""A bounded pool of connections to one origin; the last used is taken first, and waiters are served in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING

from flowherd.transport.connection import HttpConnection
from flowherd.transport.dialing import dial
from flowherd.transport.reply_parser import Heads
from flowherd.transport.stall_detection import LEAST_BYTES_PER_S, Progress
from flowherd.transport.wire_format import ConnectError

if TYPE_CHECKING:
    import ssl

    from flowherd.transport.wire_format import Origin

IDLE_S = 60.0
_CLOSE_S = 1.0
_TIMER_S = 0.001  # a timer may fire this much too early


class HttpPool:
    """A pool of at most `connections` connections; each is idle, held by one caller, or being opened for one.

    One more is reserved for calls with `is_first`: polls, which must not wait behind results (faults.md N8).

    Args:
        tls: for an https origin; the certificate is checked against the host name.
        idle_s: seconds after which an unused connection is closed.
        bytes_per_s: the lowest rate at which an exchange is expected to move bytes.

    """

    def __init__(
        self,
        origin: Origin,
        *,
        connections: int,
        tls: ssl.SSLContext | None = None,
        idle_s: float = IDLE_S,
        bytes_per_s: float = LEAST_BYTES_PER_S,
    ) -> None:
        self._origin = origin
        self._tls = tls
        self._most = connections
        self._idle_s = idle_s
        self._bytes_per_s = bytes_per_s
        self._idle: deque[HttpConnection] = deque()  # oldest first
        self._waiters: deque[asyncio.Future[HttpConnection | None]] = deque()
        self._held = 0  # held, being opened, or promised to a waiter
        self._alive: set[HttpConnection] = set()
        self._heads = Heads()
        self._expiry: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watch_at = math.inf
        self._is_closed = False
        self._ended = asyncio.Event()

    def take(self, *, is_first: bool = False) -> HttpConnection | None:
        """Returns an idle connection, or None when there is none for this caller."""
        if self._held >= self._most and not is_first:
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet:
                self._held += 1
                return connection
            connection.abort()
        return None

    async def acquire(self, *, is_first: bool = False) -> HttpConnection:
        """Returns a connection for this caller alone, to be returned with `release`; waits for one if necessary.

        Raises:
            ConnectError: no connection can be opened.

        """
        connection = self.take(is_first=is_first)
        if connection is not None:
            return connection
        if self._held < self._most + is_first:
            self._held += 1
            return await self._new()
        connection = await self._turn()
        if connection is not None:
            if connection.is_quiet:
                return connection
            connection.abort()
        return await self._new()

    def release(self, connection: HttpConnection) -> None:
        """Returns a connection to the pool, or closes it when its exchange did not end cleanly."""
        if not self._is_closed and connection.rest():
            self._pass_on(connection)
            return
        connection.abort()
        if connection.is_stale:  # the engine was restarted: its other idle connections are gone too
            self._drop_idle()
        self._pass_on(None)

    def expect(self, connection: HttpConnection, began_at: float, deadline_s: float, size: int) -> None:
        """Watches the exchange that begins on a held connection, and fails it when it is overdue.

        One timer watches all exchanges, because nearly all end long before they are due for a check.
        """
        progress = connection.progress
        progress.begin(began_at, deadline_s, size)
        if progress.look_at < self._watch_at:
            self._watch_until(progress.look_at)

    def _watch_until(self, look_at: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch, self._watch_at = None, look_at
        if look_at < math.inf and not self._is_closed:
            self._watch = asyncio.get_running_loop().call_at(look_at, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time() + _TIMER_S
        for connection in list(self._alive):
            if connection.progress.look_at <= now:
                connection.look(now)
        self._watch_until(min((one.progress.look_at for one in self._alive), default=math.inf))

    def _pass_on(self, connection: HttpConnection | None) -> None:
        """Gives the first waiter the connection, or with None the right to open one; else makes it idle."""
        while self._waiters and self._held <= self._most:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._held -= 1
        if connection is not None:
            self._idle.append(connection)
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(self._idle_s, self._expire)

    async def _turn(self) -> HttpConnection | None:
        waiter: asyncio.Future[HttpConnection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on(waiter.result())  # cancelled after the connection was given to us
            raise

    async def _new(self) -> HttpConnection:
        """Opens a connection that `_held` already counts, and uncounts it on failure."""
        connection = None
        try:
            if self._is_closed:
                raise ConnectError("the pool is closed")
            connection = await self._connected()
            self._alive.add(connection)
        except (OSError, UnicodeError) as error:  # OSError: ssl.SSLError too; UnicodeError: an invalid name
            raise ConnectError(f"{self._origin}: {error or type(error).__name__}") from error
        finally:
            if connection is None:
                self._pass_on(None)
        if self._is_closed:
            self.release(connection)
            raise ConnectError("the pool is closed")
        return connection

    async def _connected(self) -> HttpConnection:
        origin = self._origin
        sock = await dial(origin.host, origin.port)
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: HttpConnection(self._forget, self._heads, Progress(self._bytes_per_s)),
                sock=sock,
                ssl=self._tls if origin.is_secure else None,
                server_hostname=origin.host if origin.is_secure else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def _forget(self, connection: HttpConnection) -> None:
        self._alive.discard(connection)
        with contextlib.suppress(ValueError):  # it was not idle
            self._idle.remove(connection)
        if not self._alive:
            self._ended.set()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    def _expire(self) -> None:
        self._expiry = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + self._idle_s <= loop.time():
            self._idle.popleft().abort()
        if self._idle:
            self._expiry = loop.call_at(self._idle[0].idle_since + self._idle_s, self._expire)

    async def aclose(self) -> None:
        """Closes all connections, also those in use, and waits for their end."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        self._watch_until(math.inf)
        self._drop_idle()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ConnectError("the pool is closed"))
        self._waiters.clear()
        self._ended.clear()
        for connection in list(self._alive):
            connection.abort()
        if self._alive:
            with contextlib.suppress(TimeoutError):  # a TLS peer may not answer; the sockets are closed
                async with asyncio.timeout(_CLOSE_S):
                    await self._ended.wait()
