"""`/api/events`: server-sent events, each happening as it comes and the status once a second; it asks nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from flowherd_supervisor.keeper.events import EventLog
    from flowherd_supervisor.keeper.inflight import BlockWatch

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]

STATUS_EVERY_S = 1.0
MOST_WATCHERS = 16
_AGAIN_SOON = b"retry: 500\n\n"  # milliseconds: this process is replaced in less than that
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Streams:
    """Serves watchers, at most `MOST_WATCHERS`; all of them see the same status document.

    Args:
        events: what has happened; whoever comes back says what it saw last.
        status: makes the document; called at most once a second, however many watch.
        blocks: what finds loops that handlers keep; nobody else tells of them.

    """

    def __init__(
        self, events: EventLog, status: Callable[[], dict[str, Any]], blocks: BlockWatch | None = None
    ) -> None:
        self._events = events
        self._blocks = blocks
        self._status = status
        self._watchers = 0
        self._document = b""
        self._made_at = 0.0

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return self._watchers >= MOST_WATCHERS

    async def serve(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Streams until the watcher leaves."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(news.set)

        leave = self._events.listen(tell)
        gone = loop.create_task(_until_gone(receive))
        gone.add_done_callback(lambda _: news.set())
        self._watchers += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": _AGAIN_SOON, "more_body": True})
            await self._stream(_number(headers.get(b"last-event-id")), news, gone, send)
        finally:
            self._watchers -= 1
            leave()
            gone.cancel()

    async def _stream(self, seen: int, news: asyncio.Event, gone: asyncio.Task[None], send: Send) -> None:
        loop = asyncio.get_running_loop()
        status_at = 0.0
        while not gone.done():
            news.clear()
            text = b""
            for one in self._events.after(seen):
                seen = one["id"]
                text += b"id: %d\nevent: happened\ndata: %b\n\n" % (seen, msgspec.json.encode(one))
            if loop.time() >= status_at:
                status_at = loop.time() + STATUS_EVERY_S
                text += b"event: status\ndata: %b\n\n" % self._present_status()
            if text:
                await send({"type": "http.response.body", "body": text, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(status_at - loop.time(), 0.0)):
                    await news.wait()

    def _present_status(self) -> bytes:
        now = asyncio.get_running_loop().time()
        if not self._document or now - self._made_at >= STATUS_EVERY_S / 2:
            self._document, self._made_at = msgspec.json.encode(self._status()), now
            if self._blocks is not None:
                self._blocks.look()
        return self._document


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _number(text: bytes | None) -> int:
    """What a browser says it has seen last; nothing of what it says is trusted."""
    return int(text) if text and text.isdigit() and len(text) < 20 else 0
