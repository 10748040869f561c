"""Sends streamed text to the engine, best effort: it never fails or delays a handler.

Text is batched: a stream makes at most one call per `EVERY_S`, and one per `UNHEARD_EVERY_S` while it has no
subscribers. An attempt has at most one call under way and `MOST_CHARS` waiting; more text is dropped, as is the text of
a failed call, and the indexes then have a gap. After a failed call all streams of this worker pause, and then a single
call probes for all, so that an unreachable engine gets few calls (protocol.md §10).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from flowherd.background import Tasks
from flowherd.backoff import Backoff
from flowherd.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flowherd.client.engine_protocol import Engine

T = TypeVar("T")
EVERY_S = 0.05
UNHEARD_EVERY_S = 1.0
MOST_CHARS = 65_536
DEADLINE_S = 2.0  # of a call: later text is of no use
CLOSE_S = 0.2
_BACKOFF = Backoff(base_s=1.0, cap_s=10.0)

log = structlog.stdlib.get_logger(__name__)


class EngineStreams:
    """`flowherd.execution.run_environment.Streams` over an engine; create it on the loop that calls the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.loop = asyncio.get_running_loop()
        self._rng = random.Random()
        self._failures = 0
        self._silent_until = 0.0
        self._tasks = Tasks()

    def __repr__(self) -> str:
        return f"<EngineStreams [{self._failures} failures in a row]>"

    def open(self, activity_id: str) -> _Outlet:
        """See `Streams.open`."""
        return _Outlet(self, activity_id)

    @property
    def silent_s(self) -> float:
        """Seconds until a call may be made."""
        return max(0.0, self._silent_until - self.loop.time())

    def begin_call(self) -> int:
        """Notes the start of a call, after a failure the only one; returns the failures so far, for `failed`."""
        if self._failures:
            self._silent_until = self.loop.time() + DEADLINE_S
        return self._failures

    def succeeded(self) -> None:
        """Resets the failures after a successful call."""
        self._failures, self._silent_until = 0, 0.0

    def failed(self, error: EngineError, failures_before: int) -> None:
        """Counts a failed call and begins a pause; concurrent calls that fail count once."""
        if self._failures == failures_before:
            self._failures += 1
            self._silent_until = self.loop.time() + _BACKOFF.delay_s(self._failures, self._rng)
        if self._failures == 1:
            log.info("streams_interrupted", reason=str(error))

    def spawn(self, outlet: _Outlet) -> None:
        """Starts sending the text that waits in an outlet."""
        self._tasks.spawn(outlet.send())

    async def aclose(self) -> None:
        """Ends all streams; waiting text has `CLOSE_S` to be sent."""
        await self._tasks.end(CLOSE_S)


class _Outlet:
    """`flowherd.execution.run_environment.Outlet` of one attempt."""

    def __init__(self, streams: EngineStreams, activity_id: str) -> None:
        self._streams = streams
        self._activity_id = activity_id
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._chars = 0
        self._index = 0
        self._has_gap = False
        self._is_sending = False
        self._has_ended = False
        self._error: str | None = None
        self._hurry = asyncio.Event()

    def put(self, text: str) -> None:
        """See `Outlet.put`."""
        with self._lock:
            if self._has_ended:
                return
            if self._chars + len(text) > MOST_CHARS:
                self._has_gap = True
                return
            self._waiting.append(text)
            self._chars += len(text)
            self._wake()

    def end(self, error: str | None) -> None:
        """See `Outlet.end`."""
        with self._lock:
            if not self._has_ended:
                self._has_ended, self._error = True, error
                self._wake()

    def _wake(self) -> None:
        """Starts or hurries the sender; called with the lock held, from any thread, perhaps after the loop closed."""
        with contextlib.suppress(RuntimeError):
            if not self._is_sending:
                self._is_sending = True
                self._streams.loop.call_soon_threadsafe(self._streams.spawn, self)
            elif self._has_ended:
                self._streams.loop.call_soon_threadsafe(self._hurry.set)

    async def send(self) -> None:
        """Sends until no text waits; runs on the loop, once at a time."""
        while True:
            while (silent_s := self._streams.silent_s) and not self._has_ended:
                await self._pause(silent_s)
            piece = self._take()
            if piece is None or self._streams.silent_s:
                return  # a stream that ends during a pause is given up
            text, index = piece
            if not text:
                await self._call(self._streams.engine.stream_end(self._activity_id, self._error, DEADLINE_S))
                return
            heard = await self._call(
                self._streams.engine.stream_text(self._activity_id, text, index, DEADLINE_S)
            )
            await self._pause(EVERY_S if heard else UNHEARD_EVERY_S)

    def _take(self) -> tuple[str, int] | None:
        """Returns all waiting text and its index; empty text at the end of the stream, None when nothing waits yet."""
        with self._lock:
            text, index = "".join(self._waiting), self._index
            if not text and not self._has_ended:
                self._is_sending = False
                return None
            self._waiting.clear()
            self._chars = 0
            self._index += 2 if self._has_gap else 1
            self._has_gap = False
            return text, index

    async def _call(self, call: Coroutine[Any, Any, T]) -> T | None:
        failures_before = self._streams.begin_call()
        try:
            result = await call
        except EngineError as error:
            self._streams.failed(error, failures_before)
            return None
        self._streams.succeeded()
        return result

    async def _pause(self, seconds: float) -> None:
        """Sleeps for `seconds`, or until the stream ends."""
        with contextlib.suppress(TimeoutError):  # the usual end
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
