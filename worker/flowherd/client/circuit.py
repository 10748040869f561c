"""A circuit for the calls of one worker: while the engine is unreachable, one call at a time probes it (E5)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import structlog

from flowherd.backoff import Backoff
from flowherd.errors import (
    EngineDisconnected,
    EngineError,
    EngineMisconfigured,
    EngineUnauthorized,
    EngineUnavailable,
    ForeignReply,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.stdlib.get_logger(__name__)


class Circuit:
    """Lets calls pass freely while they succeed; after a failure, one at a time and each after a jittered delay.

    Closed means that calls pass, open that they wait. A connection that ends before the reply begins may only have been
    idle for too long (faults.md E4): the circuit opens, but the next call passes without a delay and probes for all.
    So an engine that restarted costs no delay, and one that is gone gets a single extra call. No delay is half a
    second longer than the outage so far.

    An error that concerns its own call only (`EngineError.is_of_the_call`) neither opens nor closes the circuit.

    Attributes:
        failures: consecutive failures; concurrent calls that fail count once.
        successes: all calls that have succeeded.

    """

    def __init__(self, backoff: Backoff | None = None, rng: random.Random | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()
        self._probe = asyncio.Lock()
        self._hurried = asyncio.Event()
        self._probes_at = 0.0
        self._opened_at = 0.0
        self._trouble: type[EngineError] | None = None
        self.failures = self.successes = 0

    def __repr__(self) -> str:
        return f"<Circuit [{self.failures} failures in a row]>" if self.failures else "<Circuit [closed]>"

    async def through(self, call: Callable[[*Ts], Awaitable[T]], *arguments: *Ts, is_long: bool = False) -> T:
        """Makes `call` when the circuit lets it pass; an EngineError opens the circuit and is raised.

        Any other exception of `call` is raised and does not affect the circuit. A long call waits for its turn like the
        others, but the next one does not wait for its end: no call queues behind a large body (faults.md N8).
        """
        while self.failures:
            async with self._probe:
                if not self.failures:
                    break
                await self._until_probe()
                if not is_long:
                    return await self._attempt(call, *arguments)
            return await self._attempt(call, *arguments)
        try:
            result = await call(*arguments)
        except EngineError as error:
            self._failed(error, 0)
            raise
        self._succeeded()
        return result

    def hurry(self) -> None:
        """Lets the next call pass at once and resets the delays, for a drain that has no time to wait."""
        self._probes_at = 0.0
        self.failures = min(self.failures, 1)
        self._hurried.set()

    async def _pause(self, delay_s: float) -> None:
        """Sleeps for `delay_s`, or until `hurry`."""
        self._hurried.clear()
        with contextlib.suppress(TimeoutError):  # the usual end
            async with asyncio.timeout(delay_s):
                await self._hurried.wait()

    async def _until_probe(self) -> None:
        while (left_s := self._probes_at - _now()) > 0:
            await self._pause(left_s)

    async def _attempt(self, call: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        failures_before = self.failures
        try:
            result = await call(*arguments)
        except EngineError as error:
            self._failed(error, failures_before)
            raise
        self._succeeded()
        return result

    def _failed(self, error: EngineError, failures_before: int) -> None:
        if self.failures == failures_before and not error.is_of_the_call:
            self._open(error)

    def _succeeded(self) -> None:
        self.successes += 1
        if self.failures:
            self._close()

    def _open(self, error: EngineError) -> None:
        self.failures += 1
        now = _now()
        if self.failures == 1:
            self._opened_at = now
        self._probes_at = now + self._delay_s(error, now - self._opened_at)
        trouble = _kind(error)
        if trouble is not self._trouble and not self._may_be_idleness(error):
            self._trouble = trouble
            _say(trouble, str(error))

    def _may_be_idleness(self, error: EngineError) -> bool:
        return self.failures == 1 and isinstance(error, EngineDisconnected)

    def _delay_s(self, error: EngineError, lasted_s: float) -> float:
        if self._may_be_idleness(error):
            return 0.0
        asked_s = error.retry_after_s if isinstance(error, EngineUnavailable) else 0.0
        return self._backoff.delay_s(self.failures, self._rng, asked_s=asked_s, lasted_s=lasted_s)

    def _close(self) -> None:
        if self._trouble is not None:
            log.info("engine_reachable_again", after_s=round(_now() - self._opened_at, 1))
        self.failures, self._trouble = 0, None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _kind(error: EngineError) -> type[EngineError]:
    match error:
        case EngineMisconfigured() | ForeignReply():
            return EngineMisconfigured
        case EngineUnauthorized():
            return EngineUnauthorized
    return EngineUnavailable


def _say(trouble: type[EngineError], reason: str) -> None:
    """Logs one line per change of state, not per call (faults.md E1)."""
    if trouble is EngineMisconfigured:
        log.error("engine_misconfigured", reason=reason)
    elif trouble is EngineUnauthorized:
        log.warning("engine_refuses_our_token", reason=reason)
    else:
        log.warning("engine_unreachable", reason=reason)
