"""The pool as a transport of httpx: hooks, auth, redirects and codings stay httpx's own business."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import httpx

from flowherd.client.pool.pool import IDLE_S, HttpPool
from flowherd.client.pool.wire import (
    ConnectError,
    Disconnected,
    MalformedReply,
    Origin,
    WireError,
    checked_method,
    checked_target,
    header_line,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from flowherd.client.pool.connection import HttpConnection


class PoolTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=…)`; `connections` bounds those to each origin.

    Args:
        tls: None: httpx's own rules.

    """

    def __init__(
        self, *, connections: int = 100, tls: ssl.SSLContext | None = None, idle_s: float = IDLE_S
    ) -> None:
        self._connections = connections
        self._tls = tls
        self._idle_s = idle_s
        self._pools: dict[tuple[str, str, int | None], HttpPool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx: the head of the reply, and a stream of its body."""
        waits = request.extensions.get("timeout", {})
        head = _head_of(request)
        pool = self._pool_for(request.url)
        connection = pool.take() or await self._connected(pool, waits)
        reply = connection.reply
        try:
            with _translating():
                connection.begin(is_streamed=True, is_bodiless=request.method == "HEAD")
                await _send(connection, head, request, waits.get("write"))
                async with _within(waits.get("read"), httpx.ReadTimeout):
                    await connection.reply_head()
        except BaseException:
            pool.release(connection)
            raise
        return httpx.Response(
            reply.status,
            headers=reply.headers,
            stream=_ReplyStream(pool, connection, waits.get("read")),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": reply.reason},
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    async def _connected(self, pool: HttpPool, waits: dict[str, float | None]) -> HttpConnection:
        with _translating():
            async with _within(waits.get("pool"), httpx.PoolTimeout):
                place = await pool.place()
            async with _within(waits.get("connect"), httpx.ConnectTimeout):
                return await pool.filled(place)

    def _pool_for(self, url: httpx.URL) -> HttpPool:
        key = (url.scheme, url.host, url.port)
        pool = self._pools.get(key)
        if pool is None:
            try:
                origin = Origin.of(f"{url.scheme}://{url.netloc.decode('ascii')}")
            except ValueError as error:
                raise httpx.UnsupportedProtocol(str(error)) from None
            if origin.is_secure and self._tls is None:
                self._tls = httpx.create_ssl_context()
            pool = HttpPool(origin, connections=self._connections, tls=self._tls, idle_s=self._idle_s)
            self._pools[key] = pool
        return pool


class _ReplyStream(httpx.AsyncByteStream):
    """The body as it comes; its end, or its closing, gives the connection back."""

    def __init__(self, pool: HttpPool, connection: HttpConnection, read_s: float | None) -> None:
        self._pool: HttpPool | None = pool
        self._connection = connection
        self._read_s = read_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._pool is not None:
            with _translating():
                async with _within(self._read_s, httpx.ReadTimeout):
                    chunks = await self._connection.next_chunks()
            if not chunks:
                return
            for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.release(self._connection)


def _head_of(request: httpx.Request) -> bytes:
    try:
        method, target = checked_method(request.method), checked_target(request.url.raw_path)
        lines = [header_line(name, value) for name, value in request.headers.raw]
    except ValueError as error:
        raise httpx.LocalProtocolError(str(error)) from None
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(lines))


async def _send(
    connection: HttpConnection, head: bytes, request: httpx.Request, write_s: float | None
) -> None:
    """A body of known length, or one in chunks."""
    in_chunks = "transfer-encoding" in request.headers
    async for part in request.stream:  # type: ignore[union-attr]  # an async client's streams are async
        data = b"%x\r\n%b\r\n" % (len(part), part) if in_chunks and part else part
        connection.write(head + data)
        head = b""
        async with _within(write_s, httpx.WriteTimeout):
            if not await connection.drained():
                return
    if head or in_chunks:
        connection.write(head + (b"0\r\n\r\n" if in_chunks else b""))


@contextlib.asynccontextmanager
async def _within(seconds: float | None, error: type[httpx.TimeoutException]) -> AsyncIterator[None]:
    """One of httpx's four time limits; None is none."""
    if seconds is None:
        yield
        return
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise error(f"not within {seconds:g} s") from None


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except ConnectError as error:
        raise httpx.ConnectError(str(error)) from error
    except MalformedReply as error:
        raise httpx.RemoteProtocolError(str(error)) from error
    except Disconnected as error:
        kind = httpx.RemoteProtocolError if error.__cause__ is None else httpx.ReadError
        raise kind(str(error)) from error
    except WireError as error:
        raise httpx.ReadError(str(error)) from error
