"""What this worker holds: each claimed activity from its claim to the engine's verdict; it never polls.

A record of the ledger follows each attempt, and is written before the handler starts. When the engine hands
out an activity that is held already there are five cases (protocol.md R11, faults.md E18):

    CLAIMED, RUNNING        adopt: go on under the newest worker_id
    REPORTING a success     adopt: deliver the same output under the newest worker_id
    REPORTING a failure     it has arrived: withdraw its delivery, run the new attempt
    CRASHED                    its failure is on its way: run the new attempt
    DETACHED                  run the new attempt when the old handler has really ended
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from flowherd.errors import LedgerFull
from flowherd.ledger import FINAL, Cell, State
from flowherd.model import Activity, Completed, Died, Failed, Lost
from flowherd.running.run import Phase
from flowherd.sdk.context import CancelReason
from flowherd.working.admission import Admission
from flowherd.working.attempt import SHUTDOWN, Attempt, Tools, claim, shutdown_of
from flowherd.working.changes import Changes
from flowherd.working.deliveries import Deliveries
from flowherd.working.excuses import Excuses
from flowherd.working.occupancy import Occupancy

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.client.protocol import Batch
    from flowherd.model import Outcome
    from flowherd.running.run import Run
    from flowherd.settings.worker_config import WorkerConfig

# Looking a member up in its enum costs as much as what is done with it.
_WAITING, _RUNNING, _DETACHED, _CLAIMED = Phase.WAITING, State.RUNNING, State.DETACHED, Cell.CLAIMED

log = structlog.stdlib.get_logger(__name__)


class Attempts:
    """The table of what this worker holds.

    Args:
        config: leases.
        tools: the collaborators.
        acknowledged: called after each outcome that the engine has taken, and when there is room again.

    """

    def __init__(self, config: WorkerConfig, tools: Tools, acknowledged: Callable[[], None]) -> None:
        self._config = config
        self._tools = tools
        self._writer = tools.writer
        self._acknowledged = acknowledged
        self._held: dict[str, Attempt] = {}
        self._waiting: dict[str, Attempt] = {}
        self._occupancy = Occupancy(tools, self._vacated)
        self._changes = Changes()
        self._excuses = Excuses(tools.reporter, tools.writer.segment, self._changes.note)
        self._deliveries = Deliveries(tools, self._forget, acknowledged)
        self._admission = Admission(tools, self._held, self._waiting, self._occupancy)
        self._is_releasing = False
        self.released = 0

    def __repr__(self) -> str:
        detached = len(self._occupancy.detached)
        return f"<Attempts [{len(self._held)} held, {len(self._waiting)} waiting, {detached} detached]>"

    @property
    def undelivered(self) -> tuple[str, ...]:
        """The activities whose outcome is known but not yet with the engine."""
        return tuple(id_ for id_, attempt in self._held.items() if attempt.state is State.REPORTING)

    @property
    def room(self) -> int:
        """How many more activities a poll may bring: none while deliveries pile up."""
        if self._deliveries.under_way >= 4 * self._tools.slots.limit:
            return 0
        return min(self._writer.free, self._admission.room)

    async def all_ended(self) -> None:
        """Returns when nothing is owed to the engine any more; detached are not waited for."""
        await self._changes.until(lambda: not self._held and not self._excuses.owed)
        await self._tools.reporter.calls_ended()

    def accept(self, batch: Batch, permits: int, asked_at: float) -> int:
        """Takes over what a poll of then brought; of the `permits` taken for it, returns those left over."""
        for item in batch.undecodable:
            failure = Failed("INVALID_ACTIVITY", item.reason, retryable=False)
            self._writer.segment.add(Cell.CLAIMED)
            self._excuses.give(item.activity_id, item.worker_id, failure)
        tools, lease_s = self._tools, self._config.lease_s
        for activity in self._admission.in_order(batch.activities):
            if (held := self._held.get(activity.activity_id)) and self._adopt(held, activity, asked_at):
                continue
            self._writer.segment.add(_CLAIMED)
            try:
                attempt = claim(activity, tools, lease_s(activity.timeout_s), asked_at)
            except LedgerFull as error:
                self._refuse(activity, error)
                continue
            self._held[attempt.id] = attempt
            if self._is_releasing:
                self._hand_back(attempt)
            elif permits and self._admission.enter(attempt):
                permits -= 1
                self._start(attempt)
            else:
                self._waiting[activity.activity_id] = attempt
                if patience_s := self._admission.patience_s(attempt):
                    asyncio.get_running_loop().call_later(patience_s, self._lose_patience, attempt)
        return permits

    def start_waiting(self) -> None:
        """Starts what came without a slot, in order, as far as slots are free."""
        if not self._waiting or not self._tools.slots.free:
            return
        for attempt in list(self._waiting.values()):
            if not self._tools.slots.free:
                return
            if self._admission.enter(attempt):
                self._tools.slots.take(1)
                del self._waiting[attempt.id]
                self._start(attempt)

    def _lose_patience(self, attempt: Attempt) -> None:
        attempt.is_patient = False
        self.start_waiting()

    def _refuse(self, activity: Activity, error: LedgerFull) -> None:
        failure = Failed("WORKER_OVERLOADED", f"no room for this activity: {error}", retryable=True)
        self._excuses.give(activity.activity_id, activity.worker_id, failure)

    def _adopt(self, held: Attempt, activity: Activity, asked_at: float) -> bool:
        """Moves an attempt under the newest claim; False when a new attempt has to run."""
        if held.activity.worker_id == activity.worker_id:
            return True  # twice in one poll
        if isinstance(held.outcome, Failed) or held.state is State.CRASHED:
            self._writer.segment.add(Cell.FAILED)
            self._forget(held)
            return False
        held.move(activity.worker_id, self._tools.engine, asked_at)
        log.warning("activity_claimed_again", activity_id=activity.activity_id, state=held.state.name.lower())
        return True

    def _start(self, attempt: Attempt) -> None:
        is_apart = attempt.is_apart
        run = self._tools.runner.start(attempt.activity, attempt, apart=is_apart)
        attempt.run, attempt.state = run, _RUNNING
        run.tag = attempt.index + 1
        if attempt.is_alone:
            log.warning("suspect_runs_alone", activity_id=attempt.id, name=attempt.activity.name)
        elif is_apart:
            log.warning("suspect_runs_in_isolate", activity_id=attempt.id, name=attempt.activity.name)
        self._occupancy.enter()
        if run.phase is _WAITING:  # for its turn, or another of its kind: its limit has not begun then
            run.on_begin = partial(self._note_begin, attempt, run)
        else:
            self._note_begin(attempt, run)
        run.when_decided(partial(self._decided, attempt, run))

    def _note_begin(self, attempt: Attempt, run: Run) -> None:
        """The limit begins, and with it what the hang rule counts."""
        if attempt.state is _RUNNING:
            apart = self._tools.runner.runs_apart(run)
            self._writer.running(attempt.index, now=time.monotonic(), limit_s=run.limit_s, apart=apart)

    def _decided(self, attempt: Attempt, run: Run) -> None:
        """Frees the slot and delivers what became of it; nobody else would hear of what goes wrong here."""
        if attempt.state is not _RUNNING:
            return  # it has been given back
        try:
            self._settle(attempt, run, run.known_outcome)
        except Exception as error:
            log.error("internal_error", exc_info=error)

    def _settle(self, attempt: Attempt, run: Run, outcome: Outcome | None) -> None:
        self._writer.ran(attempt.index, time.monotonic())
        if isinstance(outcome, Completed | Failed):
            self._occupancy.leave(attempt, run)
            self._deliveries.post(attempt, outcome)
        elif isinstance(outcome, Died):
            self._occupancy.leave(attempt, run)
            attempt.state = State.CRASHED
            self._writer.crashed(attempt.index, outcome.how)
            self._changes.note()
        else:
            self._lose(attempt)

    def _vacated(self, attempt: Attempt) -> None:
        if attempt.state is _DETACHED:
            attempt.clear()
        if attempt.is_alone:
            self._admission.leave(attempt)
        if self._waiting:
            self.start_waiting()

    def _forget(self, attempt: Attempt) -> None:
        """Nothing is owed to the engine about it any more."""
        if self._held.get(attempt.id) is attempt:
            del self._held[attempt.id]
        self._waiting.pop(attempt.id, None)
        if attempt.run is None or attempt.run.has_ended:
            attempt.clear()
        else:  # until its handler has ended
            attempt.state = _DETACHED
            self._writer.detached(attempt.index)
        self._changes.note()

    def _lose(self, attempt: Attempt) -> None:
        """It is somebody else's: nothing is reported, and its slot is free when the handler has ended."""
        if attempt.is_owed:
            self._writer.segment.add(Cell.LOST)
            if attempt.run is not None:
                self._occupancy.leave(attempt, attempt.run)
            self._forget(attempt)
            self._acknowledged()

    def heed_verdicts(self) -> None:
        """Stops what the keeper has found to be somebody else's, and lets go of what it has settled."""
        segment = self._writer.segment
        for attempt in list(self._held.values()):
            if segment.standing(attempt.index, attempt.sequence) not in FINAL:
                continue
            if attempt.state is State.RUNNING and attempt.run is not None:
                attempt.run.cancel(CancelReason.LEASE_LOST)
                if isinstance(attempt.run.known_outcome, Lost):
                    self._lose(attempt)
            elif attempt.state is State.CLAIMED:
                self._lose(attempt)
            elif attempt.state is State.CRASHED:
                self._writer.segment.add(Cell.FAILED)
                self._forget(attempt)
                self._acknowledged()

    async def release(self, last_chance_s: float) -> None:
        """Gives back everything that has no outcome yet, as retryable WORKER_SHUTDOWN.

        Args:
            last_chance_s: for handlers that end by themselves when they are told that the worker stops.

        """
        self._is_releasing = True
        for waiting in list(self._waiting.values()):
            self._hand_back(waiting)
        running = [attempt for attempt in self._held.values() if attempt.state is State.RUNNING]
        for attempt in running:
            assert attempt.run is not None
            attempt.run.cancel(CancelReason.SHUTDOWN)
        with contextlib.suppress(TimeoutError):  # what has not ended by then is given back
            async with asyncio.timeout(last_chance_s):
                await self._changes.until(lambda: not any(attempt.is_busy for attempt in running))
        for attempt in running:
            self._give_up(attempt)

    def _give_up(self, attempt: Attempt) -> None:
        """Counts what has ended by itself as given back, and gives back what has not."""
        assert attempt.run is not None
        known = attempt.run.known_outcome
        if isinstance(known, Failed) and known.code == SHUTDOWN:
            self.released += 1
        if attempt.state is not State.RUNNING or known is not None:
            return
        self._occupancy.leave(attempt, attempt.run)
        self._hand_back(attempt)

    def _hand_back(self, attempt: Attempt) -> None:
        self.released += 1
        self._waiting.pop(attempt.id, None)
        self._deliveries.post(attempt, shutdown_of(attempt))

    def abandon(self) -> None:
        """Time is up: deliveries end with their present call. The records stay, for the keeper to settle."""
        self._deliveries.abandon()
        self._excuses.abandon()
