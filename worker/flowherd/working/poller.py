"""Takes slots, polls, hands over what came; never more than one poll in flight, never one cancelled."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from flowherd.core.pacing import Pace, delay_s
from flowherd.errors import EngineError, ReplyTooLarge
from flowherd.ledger import Berth, Cell, Clock, Timing
from flowherd.process import crashpoints

if TYPE_CHECKING:
    from flowherd.client.gate import Gate
    from flowherd.config import WorkerConfig
    from flowherd.engine import Batch, Engine
    from flowherd.working.attempts import Attempts
    from flowherd.working.slots import Slots

_SLOWLY = 0.2  # weight of the newest poll in the fill ratio

log = structlog.stdlib.get_logger(__name__)


class Mode(Enum):
    """What the poller has been told."""

    POLLING = "polling"
    QUIET = "quiet"
    STOPPING = "stopping"


class _NotNow(Exception):
    """There is no reason to poll any more, now that the gate would allow it."""


class Poller:
    """Polls for one worker.

    Every poll has a worker_id of its own, `<worker-id>-<pid>-<nonce>-<n>`: the engine's only fence
    (protocol.md fact 8).

    Attributes:
        in_flight: the worker_id of the poll under way: claims made for it may be on their way.

    """

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        gate: Gate,
        *,
        slots: Slots,
        attempts: Attempts,
        berth: Berth,
    ) -> None:
        self._config = config
        self._engine = engine
        self._gate = gate
        self._slots = slots
        self._attempts = attempts
        self._berth = berth
        self._rng = random.Random()
        self._prefix = f"{config.worker_id}-{os.getpid()}-{secrets.token_hex(3)}"
        self._polls = 0
        self._most = config.poll_max
        self._pace = Pace(last_work_at=_now())
        self._due_at = 0.0
        self._mode = Mode.POLLING
        self._wake = asyncio.Event()
        self._turn: asyncio.Task[int] | None = None
        self.in_flight: str | None = None

    def __repr__(self) -> str:
        flight = f", {self.in_flight} in flight" if self.in_flight else ""
        return f"<Poller [{self._mode.value}, {self._polls} polls{flight}]>"

    def set_mode(self, mode: Mode) -> None:
        """Polls, pauses or ends; STOPPING is final. A poll that still waits for the gate is not made."""
        if self._mode is not Mode.STOPPING:
            self._mode = mode
        if self._mode is not Mode.POLLING and self._turn is not None and self.in_flight is None:
            self._turn.cancel()
        self._wake.set()

    def slots_changed(self) -> None:
        """A slot was freed or a limit raised: polls as soon as the pace allows."""
        self._wake.set()

    def acknowledged(self) -> None:
        """The engine has taken an outcome, which usually makes the next step ready: polls soon."""
        now = _now()
        self._pace = self._pace.after_completion(now)
        self._due_at = min(self._due_at, now + self._delay_s(now))
        self._wake.set()

    async def run(self) -> None:
        """Polls until told to stop; returns when no poll is in flight any more."""
        while await self._next_turn():
            found = await self._take_turn()
            now = _now()
            self._pace = self._pace.after_poll(found, now)
            self._due_at = now + self._delay_s(now)

    def _wanted(self) -> int:
        return min(self._slots.free, self._most, self._attempts.room)

    def _delay_s(self, now: float) -> float:
        config = self._config
        return delay_s(
            self._pace,
            interval_s=config.poll_interval_s,
            interval_max_s=config.poll_interval_max_s,
            now=now,
            rng=self._rng,
        )

    async def _next_turn(self) -> bool:
        """Waits until a poll is due and a slot is free; False when told to stop."""
        while self._mode is not Mode.STOPPING:
            self._wake.clear()
            wait_s = None
            if self._mode is Mode.POLLING and self._wanted() > 0:
                wait_s = self._due_at - _now()
                if wait_s <= 0:
                    return True
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
        return False

    async def _take_turn(self) -> int:
        """Polls when the gate lets it and returns how many activities came.

        It is a task of its own, so that a change of mode can call it back while it waits for the gate.
        """
        turn = self._turn = asyncio.get_running_loop().create_task(self._gate.through(self._poll))
        try:
            return await turn
        except (EngineError, _NotNow):
            return 0  # said where it happened, or by the gate
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if turn.cancelled() and current is not None and not current.cancelling():
                return 0  # called back by `set_mode`
            raise
        finally:
            self._turn = None

    async def _poll(self) -> int:
        """Slots first: what comes must be able to start at once (protocol.md R1)."""
        if self._mode is not Mode.POLLING or not self._wanted():
            raise _NotNow
        permits = self._slots.take(self._wanted())
        try:
            batch = await self._ask(permits)
            permits = self._attempts.accept(batch, permits)
        finally:
            self._slots.give_back(permits)
            self._attempts.start_waiting()
        return len(batch.activities)

    async def _ask(self, permits: int) -> Batch:
        self._polls += 1
        worker_id = self.in_flight = f"{self._prefix}-{self._polls}"
        started_at = time.monotonic()
        config = self._config
        crashpoints.reached("before_poll")
        try:
            batch = await self._engine.poll(config.worker_type, worker_id, permits, config.call_deadline_s)
        except EngineError as error:
            self._note_failure(error, worker_id, permits)
            raise
        finally:
            self.in_flight = None
        crashpoints.reached("after_poll")
        now = time.monotonic()
        self._berth.set_clock(Clock.LAST_GOOD_POLL, now)
        self._berth.set_clock(Clock.POLL_RTT_S, now - started_at)
        self._berth.add(Cell.POLLS)
        self._berth.count(Timing.POLL, now - started_at)
        self._note_fill(min(len(batch.activities) / permits, 1.0))
        if batch.activities:
            self._most = config.poll_max
        else:
            self._berth.add(Cell.EMPTY_POLLS)
        return batch

    def _note_fill(self, share: float) -> None:
        """How much more work there is than slots: what scaling by demand goes by."""
        fill = self._berth.clock(Clock.FILL)
        self._berth.set_clock(Clock.FILL, fill + _SLOWLY * (share - fill))

    def _note_failure(self, error: EngineError, worker_id: str, permits: int) -> None:
        """The gate tells of the outage; this tells what may have been claimed in it (faults.md E2, E15)."""
        self._berth.add(Cell.POLL_ERRORS)
        self._berth.set_clock(Clock.LAST_BAD_POLL, time.monotonic())
        if isinstance(error, ReplyTooLarge):
            self._most = 1  # until one fits
        if error.in_doubt:
            log.warning(
                "poll_in_doubt",
                worker_id=worker_id,
                asked_for=permits,
                reason=str(error),
                note="what it may have claimed is handed out again when the leases end",
            )


def _now() -> float:
    return asyncio.get_running_loop().time()
