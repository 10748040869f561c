"""The event stream of a running supervisor, and the orders sent back to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import msgspec

from flowherd_supervisor.cli.ask_supervisor import endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_AGAIN_AFTER_S = 0.3
_SILENT_AFTER_S = 5.0  # the status comes once a second: a longer silence means a lost connection


@dataclass(frozen=True, slots=True)
class Status:
    """The status document, about once a second."""

    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Happened:
    """An event, delivered once and as soon as it is known."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failures:
    """The newest failures, when there are new ones."""

    failures: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Silent:
    """There is no answer at the moment; the feed keeps trying."""

    reason: str


News = Status | Happened | Failures | Silent


class Feed(Protocol):
    """Source of news for a view and receiver of its orders."""

    def news(self) -> AsyncIterator[News]:
        """Yields news until the consumer stops."""
        ...

    async def order(self, name: str, processes: int | None = None) -> str:
        """Sends an order and returns the reply's text."""
        ...


class HttpFeed:
    """The feed of one supervisor over HTTP; it reconnects when the keeper is replaced.

    Args:
        admin: `HOST:PORT` or `unix:PATH`.
        pid: pid of a supervisor on this host; with neither, the only one found is used.

    Raises:
        ConfigurationError: no supervisor runs, several run and none is chosen, or `admin` is not an address.

    """

    def __init__(self, admin: str | None = None, pid: int | None = None) -> None:
        self._base_url, self._socket = endpoint(admin, pid)
        self._seen = self._failures_seen = 0

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self._socket)
        return httpx.AsyncClient(
            transport=transport, base_url=self._base_url, timeout=_SILENT_AFTER_S, trust_env=False
        )

    async def news(self) -> AsyncIterator[News]:
        """Streams news and reconnects after each end, without missing or repeating an event."""
        while True:
            try:
                async with self._client() as client:
                    async for one in self._stream(client):
                        yield one
                yield Silent("it has ended the stream")
            except httpx.HTTPError as error:
                yield Silent(str(error) or type(error).__name__)
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _stream(self, client: httpx.AsyncClient) -> AsyncIterator[News]:
        headers = {"last-event-id": str(self._seen)}
        kind = ""
        async with client.stream("GET", "/api/events", headers=headers) as reply:
            if not reply.is_success:
                yield Silent(f"status {reply.status_code}")
                return
            async for line in reply.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data" and kind == "status":
                    document = msgspec.json.decode(value)
                    yield Status(document)
                    if (so_far := document.get("failures_so_far", 0)) != self._failures_seen:
                        self._failures_seen = so_far
                        yield Failures((await client.get("/api/failures")).json()["failures"])
                elif name == "data" and kind == "happened":
                    event = msgspec.json.decode(value)
                    self._seen = event["id"]
                    yield Happened(event)

    async def order(self, name: str, processes: int | None = None) -> str:
        """Sends an order and returns the reply's text."""
        body = {} if processes is None else {"processes": processes}
        try:
            async with self._client() as client:
                document = (await client.post(f"/api/{name}", json=body)).json()
        except (httpx.HTTPError, ValueError) as error:
            return f"no answer: {error or type(error).__name__}"
        return str(document.get("note") or document.get("error"))
