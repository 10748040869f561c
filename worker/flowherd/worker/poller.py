"""The poller: reserves slots, polls, and passes on the claimed activities; one poll at a time, never cancelled."""

from __future__ import annotations

import asyncio
import math
import os
import random
import secrets
import time
from enum import Enum
from typing import TYPE_CHECKING, Any

import structlog

from flowherd import crashpoints
from flowherd.client.engine_protocol import Batch
from flowherd.errors import EngineError, ReplyTooLarge
from flowherd.ledger import Cell, Clock, Timing
from flowherd.own_tasks import OwnTask
from flowherd.thread_time import busy_s
from flowherd.worker.poll_policy import PollPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowherd.client.circuit import Circuit
    from flowherd.client.engine_protocol import Engine
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.ledger import Segment
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.attempt_coordinator import Attempts
    from flowherd.worker.sibling_processes import Siblings

_SLOWLY = 0.2  # weight of the newest poll in the fill ratio
_LOOKS_AGAIN_S = 0.1  # between checks while polls have to wait
_NEVER = 1 << 62  # more slots than can exist
_NOTHING = Batch()

log = structlog.stdlib.get_logger(__name__)


class PollMode(Enum):
    """The current mode of the poller."""

    POLLING = "polling"
    QUIET = "quiet"
    STOPPING = "stopping"


class _NoReasonToPoll(Exception):
    """There is no longer a reason to poll, now that the circuit allows it."""


