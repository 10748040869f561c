"""The pool as a transport of httpx: hooks, auth, redirects and codings stay httpx's own business."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx

from flowherd.transport.connection_pool import IDLE_S, HttpPool
from flowherd.transport.wire import (
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
    from collections.abc import AsyncIterator
    from types import TracebackType

    from flowherd.transport.connection import HttpConnection


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
        head, in_chunks = _head_of(request)
        pool = self._pool_for(request.url)
        connection = pool.take() or await self._connected(pool, waits)
        reply = connection.reply
        try:
            with _TRANSLATING:
                connection.begin(is_streamed=True, is_bodiless=request.method == "HEAD")
                await _send(connection, head, request, waits.get("write"), in_chunks=in_chunks)
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
        with _TRANSLATING:
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
            with _TRANSLATING:
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


def _head_of(request: httpx.Request) -> tuple[bytes, bool]:
    """The head as it is sent, and whether the body goes in chunks."""
    in_chunks = False
    try:
        method, target = checked_method(request.method), checked_target(request.url.raw_path)
        lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
        for name, value in request.headers.raw:
            lines.append(header_line(name, value))
            in_chunks = in_chunks or name.lower() == b"transfer-encoding"
    except ValueError as error:
        raise httpx.LocalProtocolError(str(error)) from None
    lines.append(b"\r\n")
    return b"".join(lines), in_chunks


async def _send(
    connection: HttpConnection, head: bytes, request: httpx.Request, write_s: float | None, *, in_chunks: bool
) -> None:
    """Until all is sent, or a reply or an error has made the rest pointless."""
    async for part in request.stream:  # type: ignore[union-attr]  # an async client's streams are async
        connection.write(head + (b"%x\r\n%b\r\n" % (len(part), part) if in_chunks and part else part))
        head = b""
        if connection.is_blocked:
            async with _within(write_s, httpx.WriteTimeout):
                if not await connection.drained():
                    return
    if head or in_chunks:
        connection.write(head + (b"0\r\n\r\n" if in_chunks else b""))


class _Unlimited:
    """No time limit."""

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        return


class _Limit:
    """One of httpx's four time limits."""

    def __init__(self, seconds: float, error: type[httpx.TimeoutException]) -> None:
        self._seconds = seconds
        self._error = error
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._error(f"not within {self._seconds:g} s") from None


_UNLIMITED = _Unlimited()


def _within(seconds: float | None, error: type[httpx.TimeoutException]) -> _Limit | _Unlimited:
    return _UNLIMITED if seconds is None else _Limit(seconds, error)


class _Translating:
    """Our errors become httpx's; a class, since every call passes here several times."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        match error:
            case ConnectError():
                raise httpx.ConnectError(str(error)) from error
            case MalformedReply():
                raise httpx.RemoteProtocolError(str(error)) from error
            case Disconnected():
                kind = httpx.RemoteProtocolError if error.__cause__ is None else httpx.ReadError
                raise kind(str(error)) from error
            case WireError():
                raise httpx.ReadError(str(error)) from error


_TRANSLATING = _Translating()
