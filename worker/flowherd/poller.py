"""Takes slots, polls, hands over what came; never more than one poll in flight, and never one that is cancelled."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from enum import Enum

import structlog

from flowherd.attempts import Attempts
from flowherd.config import WorkerConfig
from flowherd.core.pacing import Pace, delay_s
from flowherd.engine import Batch, Engine
from flowherd.errors import EngineError
from flowherd.gate import Gate
from flowherd.ledger import Berth, Cell, Clock
from flowherd.slots import Slots

log = structlog.stdlib.get_logger(__name__)


class Mode(Enum):
    """What the poller has been told."""

    POLLING = "polling"
    QUIET = "quiet"
    STOPPING = "stopping"


class Poller:
    """Polls for one worker.

    Every poll has a worker_id of its own, `<worker-id>-<pid>-<nonce>-<n>`: the engine's only fence (protocol.md fact 8).
    """

    def __init__(
        self, config: WorkerConfig, engine: Engine, gate: Gate, slots: Slots, attempts: Attempts, berth: Berth
    ) -> None:
        self._config = config
        self._engine = engine
        self._gate = gate
        self._slots = slots
        self._attempts = attempts
        self._berth = berth
        self._rng = random.Random()  # noqa: S311 - jitter, no secret
        self._prefix = f"{config.worker_id}-{os.getpid()}-{secrets.token_hex(3)}"
        self._polls = 0
        self._pace = Pace(last_work_at=time.monotonic())
        self._due_at = 0.0
        self._mode = Mode.POLLING
        self._wake = asyncio.Event()
        self.in_flight: str | None = None

    def set_mode(self, mode: Mode) -> None:
        """Polls, pauses or ends; STOPPING is final."""
        if self._mode is not Mode.STOPPING:
            self._mode = mode
        self._wake.set()

    def slots_changed(self) -> None:
        """A slot was freed or a limit raised: polls as soon as the pace allows."""
        self._wake.set()

    def acknowledged(self) -> None:
        """The engine has taken an outcome, which usually makes the next step ready: polls soon."""
        now = time.monotonic()
        self._pace = self._pace.after_completion(now)
        self._due_at = min(self._due_at, now + self._delay_s(now))
        self._wake.set()

    async def run(self) -> None:
        """Polls until told to stop; returns when no poll is in flight any more."""
        while await self._next_turn():
            permits = self._slots.take(self._wanted())
            found = 0
            try:
                batch = await self._poll(permits)
                found = len(batch.activities)
                permits = self._attempts.accept(batch, permits)
            except EngineError as error:
                self._berth.add(Cell.POLL_ERRORS)
                log.debug("poll_failed", reason=str(error))
            finally:
                self._slots.give_back(permits)
            now = time.monotonic()
            self._pace = self._pace.after_poll(found, now)
            self._due_at = now + self._delay_s(now)

    def _wanted(self) -> int:
        return min(self._slots.free, self._config.poll_max, self._attempts.room)

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
            self._attempts.start_waiting()
            wait_s = None
            if self._mode is Mode.POLLING and self._wanted() > 0:
                wait_s = self._due_at - time.monotonic()
                if wait_s <= 0:
                    return True
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
        return False

    async def _poll(self, permits: int) -> Batch:
        self._polls += 1
        worker_id = self.in_flight = f"{self._prefix}-{self._polls}"
        started_at = time.monotonic()
        batch = await self._gate.through(
            lambda: self._engine.poll(self._config.worker_type, worker_id, permits, self._config.call_deadline_s)
        )
        self.in_flight = None
        now = time.monotonic()
        self._berth.set_clock(Clock.LAST_GOOD_POLL, now)
        self._berth.set_clock(Clock.POLL_RTT_S, now - started_at)
        self._berth.add(Cell.POLLS)
        if not batch.activities:
            self._berth.add(Cell.EMPTY_POLLS)
        return batch
