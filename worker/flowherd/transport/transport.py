"""Transports that carry request and reply bytes to and from the engine within one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Protocol

import httpx
import msgspec

from flowherd.errors import (
    EngineDisconnected,
    EngineMisconfigured,
    EngineUnavailable,
    ReplyTooLarge,
)
from flowherd.transport.httpx_progress import BOUNDED, CallProgress, content_of
from flowherd.transport.stall_detection import LEAST_BYTES_PER_S, late
from flowherd.transport.wire_format import checked_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_REPLY_BYTES = 1 << 20  # of every call but a poll (faults.md E15)
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Reply(msgspec.Struct, frozen=True):
    """A whole HTTP reply; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"


class Transport(Protocol):
    """Sends POST requests with JSON bodies to one origin."""

    async def call(
        self,
        route: str,
        body: bytes,
        deadline_s: float,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        is_first: bool = False,
    ) -> Reply:
        """POSTs `body` to the path `route`.

        Args:
            route: an absolute path, already percent-encoded.
            body: JSON.
            deadline_s: seconds from connecting to the last byte of the reply (faults.md E3), plus the time that the
                bytes of both bodies take at `LEAST_BYTES_PER_S` (faults.md N8).
            max_reply_bytes: a longer reply raises an error instead of filling the memory.
            is_first: True to allow the connection that is reserved for polls.

        Raises:
            EngineDisconnected: the connection ended before the first byte of the reply.
            ReplyTooLarge: the reply is longer than `max_reply_bytes`.
            EngineMisconfigured: the TLS handshake failed.
            CallTooSlow: the deadline passed, and bytes had moved in its last third.
            EngineUnavailable: the call was refused, reset, stalled or cut short; `in_doubt` unless nothing was sent.

        """
        ...

    async def aclose(self) -> None:
        """Closes all connections."""
        ...


@cache
def tls_context() -> ssl.SSLContext:
    """Returns the TLS context of all clients of a process; created before a fork, it costs the children nothing."""
    return httpx.create_ssl_context()


def _tls_for(url: str) -> ssl.SSLContext:
    """The TLS context, or one that trusts nobody where no TLS is spoken: all authorities take 1 MB."""
    return tls_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def new_client(
    base_url: str,
    auth: httpx.Auth | None,
    *,
    connections: int,
    is_bounded: bool = False,
) -> httpx.AsyncClient:
    """Returns an httpx client without redirects, cookies or proxies from the environment (protocol.md R12).

    With `is_bounded` the kernel's send buffer is small enough to show whether the bytes of a body move.
    """
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60
    )
    transport = None
    if is_bounded:
        transport = httpx.AsyncHTTPTransport(
            verify=_tls_for(base_url), limits=limits, trust_env=False, socket_options=[BOUNDED]
        )
    return httpx.AsyncClient(
        base_url=base_url,
        auth=auth,
        transport=transport,
        cookies=CookieJar(
            DefaultCookiePolicy(allowed_domains=())
        ),  # no reply may decide where the next call goes
        verify=_tls_for(base_url),
        limits=limits,
        timeout=None,  # noqa: S113 - every call has a total deadline instead
        follow_redirects=False,
        trust_env=False,
        headers={"content-type": "application/json", "accept-encoding": "identity", "user-agent": "flowherd"},
    )


class HttpxTransport:
    """`Transport` over an `httpx.AsyncClient`.

    Args:
        client: from `new_client`, or a custom one.
        connections: the most connections in use by calls, when the client has one more for polls; None for no limit.
        bytes_per_s: a call's deadline grows by its bytes at this rate (faults.md N8).

    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        connections: int | None = None,
        bytes_per_s: float = LEAST_BYTES_PER_S,
    ) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(connections) if connections else contextlib.nullcontext()
        self._bytes_per_s = bytes_per_s

    async def call(
        self,
        route: str,
        body: bytes,
        deadline_s: float,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        is_first: bool = False,
    ) -> Reply:
        """See `Transport.call`."""
        has_begun = False
        progress = CallProgress(deadline_s, len(body), self._bytes_per_s)
        try:
            async with progress.timeout, contextlib.nullcontext() if is_first else self._turns:
                response = await self._client.send(self._request(route, body, progress), stream=True)
                has_begun = True
                try:
                    data = await read_capped(response, max_reply_bytes, progress.received)
                finally:
                    await response.aclose()
                return Reply(response.status_code, response.headers, data)
        except TimeoutError:
            raise late(deadline_s, has_stalled=progress.has_stalled) from None
        except httpx.HTTPError as error:
            raise _translated(error, has_begun=has_begun) from error

    def _request(self, route: str, body: bytes, progress: CallProgress) -> httpx.Request:
        """Builds the request with the client's own headers, parameters and cookies.

        Raises:
            ValueError: the route is not a valid request target.

        """
        checked_target(route.encode())
        length = {"content-length": str(len(body))}
        return self._client.build_request("POST", route, content=content_of(body, progress), headers=length)

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await self._client.aclose()


def unasked_encoding(headers: Mapping[str, str]) -> EngineUnavailable | None:
    """Returns the error for a compressed body, which was never requested; None for a plain one (faults.md E15)."""
    encoding = headers.get("content-encoding", "identity")
    if encoding == "identity":
        return None
    return EngineUnavailable(
        f"a reply with content-encoding {encoding[:40]!r} that nobody asked for", in_doubt=True
    )


async def read_capped(
    response: httpx.Response, max_reply_bytes: int, received: Callable[[int], None] | None = None
) -> bytes:
    """Reads the raw body, never decompressed; ReplyTooLarge when it exceeds `max_reply_bytes`."""
    if refusal := unasked_encoding(response.headers):
        raise refusal
    assert isinstance(response.stream, httpx.AsyncByteStream)
    chunks, size = [], 0
    async for chunk in response.stream:
        chunks.append(chunk)
        size += len(chunk)
        if received is not None:
            received(len(chunk))
        if size > max_reply_bytes:
            raise ReplyTooLarge(f"a reply of more than {max_reply_bytes >> 20} MB", in_doubt=True)
    return b"".join(chunks)


def _translated(error: httpx.HTTPError, *, has_begun: bool) -> EngineUnavailable | EngineMisconfigured:
    """Returns flowherd's error for httpx's; `has_begun` is True when the head of the reply had arrived."""
    place = ""
    if isinstance(error, _NOTHING_SENT):
        url = error.request.url
        place = f"{url.scheme}://{url.netloc.decode()}: "
    words = f"{type(error).__name__}: {place}{error}".rstrip(": ")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return EngineMisconfigured(f"TLS: {words}")
        cause = cause.__cause__ or cause.__context__
    if not has_begun and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return EngineDisconnected(words, in_doubt=True)
    return EngineUnavailable(words, in_doubt=not isinstance(error, _NOTHING_SENT))
