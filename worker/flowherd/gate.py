"""One retry gate per worker: while the engine is away a single call probes it, whatever else waits (faults.md E5)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from flowherd.core.retries import Backoff
from flowherd.errors import EngineError, EngineUnavailable

T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)


class Gate:
    """Open while calls succeed; after a failure calls pass one at a time, each after a jittered delay.

    `failures` counts failures in a row; calls that were under way together count once.
    """

    def __init__(self, backoff: Backoff | None = None, rng: random.Random | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._probe = asyncio.Lock()
        self._reopens_at = 0.0
        self._closed_at = 0.0
        self.failures = 0

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Makes `call` when the gate lets it; its EngineError closes the gate and is raised."""
        while self.failures:
            async with self._probe:
                if not self.failures:
                    break
                await asyncio.sleep(self._reopens_at - time.monotonic())
                return await self._attempt(call)
        return await self._attempt(call)

    async def _attempt(self, call: Callable[[], Awaitable[T]]) -> T:
        failures_before = self.failures
        try:
            result = await call()
        except EngineError as error:
            if self.failures == failures_before:
                self._close(error)
            raise
        if self.failures:
            self._open()
        return result

    def _close(self, error: EngineError) -> None:
        self.failures += 1
        now = time.monotonic()
        asked_s = error.retry_after_s if isinstance(error, EngineUnavailable) else 0.0
        self._reopens_at = now + self._backoff.delay_s(self.failures, self._rng, asked_s=asked_s)
        if self.failures == 1:
            self._closed_at = now
            log.warning("engine_unreachable", reason=str(error))

    def _open(self) -> None:
        self.failures = 0
        log.info("engine_reachable_again", after_s=round(time.monotonic() - self._closed_at, 1))
