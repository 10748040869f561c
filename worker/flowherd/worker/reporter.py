"""The reporter: delivers outcomes to the engine, with several senders that take them from one queue.

A call under way is never cancelled: the engine handles it with two writes, and omits the second when the connection
ends in between. A withdrawn delivery lets its current call end, and makes no other.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import structlog

from flowherd import crashpoints
from flowherd.activities_and_outcomes import Completed
from flowherd.background import Changes, Tasks
from flowherd.errors import EngineError
from flowherd.worker.activity_log import named
from flowherd.worker.delivery import Again, Delivered

if TYPE_CHECKING:
    from flowherd.client.circuit import Circuit
    from flowherd.client.engine_protocol import Answer, Engine
    from flowherd.worker.delivery import Delivery

SENDERS = 64

log = structlog.stdlib.get_logger(__name__)


class _Withdrawn(Exception):
    """The delivery has been withdrawn: it has no worker_id any more."""


class Reporter:
    """Sends `complete` and `fail` through the worker's circuit.

    A sender waits for a call and for the circuit, but never for the time of a retry: a delivery that failed for a
    reason of its own waits in a heap.

    Args:
        deadline_s: seconds for each try, plus the time for its bytes.
        limit_s: the limit of activities that have none of their own.
        senders: the most calls under way at once, at least two.
        most_large: the most of these calls with large bodies (faults.md N8).

    """

    def __init__(
        self,
        engine: Engine,
        circuit: Circuit,
        deadline_s: float,
        *,
        limit_s: float = 300.0,
        senders: int = SENDERS,
        most_large: int = 1,
    ) -> None:
        self._engine = engine
        self._circuit = circuit
        self._deadline_s = deadline_s
        self._limit_s = limit_s
        self._unstarted = max(senders, 2)
        self._large_left = min(most_large, self._unstarted - 1)
        self._queue: deque[Delivery] = deque()
        self._large: deque[Delivery] = deque()
        self._later: list[tuple[float, int, Delivery]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = count()
        self._resting: list[asyncio.Future[None]] = []
        self._rng = random.Random()
        self._under_way = 0
        self._is_closed = False
        self._changes = Changes()
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        waiting = len(self._queue) + len(self._large) + len(self._later)
        return f"<Reporter [{self._under_way} calls under way, {waiting} deliveries waiting]>"

    def deliver(self, delivery: Delivery) -> None:
        """Queues a delivery, which is tried until there is a verdict; never blocks, calls `delivery.on_done` later."""
        self._queue_of(delivery).append(delivery)
        self._wake()

    def hurry(self) -> None:
        """Retries all waiting deliveries now, for a drain that has no time to wait."""
        self._circuit.hurry()
        while self._later:
            self.deliver(heappop(self._later)[2])

    async def calls_ended(self) -> None:
        """Returns when no call is under way, so that connections can be closed."""
        await self._changes.until(lambda: not self._under_way)

    def close(self) -> None:
        """Makes no more tries; each sender ends after its current call."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._resting:
            self._wake()

    async def aclose(self) -> None:
        """Makes no more tries, and ends the calls under way, whose connections are closed."""
        self.close()
        await self._tasks.end()

    def _wake(self) -> None:
        """Wakes one more sender, or starts one."""
        while self._resting:
            resting = self._resting.pop()
            if not resting.done():
                resting.set_result(None)
                return
        if self._unstarted:
            self._unstarted -= 1
            self._tasks.spawn(self._send())

    def _queue_of(self, delivery: Delivery) -> deque[Delivery]:
        return self._large if delivery.is_large else self._queue

    async def _send(self) -> None:
        """Runs a sender."""
        while not self._is_closed:
            if self._large and self._large_left:
                if self._queue:
                    self._wake()
                self._large_left -= 1
                await self._try(self._large.popleft(), is_long=True)
                self._large_left += 1
            elif self._queue:
                await self._try(self._queue.popleft(), is_long=False)
            else:
                resting = self._loop.create_future()
                self._resting.append(resting)
                await resting

    async def _try(self, delivery: Delivery, *, is_long: bool) -> None:
        """Makes one try and handles its result; an internal error ends the delivery, never the sender."""
        done: Delivered | Again
        try:
            try:
                answer = await self._circuit.through(self._call, delivery, is_long=is_long)
                done = delivery.answered(answer)
            except EngineError as error:
                done = delivery.failed(error, self._loop.time(), self._limit_s)
            except _Withdrawn:
                done = Delivered.WITHDRAWN
        except Exception as error:
            log.error("internal_error", **named(delivery.who.fields()), exc_info=error)
            done = Delivered.WITHDRAWN  # else its attempt, and the drain, would wait without end
        if done is Again.LATER:
            self._put_off(delivery)
        elif done is Again.NOW:
            self._queue_of(delivery).appendleft(delivery)
        else:
            self._end(delivery, done)

    def _end(self, delivery: Delivery, done: Delivered) -> None:
        if done is not Delivered.WITHDRAWN:
            crashpoints.reached("after_report")
        try:
            delivery.on_done(done)
        except Exception as error:
            log.error("internal_error", **named(delivery.who.fields()), exc_info=error)

    async def _call(self, delivery: Delivery) -> Answer:
        """Calls the engine; reads the worker_id only after the circuit, since it may have been replaced meanwhile."""
        worker_id = delivery.worker_id()
        if worker_id is None:
            raise _Withdrawn
        body = delivery.body_for(worker_id, self._engine)
        call = self._engine.complete if isinstance(delivery.outcome, Completed) else self._engine.fail
        self._under_way += 1
        try:
            return await call(delivery.activity_id, body, self._deadline_s)
        except EngineError as error:
            error.is_of_the_call = delivery.is_to_blame(error, self._circuit.successes)
            raise
        finally:
            self._under_way -= 1
            self._changes.note()

    def _put_off(self, delivery: Delivery) -> None:
        """Schedules a later try of this delivery alone; the circuit stays closed for others."""
        now = self._loop.time()
        due_at = now + delivery.pause_s(self._rng, now)
        heappush(self._later, (due_at, next(self._numbers), delivery))
        if self._later[0][2] is delivery:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._later:
            self._timer = self._loop.call_at(self._later[0][0], self._time_passed)

    def _time_passed(self) -> None:
        now = self._loop.time()
        while self._later and self._later[0][0] <= now:
            self.deliver(heappop(self._later)[2])
        self._set_timer()
