"""One attempt from its start until its handler has really ended; it must not call handlers or the engine.

An attempt has a start and two ends, and they may lie far apart:

    begun            its handler has the loop, or is in its thread or isolate: now its limit begins
    outcome known    the handler returned or raised, or was told to stop and its grace is over
    ended            the handler does not run any more: only now its slot is free

Between the two it is a detached (faults.md A8). What a handler does after it was told to stop changes nothing:
a late success is dropped (A9).
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING

from flowherd.model import Completed, Lost, Outcome
from flowherd.running.awake_timer import AwakeTimer
from flowherd.running.invoke import failed, spent
from flowherd.sdk.context import CancelReason, RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.model import Activity, Usage

_log = logging.getLogger(__name__)


class Phase(Enum):
    """Where an attempt stands."""

    WAITING = "waiting"  # for the loop, or another attempt of an activity with max_concurrent to end
    RUNNING = "running"
    STOPPING = "stopping"  # told to stop, within its grace
    DETACHED = "detached"
    ENDED = "ended"


# Looking a member up in its enum costs as much as what is done with it.
_WAITING, _RUNNING, _ENDED = Phase.WAITING, Phase.RUNNING, Phase.ENDED


class Run:
    """One attempt; all methods must be called on its loop.

    Attributes:
        activity: what was claimed.
        limit_s: seconds the handler may take from its start: the engine's `timeout_seconds`, or the handler's
            own `timeout_s` if that is less; without `timeout_seconds` the handler's own, else the worker's.
        known_outcome: the outcome, None until it is known.
        has_ended: whether the handler has really ended.
        dropped: whether a success came too late to be reported.
        on_begin: called when the handler starts, if it has to wait for that.
        tag: what the loop meter marks while the handler is on the loop; 0 is nobody.

    """

    __slots__ = (
        "_began_at",
        "_end_waiters",
        "_grace_s",
        "_on_decided",
        "_on_end",
        "_outcome_waiters",
        "_phase",
        "_state",
        "_stop",
        "_timer",
        "activity",
        "dropped",
        "has_ended",
        "known_outcome",
        "limit_s",
        "on_begin",
        "tag",
    )

    def __init__(
        self, state: RunState, limit_s: float, grace_s: float, on_end: Callable[[Run], None]
    ) -> None:
        self.activity: Activity = state.activity
        self.limit_s = limit_s
        self.known_outcome: Outcome | None = None
        self.has_ended = self.dropped = False
        self.tag = 0
        self.on_begin: Callable[[], None] | None = None
        self._state = state
        state.limit_s = limit_s
        self._grace_s = grace_s
        self._on_end = on_end
        self._on_decided: Callable[[], None] | None = None
        self._began_at = 0.0
        self._phase = _WAITING
        self._stop: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | AwakeTimer | None = None
        self._outcome_waiters: list[asyncio.Future[None]] = []
        self._end_waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Run {self.activity.name} {self.activity.activity_id} {self._phase.value}>"

    @property
    def phase(self) -> Phase:
        """Where the attempt stands."""
        return self._phase

    @property
    def is_detached(self) -> bool:
        """Whether the outcome is known although the handler still runs."""
        return self._phase is Phase.DETACHED

    @property
    def heartbeat_at(self) -> float:
        """Monotonic seconds of the handler's last heartbeat(), 0 before the first."""
        return self._state.heartbeat_at

    @property
    def has_costs(self) -> bool:
        """Whether the handler has ever begun to record any; once it has ended, this does not change."""
        return self._state.costs is not None

    @property
    def spent(self) -> tuple[str | None, tuple[Usage, ...]]:
        """Cost and usage recorded so far."""
        return spent(self._state)

    async def outcome(self) -> Outcome:
        """Waits until the outcome is known; cancelling the waiting changes nothing."""
        while self.known_outcome is None:
            await self._wait(self._outcome_waiters)
        return self.known_outcome

    async def ended(self) -> None:
        """Waits until the handler has really ended; cancelling the waiting changes nothing."""
        while not self.has_ended:
            await self._wait(self._end_waiters)

    def when_decided(self, then: Callable[[], None]) -> None:
        """Calls `then` once, when the outcome is known and what it brings about in here is done."""
        if self.known_outcome is None:
            self._on_decided = then
        else:
            asyncio.get_running_loop().call_soon(then)

    def cancel(self, reason: CancelReason) -> None:
        """Tells the handler to stop.

        A lost lease makes the outcome Lost at once. Any other reason leaves the handler its grace; the first
        reason given decides the outcome.
        """
        if self.has_ended:
            return
        if reason is CancelReason.LEASE_LOST or self._state.cancel_reason is None:
            self._state.cancel_reason = reason
            if self._state.trace is not None:
                self._state.trace.told_to_stop(reason)
        if reason is CancelReason.LEASE_LOST:
            self._settle(Lost("the lease is somebody else's"))
        if self._stop is None:
            self.finish(self._decided(None))
            return
        self._stop()
        if self._phase is Phase.RUNNING:
            self._phase = Phase.STOPPING
            self._clear_timer()
            self._timer = AwakeTimer(asyncio.get_running_loop(), self._grace_s, self._give_up)
        if self.known_outcome is not None:
            self._phase = Phase.DETACHED
        self._say_outcome()

    def begin(self, stop: Callable[[], object]) -> None:
        """Notes that the handler starts now; `stop` tells it to end and may be called more than once."""
        self._stop = stop
        self._phase = _RUNNING
        self._began_at = monotonic()
        if self.on_begin is not None:
            then, self.on_begin = self.on_begin, None
            then()

    def limit(self) -> None:
        """Has the handler stopped when its limit is over, which began with it.

        A handler that ends before it has once given up the loop needs no timer: none could fire before.
        """
        if self._phase is _RUNNING:
            self._clear_timer()
            left_s = max(self._began_at + self.limit_s - monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(left_s, self._limit_reached)

    def finish(self, outcome: Outcome) -> None:
        """Notes that the handler has ended, and with what."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._state.cancel_reason is not None:
            self.dropped = isinstance(outcome, Completed)
            outcome = self._decided(outcome)
        self._settle(outcome)
        self._phase, self.has_ended = _ENDED, True
        self._stop = self.on_begin = None
        self._state.end()
        if self._state.costs is not None and isinstance(self.known_outcome, Lost):
            self._say_what_was_spent()
        if self._state.files is not None:
            self._state.files.close()
        if self._state.trace is not None:
            self._state.trace.ended()
        if self._end_waiters:
            _wake(self._end_waiters)
        self._on_end(self)
        if self._on_decided is not None:
            then, self._on_decided = self._on_decided, None
            then()

    def _say_outcome(self) -> None:
        if self.known_outcome is not None and self._on_decided is not None:
            then, self._on_decided = self._on_decided, None
            then()

    def _say_what_was_spent(self) -> None:
        """The engine takes nothing from an attempt that is not ours any more (protocol.md fact 13)."""
        cost_usd, usage = self.spent
        _log.warning(
            "spent_by_lost_attempt",
            extra={"activity_id": self.activity.activity_id, "cost_usd": cost_usd, "usage": list(usage)},
        )

    def _limit_reached(self) -> None:
        ids = {"activity_id": self.activity.activity_id, "activity_name": self.activity.name}
        _log.warning("activity_timed_out", extra={**ids, "limit_s": self.limit_s})
        self.cancel(CancelReason.TIMEOUT)

    def _give_up(self) -> None:
        """The grace is over: says what is known and asks once more."""
        self._timer = None
        if self.known_outcome is None:
            self._settle(self._decided(None))
        self._phase = Phase.DETACHED
        if self._stop is not None:
            self._stop()
        self._say_outcome()

    def _decided(self, outcome: Outcome | None) -> Outcome:
        match self._state.cancel_reason:
            case None:
                assert outcome is not None
                return outcome
            case CancelReason.TIMEOUT:
                message = f"the handler took longer than its limit of {self.limit_s:g} s"
                return failed(self._state, "TIMEOUT", message, retryable=True)
            case CancelReason.SHUTDOWN:
                message = "the worker was stopped before the handler had ended"
                return failed(self._state, "WORKER_SHUTDOWN", message, retryable=True)
            case CancelReason.LEASE_LOST:
                return Lost("the lease is somebody else's")

    def _settle(self, outcome: Outcome) -> None:
        if self.known_outcome is None:
            self.known_outcome = outcome
            self._state.is_decided = True
            if self._state.trace is not None:
                self._state.trace.settled(outcome)
            if self._outcome_waiters:
                _wake(self._outcome_waiters)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait(self, waiters: list[asyncio.Future[None]]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        await waiter


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
