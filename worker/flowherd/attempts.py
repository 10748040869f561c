"""What this worker holds: each claimed activity from its claim to the engine's verdict; it never polls.

A record of the ledger follows each attempt, and is written before the handler starts. When the engine hands out an
activity that is held already there are four cases (protocol.md R11, faults.md E18):

    CLAIMED, RUNNING        adopt: go on under the newest worker_id
    REPORTING a success     adopt: deliver the same output under the newest worker_id
    REPORTING a failure     it has arrived: drop its delivery, run the new attempt
    ZOMBIE                  run the new attempt when the old handler has really ended
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import structlog

from flowherd.activity import Activity, Completed, Failed, Lost, Outcome
from flowherd.config import WorkerConfig
from flowherd.context import CancelReason
from flowherd.engine import Batch, Engine
from flowherd.errors import LedgerFull
from flowherd.ledger import JOURNAL_BYTES, Cell, RecordBook, Standing, State
from flowherd.reporter import Delivery, Reporter
from flowherd.runner import Run, Runner
from flowherd.slots import Slots

_SHUTDOWN = Failed("WORKER_SHUTDOWN", "the worker was stopped before the activity had ended", retryable=True)
_LAST_CHANCE_S = 0.2  # for handlers that end by themselves when they are told that the worker stops

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Attempt:
    """One claimed activity; `state` is what its record says."""

    activity: Activity
    index: int
    sequence: int
    lease_s: float
    state: State = State.CLAIMED
    run: Run | None = None
    outcome: Outcome | None = None
    carrier: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """The collaborators of `Attempts`."""

    engine: Engine
    book: RecordBook
    slots: Slots
    runner: Runner
    reporter: Reporter


class Attempts:
    """The table of what this worker holds.

    Args:
        acknowledged: called after each outcome that the engine has taken; the poller polls soon.
    """

    def __init__(self, config: WorkerConfig, tools: Tools, acknowledged: Callable[[], None]) -> None:
        self._config = config
        self._tools = tools
        self._acknowledged = acknowledged
        self._held: dict[str, Attempt] = {}
        self._zombies: dict[str, Attempt] = {}
        self._waiting: deque[Attempt] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._reporting = 0
        self.released = 0

    def __repr__(self) -> str:
        return f"<Attempts [{len(self._held)} held, {len(self._waiting)} waiting, {len(self._zombies)} zombies]>"

    @property
    def undelivered(self) -> tuple[str, ...]:
        """The activities whose outcome is known but not yet with the engine."""
        return tuple(id_ for id_, attempt in self._held.items() if attempt.state is State.REPORTING)

    @property
    def room(self) -> int:
        """How many more activities a poll may bring: free records, and none while deliveries pile up."""
        return 0 if self._reporting > 4 * self._tools.slots.limit else self._tools.book.free

    async def all_ended(self) -> None:
        """Returns when nothing is owed to the engine any more; zombies are not waited for."""
        await self._empty.wait()

    # Claims

    def accept(self, batch: Batch, permits: int) -> int:
        """Takes over what a poll brought, with `permits` slots taken for it; returns the permits left over."""
        for item in batch.undecodable:
            failure = Failed("INVALID_ACTIVITY", item.reason, retryable=False)
            self._spawn(self._report_only(item.activity_id, item.worker_id, failure))
        for activity in batch.activities:
            self._tools.book.berth.add(Cell.CLAIMED)
            if (held := self._held.get(activity.activity_id)) and self._adopt(held, activity):
                continue
            attempt = self._claim(activity)
            if attempt is None:
                continue
            if activity.activity_id in self._zombies:
                self._spawn(self._start_after(self._zombies[activity.activity_id], attempt))
            elif permits:
                permits -= 1
                self._start(attempt)
            else:
                self._waiting.append(attempt)
        return permits

    def start_waiting(self) -> None:
        """Starts what came without a slot, as slots get free."""
        while self._waiting and self._tools.slots.take(1):
            self._start(self._waiting.popleft())

    def _claim(self, activity: Activity) -> Attempt | None:
        lease_s = self._config.lease_s(activity.timeout_s)
        try:
            index, sequence = self._tools.book.claim(
                activity.activity_id, activity.worker_id, activity.name, now=time.monotonic(), lease_s=lease_s
            )
        except LedgerFull as error:
            failure = Failed("WORKER_OVERLOADED", f"no room for this activity: {error}", retryable=True)
            self._spawn(self._report_only(activity.activity_id, activity.worker_id, failure))
            return None
        attempt = self._held[activity.activity_id] = Attempt(activity, index, sequence, lease_s)
        self._empty.clear()
        return attempt

    def _adopt(self, held: Attempt, activity: Activity) -> bool:
        """Moves an attempt under the newest claim: a second record is written, then the first freed."""
        if isinstance(held.outcome, Failed):
            self._forget(held)
            if held.carrier is not None:
                held.carrier.cancel()
            return False
        book, old = self._tools.book, held.index
        started_at, limit_s = book.times(old)
        held.index, held.sequence = book.claim(
            activity.activity_id, activity.worker_id, activity.name, now=time.monotonic(), lease_s=held.lease_s
        )
        held.activity = replace(held.activity, worker_id=activity.worker_id)
        if held.state is State.RUNNING:
            book.running(held.index, now=started_at, limit_s=limit_s)
        elif isinstance(held.outcome, Completed):
            book.reporting(held.index, self._journal(held.activity.worker_id, held.outcome))
        book.clear(old)
        log.warning("activity_claimed_again", activity_id=activity.activity_id, state=held.state.name.lower())
        return True

    # The life of one attempt

    def _start(self, attempt: Attempt) -> None:
        attempt.carrier = self._spawn(self._carry(attempt))

    async def _start_after(self, zombie: Attempt, attempt: Attempt) -> None:
        assert zombie.run is not None
        await zombie.run.ended()
        self._waiting.append(attempt)
        self._acknowledged()

    async def _carry(self, attempt: Attempt) -> None:
        """Runs the handler in its slot and delivers what became of it."""
        run = attempt.run = self._tools.runner.start(attempt.activity)
        attempt.state = State.RUNNING
        self._tools.book.running(attempt.index, now=time.monotonic(), limit_s=run.limit_s)
        self._tools.book.berth.add(Cell.RUNNING)
        outcome = await run.outcome()
        await self._finish(attempt, run, outcome)

    async def _finish(self, attempt: Attempt, run: Run, outcome: Outcome) -> None:
        slot_free = run.has_ended
        if slot_free:
            self._free_slot()
        else:
            self._zombies[attempt.activity.activity_id] = attempt
            self._spawn(self._bury(attempt, run))
        if isinstance(outcome, Lost):
            self._count(Cell.LOST)
        else:
            await self._report(attempt, outcome)
        self._forget(attempt)
        if run.has_ended:
            self._clear(attempt)

    async def _report(self, attempt: Attempt, outcome: Completed | Failed) -> None:
        attempt.outcome, attempt.state = outcome, State.REPORTING
        worker_id = attempt.activity.worker_id
        kept = self._journal(worker_id, outcome) if isinstance(outcome, Completed) else None
        self._tools.book.reporting(attempt.index, kept)
        self._reporting += 1
        try:
            delivery = await self._tools.reporter.deliver(
                attempt.activity.activity_id, lambda: attempt.activity.worker_id, outcome
            )
        finally:
            self._reporting -= 1
        if delivery is Delivery.GONE:
            self._count(Cell.LOST)
        else:
            self._count(Cell.COMPLETED if isinstance(outcome, Completed) else Cell.FAILED)
        self._acknowledged()

    async def _bury(self, attempt: Attempt, run: Run) -> None:
        """Waits for a handler that outlived its outcome: only then its slot is free."""
        await run.ended()
        self._zombies.pop(attempt.activity.activity_id, None)
        self._free_slot()
        if attempt.state is State.ZOMBIE:
            self._clear(attempt)

    def _forget(self, attempt: Attempt) -> None:
        """Nothing is owed to the engine about it any more."""
        if self._held.get(attempt.activity.activity_id) is attempt:
            del self._held[attempt.activity.activity_id]
        if not self._held:
            self._empty.set()
        attempt.state = State.ZOMBIE
        self._tools.book.zombie(attempt.index)

    def _clear(self, attempt: Attempt) -> None:
        if attempt.state is not State.FREE:
            attempt.state = State.FREE
            self._tools.book.clear(attempt.index)

    def _free_slot(self) -> None:
        self._tools.book.berth.add(Cell.RUNNING, -1)
        self._tools.slots.give_back()

    def _count(self, cell: Cell) -> None:
        self._tools.book.berth.add(cell)

    def _journal(self, worker_id: str, outcome: Completed) -> bytes | None:
        if len(outcome.output) > JOURNAL_BYTES:
            return None
        return self._tools.engine.encode_completion(worker_id, outcome)

    async def _report_only(self, activity_id: str, worker_id: str, failure: Failed) -> None:
        """Says why an activity that never got a record cannot be run."""
        log.error("activity_not_run", activity_id=activity_id, code=failure.code, reason=failure.message)
        await self._tools.reporter.deliver(activity_id, lambda: worker_id, failure)
        self._count(Cell.FAILED)

    # Verdicts and the end

    def heed_verdicts(self) -> None:
        """Stops what the keeper has found to be somebody else's; nothing is reported about it."""
        berth = self._tools.book.berth
        for attempt in list(self._held.values()):
            if berth.standing(attempt.index, attempt.sequence) is not Standing.GONE:
                continue
            if attempt.state is State.RUNNING and attempt.run is not None:
                attempt.run.cancel(CancelReason.LEASE_LOST)
            elif attempt.state is State.CLAIMED and attempt in self._waiting:
                self._waiting.remove(attempt)
                self._forget(attempt)
                self._clear(attempt)
                self._count(Cell.LOST)

    async def release(self) -> None:
        """Gives back everything that has no outcome yet, as retryable WORKER_SHUTDOWN."""
        running = [a for a in self._held.values() if a.run is not None and a.outcome is None]
        for attempt in running:
            assert attempt.run is not None
            attempt.run.cancel(CancelReason.SHUTDOWN)
        while self._waiting:
            self._hand_back(self._waiting.popleft())
        if running:
            await asyncio.wait([a.carrier for a in running if a.carrier], timeout=_LAST_CHANCE_S)
        for attempt in running:
            if attempt.outcome is None and attempt.state is State.RUNNING and attempt.run is not None:
                assert attempt.carrier is not None
                attempt.carrier.cancel()
                self.released += 1
                attempt.carrier = self._spawn(self._finish(attempt, attempt.run, _SHUTDOWN))
            elif isinstance(attempt.outcome, Failed) and attempt.outcome.code == _SHUTDOWN.code:
                self.released += 1

    def _hand_back(self, attempt: Attempt) -> None:
        self.released += 1
        attempt.carrier = self._spawn(self._report_waiting(attempt))

    async def _report_waiting(self, attempt: Attempt) -> None:
        await self._report(attempt, _SHUTDOWN)
        self._forget(attempt)
        self._clear(attempt)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal_error", exc_info=error)