class Poller:
    """Polls for one worker.

    Every poll has a unique worker_id, `<worker-id>-<pid>-<nonce>-<n>`, the engine's only fencing token (protocol.md
    fact 8).

    Args:
        config: the intervals, and the largest size of a poll.
        engine: the client.
        segment: this worker's segment.
        meter: tells which activities are light.
        circuit: the circuit for calls to the engine.
        attempts: receives the claimed activities.
        siblings: the host's other processes.
        claimed: called after each poll that brought work, once the ledger has it, with the shortest lease in seconds.
        polls_wait: True when a poll could take what another process of the host still holds (faults.md N6).

    Attributes:
        in_flight: the worker_id of the poll under way, None for none; its claims may be on their way.

    """

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        segment: Segment,
        meter: LoopMeter,
        circuit: Circuit,
        attempts: Attempts,
        siblings: Siblings,
        claimed: Callable[[float], None],
        polls_wait: Callable[[], bool],
    ) -> None:
        self._config = config
        self._engine = engine
        self._circuit = circuit
        self._slots = attempts.slots
        self._attempts = attempts
        self._claimed = claimed
        self._polls_wait = polls_wait
        self._loop = asyncio.get_running_loop()
        self._policy = PollPolicy(config, siblings, self._loop.time(), random.Random(), busy_s)
        self._meter = meter
        self._segment = segment
        self._prefix = f"{config.worker_id}-{os.getpid()}-{secrets.token_hex(3)}"
        self._polls = 0
        self._mode = PollMode.POLLING
        self._sleep: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_when_free = 0
        self._turn: OwnTask[None] | None = None
        self._is_doubt_logged = False  # since the last answer
        self.in_flight: str | None = None

    def __repr__(self) -> str:
        flight = f", {self.in_flight} in flight" if self.in_flight else ""
        return f"<Poller [{self._mode.value}, {self._polls} polls{flight}]>"

    def set_mode(self, mode: PollMode) -> None:
        """Sets the mode; STOPPING is final. Withdraws a poll that still waits for the circuit."""
        if self._mode is not PollMode.STOPPING:
            self._mode = mode
        if self._mode is not PollMode.POLLING and self._turn is not None and self.in_flight is None:
            self._turn.end()
        self._wake()

    def slots_changed(self) -> None:
        """Wakes the poller when enough slots are free; called when a slot was freed or the limit raised."""
        if self._sleep is not None and self._slots.free >= self._wakes_when_free:
            self._wake()

    def acknowledged(self, workflow_id: str) -> None:
        """The engine has taken an outcome, which usually makes the workflow's next activity ready: polls soon."""
        at = self._policy.acknowledged(workflow_id, self._loop.time())
        if self._timer is None:
            self._wake()
        elif at is not None:
            self._timer.cancel()
            self._timer = self._loop.call_at(at, self._wake)

    def called(self) -> None:
        """Polls at once, because a sibling has more work than it can start soon, or leaves its turn to this process."""
        self._policy.called()
        self._wake()

    async def run(self) -> None:
        """Polls until the mode is STOPPING; returns when no poll is in flight."""
        while self._mode is not PollMode.STOPPING:
            if self._mode is PollMode.QUIET:
                self._policy.pause()
                await self._wait(math.inf, when_free=_NEVER)
                continue
            now, most = self._loop.time(), self._policy.most
            wanted = self._wanted(most)
            if not wanted:
                await self._wait(self._policy.full(now), when_free=1)
                continue
            worthwhile = -(-min(self._slots.limit, most) // 2)
            at = self._policy.next_at(now, is_roomy=wanted >= worthwhile)
            if at > now:
                await self._wait(at, when_free=worthwhile if self._policy.is_hungry else _NEVER)
            elif self._polls_wait():
                self._policy.pause()
                await self._wait(now + _LOOKS_AGAIN_S, when_free=_NEVER)
            else:
                await self._take_turn(wanted)
        self._policy.pause()

    async def _wait(self, until: float, *, when_free: int) -> None:
        """Sleeps until the time `until`, until `when_free` slots are free, or until woken."""
        loop = self._loop
        self._sleep, self._wakes_when_free = loop.create_future(), when_free
        if until < math.inf:
            self._timer = loop.call_at(until, self._wake)
        try:
            await self._sleep
        finally:
            self._sleep = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wake(self) -> None:
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def _wanted(self, most: int) -> int:
        return min(self._slots.free, most, self._attempts.room)

    async def _take_turn(self, wanted: int) -> None:
        """Polls when the circuit lets it pass, one iteration of the loop later when attempts hold slots.

        New handlers then take their first step before the poll: if one crashes the process, no claims are on their way.
        """
        began_at = self._loop.time()
        is_at_once = not self._slots.held
        try:
            if not is_at_once:
                await asyncio.sleep(0)
            if self._circuit.failures:
                self._policy.pause()
                await self._revocable(self._circuit.through(self._poll_if_wanted))
            elif is_at_once:
                await self._circuit.through(self._poll, wanted)
            else:
                await self._circuit.through(self._poll_if_wanted)
        except EngineError:  # already logged where it happened, or by the circuit
            self._policy.failed(began_at)
        except _NoReasonToPoll:
            return

    async def _revocable(self, turn: Coroutine[Any, Any, None]) -> None:
        """Runs `turn` as a task, so that a change of mode can cancel it while it waits for the circuit."""
        task = self._turn = OwnTask(turn)
        try:
            await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not task.cancelled() or current is None or current.cancelling():
                raise  # otherwise `set_mode` has cancelled it
        finally:
            self._turn = None

    async def _poll_if_wanted(self) -> None:
        wanted = self._wanted(self._policy.most)
        if self._mode is not PollMode.POLLING or not wanted or self._polls_wait():
            raise _NoReasonToPoll
        await self._poll(wanted)

    async def _poll(self, wanted: int) -> None:
        """Reserves slots before the poll, so that claimed activities can start at once (protocol.md R1)."""
        began_at = self._loop.time()
        asked, batch = self._attempts.reserve(self._policy.share_of(wanted, began_at)), _NOTHING
        try:
            batch = await self._ask(asked, began_at)
        finally:
            self._attempts.polled(asked, batch, began_at)
        found = len(batch.activities) + len(batch.undecodable)
        if batch.activities:
            self._claimed(min(self._config.lease_s(one.timeout_s) for one in batch.activities))
        self._note_fill(min(len(batch.activities) / wanted, 1.0))
        self._policy.found(
            asked,
            found,
            began_at=began_at,
            now=self._loop.time(),
            is_light=not found or all(map(self._meter.is_light, {one.name for one in batch.activities})),
            workflow_ids=[one.workflow_id for one in batch.activities],
        )

    async def _ask(self, permits: int, began_at: float) -> Batch:
        self._polls += 1
        worker_id = self.in_flight = f"{self._prefix}-{self._polls}"
        self._policy.began(began_at)
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
        self._is_doubt_logged = False
        now = time.monotonic()
        self._segment.set_clock(Clock.LAST_GOOD_POLL, now)
        self._segment.set_clock(Clock.POLL_RTT_S, now - started_at)
        self._segment.add(Cell.POLLS)
        self._segment.count(Timing.POLL, now - started_at)
        if not batch.activities:
            self._segment.add(Cell.EMPTY_POLLS)
        return batch

    def _note_fill(self, share: float) -> None:
        """Updates the share of free slots that polls fill, a measure of demand for scaling."""
        fill = self._segment.clock(Clock.FILL)
        self._segment.set_clock(Clock.FILL, fill + _SLOWLY * (share - fill))

    def _note_failure(self, error: EngineError, worker_id: str, permits: int) -> None:
        """Counts a failed poll, and logs if it may have claimed activities, as a warning once an outage (E2, E15)."""
        self._segment.add(Cell.POLL_ERRORS)
        self._segment.set_clock(Clock.LAST_BAD_POLL, time.monotonic())
        if isinstance(error, ReplyTooLarge):
            self._policy.too_large()
        if error.in_doubt:
            about = {
                "worker_id": worker_id,
                "asked_for": permits,
                "reason": str(error),
                "note": "what it may have claimed is handed out again when the leases end",
            }
            if self._is_doubt_logged:
                log.debug("poll_in_doubt", **about)
            else:
                log.warning("poll_in_doubt", **about)
            self._is_doubt_logged = True
