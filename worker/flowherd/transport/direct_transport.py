"""`Transport` on flowherd's own connection pool, with a bearer token and one replay after a 401."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, NamedTuple

from flowherd.errors import EngineDisconnected, EngineMisconfigured, EngineUnavailable, ReplyTooLarge
from flowherd.transport.connection_pool import HttpPool
from flowherd.transport.reply_parser import Headers
from flowherd.transport.stall_detection import LEAST_BYTES_PER_S, late
from flowherd.transport.transport import MAX_REPLY_BYTES, Reply, tls_context, unasked_encoding
from flowherd.transport.wire_format import (
    ConnectError,
    Disconnected,
    Origin,
    Overdue,
    OversizedReply,
    WireError,
    base_path_of,
    checked_target,
    header_line,
)

if TYPE_CHECKING:
    from flowherd.client.bearer_tokens import Token, TokenSource
    from flowherd.transport.connection import HttpConnection

_UNAUTHORIZED = 401
_COPY_UP_TO = 16 << 10  # a body of at most this many bytes is sent in one piece with the head


class _Call(NamedTuple):
    """The arguments of a call; `began_at` is in seconds of the loop's clock."""

    route: str
    body: bytes
    most_bytes: int
    began_at: float
    deadline_s: float
    is_first: bool


class DirectTransport:
    """See `flowherd.transport.transport.Transport`.

    Args:
        url: the engine's URL; its path is a prefix of every route.
        tokens: the source of bearer tokens; None sends no Authorization header (protocol.md §2.2).
        connections: the most connections in use; polls have one more.
        bytes_per_s: a call's deadline grows by its bytes at this rate (faults.md N8).

    """

    def __init__(
        self,
        url: str,
        tokens: TokenSource | None,
        *,
        connections: int,
        tls: ssl.SSLContext | None = None,
        bytes_per_s: float = LEAST_BYTES_PER_S,
    ) -> None:
        origin = Origin.of(url)
        if origin.is_secure and tls is None:
            tls = tls_context()
        self._pool = HttpPool(origin, connections=connections, tls=tls, bytes_per_s=bytes_per_s)
        self._tokens = tokens
        self._base = base_path_of(url).encode()
        self._common = b" HTTP/1.1\r\n" + b"".join(
            header_line(name, value)
            for name, value in (
                (b"host", origin.authority),
                (b"content-type", b"application/json"),
                (b"accept", b"*/*"),
                (b"accept-encoding", b"identity"),
                (b"user-agent", b"flowherd"),
            )
        )
        self._head_version = -1
        self._head = self._common + b"content-length: "

    async def call(
        self,
        route: str,
        body: bytes,
        deadline_s: float,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        is_first: bool = False,
    ) -> Reply:
        """See `Transport.call`.

        Raises:
            ValueError: the route is not a valid request target.

        """
        began_at = asyncio.get_running_loop().time()
        deadline_at = began_at + deadline_s  # for everything before the first byte is sent
        call = _Call(route, body, max_reply_bytes, began_at, deadline_s, is_first)
        try:
            if self._tokens is None:
                return await self._exchange(call, None)
            token = self._tokens.known()
            if token is None:
                async with asyncio.timeout_at(deadline_at):
                    token = await self._tokens.current()
            reply = await self._exchange(call, token)
            if token is not None and reply.status == _UNAUTHORIZED:
                async with asyncio.timeout_at(deadline_at):
                    token = await self._tokens.renewed(token)
                reply = await self._exchange(call, token)
            return reply
        except TimeoutError:
            raise EngineUnavailable(f"no complete reply within {deadline_s:g} s") from None
        except WireError as error:
            raise _translated(error, deadline_s, max_reply_bytes) from error

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await self._pool.aclose()

    async def _exchange(self, call: _Call, token: Token | None) -> Reply:
        head = self._head_of(call.route, token, len(call.body))
        connection = self._pool.take(is_first=call.is_first)
        if connection is None:
            async with asyncio.timeout_at(call.began_at + call.deadline_s):
                connection = await self._pool.acquire(is_first=call.is_first)
        try:
            connection.begin(call.most_bytes)
            self._pool.expect(connection, call.began_at, call.deadline_s, len(call.body))
            _write(connection, head, call.body)
            await connection.whole_reply()
            return _reply_on(connection)
        finally:
            self._pool.release(connection)

    def _head_of(self, route: str, token: Token | None, size: int) -> bytes:
        if token is not None and token.version != self._head_version:
            self._make_head(token)
        target = checked_target(self._base + route.encode())
        return b"POST %b%b%d\r\n\r\n" % (target, self._head, size)

    def _make_head(self, token: Token) -> None:
        """Builds the header block, once per token; EngineUnavailable for a token that no header can carry."""
        try:
            bearer = header_line(b"authorization", b"Bearer " + token.value.encode())
        except ValueError:
            raise EngineUnavailable("an access token that no header can carry") from None
        self._head = self._common + bearer + b"content-length: "
        self._head_version = token.version


def _write(connection: HttpConnection, head: bytes, body: bytes) -> None:
    if len(body) > _COPY_UP_TO:
        connection.write(head)
        connection.write(body)
    else:
        connection.write(head + body)


def _reply_on(connection: HttpConnection) -> Reply:
    """Returns the whole reply that a connection has read; EngineUnavailable when it is compressed."""
    reply = connection.reply
    if reply.known is not None:
        return Reply(reply.status, reply.known.text, connection.body)
    headers = Headers(reply.headers)
    for name, _ in reply.headers:
        if name == b"content-encoding" and (refusal := unasked_encoding(headers)):
            raise refusal
    return Reply(reply.status, headers, connection.body)


def _translated(
    error: WireError, deadline_s: float, max_reply_bytes: int
) -> EngineUnavailable | EngineMisconfigured:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, Overdue):
        return late(deadline_s, has_stalled=error.has_stalled)
    if isinstance(error.__cause__, ssl.SSLError):
        return EngineMisconfigured(f"TLS: {words}")
    if isinstance(error, OversizedReply):
        return ReplyTooLarge(f"a reply of more than {max_reply_bytes >> 20} MB", in_doubt=True)
    if isinstance(error, Disconnected) and not error.has_begun:
        return EngineDisconnected(words, in_doubt=True)
    return EngineUnavailable(words, in_doubt=not isinstance(error, ConnectError))
