"""Carries bytes to the engine and back within one deadline; it knows HTTP, never activities or JSON."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from flowherd.errors import EngineMisconfigured, EngineUnavailable


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Transport(Protocol):
    """POSTs small JSON bodies to one origin."""

    async def call(self, route: str, body: bytes, deadline_s: float) -> Reply:
        """POSTs `body` to the path `route`.

        Args:
            route: an absolute path, already percent-encoded.
            body: JSON.
            deadline_s: seconds for everything: connect, send, and the last byte of the reply (faults.md E3).

        Raises:
            EngineUnavailable: refused, reset, too slow, cut short, or a reply that is too large.
        """
        ...

    async def aclose(self) -> None:
        """Closes all connections."""
        ...


def new_client(base_url: str, auth: httpx.Auth | None, *, connections: int) -> httpx.AsyncClient:
    """An httpx client with our rules: no redirects, no proxies from the environment (protocol.md R12)."""
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60
    )
    return httpx.AsyncClient(
        base_url=base_url,
        auth=auth,
        limits=limits,
        timeout=None,  # noqa: S113 - every call has a total deadline instead
        follow_redirects=False,
        trust_env=False,
        headers={"content-type": "application/json", "accept-encoding": "identity", "user-agent": "flowherd"},
    )


class HttpxTransport:
    """`Transport` over an `httpx.AsyncClient`.

    Args:
        client: from `new_client`, or a user's own.
        max_reply_bytes: a longer reply raises instead of filling the memory (faults.md E15).
    """

    def __init__(self, client: httpx.AsyncClient, *, max_reply_bytes: int) -> None:
        self._client = client
        self._max_reply_bytes = max_reply_bytes

    async def call(self, route: str, body: bytes, deadline_s: float) -> Reply:
        """See `Transport.call`."""
        try:
            async with asyncio.timeout(deadline_s):
                async with self._client.stream("POST", route, content=body) as response:
                    return await self._read(response)
        except TimeoutError:
            raise EngineUnavailable(f"no complete reply within {deadline_s:g} s") from None
        except httpx.HTTPError as error:
            if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error).upper():
                raise EngineMisconfigured(f"TLS: {error}") from error
            raise EngineUnavailable(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    async def _read(self, response: httpx.Response) -> Reply:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise EngineUnavailable(f"a reply with content-encoding {encoding[:40]!r} that nobody asked for")
        chunks, size = [], 0
        async for chunk in response.aiter_raw():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_reply_bytes:
                raise EngineUnavailable(
                    f"a reply of more than {self._max_reply_bytes >> 20} MB: see --max-reply-mb"
                )
        return Reply(response.status_code, response.headers, b"".join(chunks))

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await self._client.aclose()
