"""`/api/events`: server-sent events as they happen, and the status once a second.

The newest events are kept for clients that reconnect with the id of the last one they received.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.ledger import Cell, Ledger, Life

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]

STATUS_EVERY_S = 1.0
MOST_WATCHERS = 16
_AGAIN_SOON = b"retry: 500\n\n"  # milliseconds; the keeper is replaced in less
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
KEPT = 200  # events
# Events of the keeper's own log that are shown beside the supervisor's.
OWN = frozenset(
    {
        "activity_failed", "activity_settled", "settlement_given_up", "settlement_delayed", "lease_lost",
        "lease_too_short", "token_not_granted", "token_granted", "engine_unreachable", "engine_reachable_again",
        "engine_misconfigured", "engine_refuses_our_token", "engine_unhealthy", "engine_healthy_again",
        "workflow_stalled", "heartbeats_fail", "activity_cancelled",
    }
)  # fmt: skip


class EventLog:
    """The newest events, each with a number that only grows, even across keepers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._listeners: list[Callable[[], None]] = []
        self._last = 0

    def add(self, at: float, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Stores one event. Its number comes from `at`, seconds since 1970, so that a repeat gets the same one."""
        with self._lock:
            self._last = max(self._last + 1, int(at * 1e6))
            self._newest.append({**fields, "id": self._last, "at": at, "level": level, "event": event})
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def after(self, number: int) -> list[dict[str, Any]]:
        """Returns the stored events after the one with this number."""
        with self._lock:
            return [one for one in self._newest if one["id"] > number]

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener`, from any thread, after each event; returns a function that removes it."""
        with self._lock:
            self._listeners.append(listener)

        def leave() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return leave


class OwnLog(logging.Handler):
    """Log handler that adds this process's own records to the events."""

    def __init__(self, events: EventLog) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Stores the record if its event is in `OWN`."""
        event = record.msg
        if isinstance(event, dict) and event.get("event") in OWN:
            fields = {
                name: value
                for name, value in event.items()
                if not name.startswith("_") and isinstance(value, str | int | float | None)
            }
            for name in ("event", "level", "time", "timestamp"):
                fields.pop(name, None)
            if fields.get("process") == "keeper":
                del fields["process"]  # the event concerns the whole host
            self._events.add(record.created, record.levelname.lower(), event["event"], fields)


class BlockWatch:
    """Adds an event for handlers that have blocked a loop since the last look.

    Workers log this themselves; the keeper learns of it only through the ledger.
    """

    def __init__(self, ledger: Ledger, events: EventLog) -> None:
        self._ledger = ledger
        self._events = events
        self._seen = self._counts()

    def look(self) -> None:
        """Adds an event for each process with new blocks, with the newest line."""
        counts = self._counts()
        for (number, life), blocks in counts.items():
            new = blocks - self._seen.get((number, life), 0)
            if new > 0:
                segment = self._ledger.segments[number]
                fields = {"process": segment.get(Cell.PROCESS), "place": segment.blocked_at, "times": new}
                self._events.add(time.time(), "warning", "loop_blocked", fields)
        self._seen = counts

    def _counts(self) -> dict[tuple[int, int], int]:
        """Returns counts by segment and its start number, so that a new process begins at 0."""
        return {
            (segment.number, segment.get(Cell.STARTED)): segment.get(Cell.BLOCKS)
            for segment in self._ledger.segments
            if segment.life is Life.LIVE and segment.readable
        }


class Streams:
    """Serves at most `MOST_WATCHERS` clients, which all get the same status document.

    Args:
        events: the stored events.
        status: builds the status document; called about once a second, however many clients there are.
        blocks: finds blocked loops, which no other process reports to the keeper.

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
        """True if there is no room for another client."""
        return self._watchers >= MOST_WATCHERS

    async def serve(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Streams until the client disconnects."""
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
            await asyncio.wait({gone})

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
    """Parses a client's last event id, which is not trusted; 0 if it is invalid."""
    return int(text) if text and text.isdigit() and len(text) < 20 else 0
