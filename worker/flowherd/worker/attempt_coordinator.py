"""Connects the table of attempts with the poller's claims, the keeper's verdicts and the reporter's answers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from flowherd.activities_and_outcomes import Died, Failed
from flowherd.attempt_ids import AttemptIds
from flowherd.background import Changes
from flowherd.ledger import FINAL, Cell
from flowherd.ledger.states_and_cells import Claim
from flowherd.worker.activity_log import named, say
from flowherd.worker.admission import Admission
from flowherd.worker.adopter import Adopter
from flowherd.worker.attempt_table import AttemptTable
from flowherd.worker.attempt_table_types import Ending, Rules
from flowherd.worker.delivery import Delivered, Delivery
from flowherd.worker.ledger_records import LedgerRecords
from flowherd.worker.perform_commands import Performer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowherd.activities_and_outcomes import Result
    from flowherd.client.engine_protocol import Batch, Engine
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.ledger import RecordWriter, Segment
    from flowherd.ledger.crash_history import CrashHistory
    from flowherd.ledger.earlier_attempts import SeenRow
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.adopter import Adopted, Offers
    from flowherd.worker.attempt import Attempt
    from flowherd.worker.attempt_table_types import Reject, WakePoller
    from flowherd.worker.executor_choice import Executors
    from flowherd.worker.reporter import Reporter

_ACCEPTED = Delivered.ACCEPTED  # a module constant: an enum lookup per activity is slow
_LOST = Ending.LOST  # also after an internal error: the lease ends, and another worker runs the activity
_ENDINGS = dict.fromkeys(Delivered, _LOST) | dict.fromkeys(
    (Delivered.ACCEPTED, Delivered.LAST, Delivered.REPLACED, Delivered.UNDELIVERED), Ending.FAILED
)
_INSTEAD = {  # of the output
    Delivered.REPLACED: Failed(
        "INVALID_OUTPUT", "the engine refused the output: see output_refused in the log", retryable=False
    ),
    Delivered.UNDELIVERED: Failed(
        "NOT_DELIVERED",
        "the engine never took the output: see output_not_delivered in the log",
        retryable=True,
    ),
}

log = structlog.stdlib.get_logger(__name__)


class Attempts:
    """The table of attempts, connected to the ledger, the executors and the reporter.

    Args:
        config: the limits, leases and grace.
        engine: encodes completions.
        writer: this worker's records.
        executors: the executors of the handlers.
        reporter: delivers outcomes.
        meter: knows what blocks the loop, and which outcomes leave together.
        crash_history: the host's.
        segments: all of the host.
        acknowledged: called with the workflow of each attempt that the engine does not wait for any more.
        slots_changed: called when a slot may be free.
        seen: the number of times that the host has claimed each activity; None for a worker that is alone.
        offers: the keeper's offers to this worker; None for a worker without a keeper.

    """

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        writer: RecordWriter,
        executors: Executors,
        reporter: Reporter,
        meter: LoopMeter,
        crash_history: CrashHistory,
        segments: Iterable[Segment],
        acknowledged: Callable[[str], None],
        slots_changed: Callable[[], None],
        seen: SeenRow | None = None,
        offers: Offers | None = None,
    ) -> None:
        self._writer = writer
        self._reporter = reporter
        self._meter = meter
        self._acknowledged = acknowledged
        self._slots_changed = slots_changed
        self._clock = clock = _clock_of(asyncio.get_running_loop())
        self._records = records = LedgerRecords(writer, engine, clock, segments, seen)
        rules = Rules(
            cancel_grace_s=config.cancel_grace_s,
            default_lease_s=config.default_lease_s,
            suspects_at_once=config.suspects_at_once,
        )
        admission = Admission(rules, records, executors, meter, crash_history)
        self._table = AttemptTable(rules, records, admission, config.concurrency)
        self.slots = self._table.slots
        self._adopter = Adopter(offers, writer, engine, self._table, config.worker_type)
        self._performer = Performer(
            self._table,
            executors,
            self,
            clock=clock,
            log_completed=config.log_activities,
        )
        self._changes = Changes()
        self._posts: list[Attempt] = []
        meter.on_turn_end = self._turn_ended
        self._is_abandoned = False
        self._frozen_us = writer.segment.get(Cell.FROZEN_US)
        self._say_running = writer.segment.writer_of(Cell.RUNNING)
        self._say_held = writer.segment.writer_of(Cell.HELD)

    def __repr__(self) -> str:
        return repr(self._table).replace("AttemptTable", "Attempts")

    @property
    def undelivered(self) -> tuple[str, ...]:
        """The activities whose outcome is known but not delivered yet."""
        return tuple(one.id for one in self._table.owed() if one.is_reporting)

    @property
    def released(self) -> int:
        """Attempts that were requeued because the worker stops."""
        return self._table.released

    @property
    def room(self) -> int:
        """Activities that a poll may bring: what the keeper offers goes before what the engine has."""
        wanted = self._adopter.slots_wanted
        return self._table.room if not wanted else min(self._table.room, max(0, self.slots.free - wanted))

    async def all_ended(self) -> None:
        """Returns when nothing is owed to the engine any more; detached handlers are not waited for."""
        await self._changes.until(lambda: self._table.is_clear and not self._adopter.is_waiting)
        await self._reporter.calls_ended()

    # The poller and the supervisor

    def reserve(self, most: int) -> int:
        """Reserves up to `most` slots for a poll; returns their number."""
        taken = self.slots.reserve(most)
        self.changed()
        return taken

    def polled(self, reserved: int, batch: Batch, asked_at: float) -> None:
        """A poll has ended that had reserved so many slots, and was sent at `asked_at`."""
        self._records.begin_batch(batch.reply if batch.activities else b"")
        try:
            commands = self._table.polled(reserved, batch.activities, batch.undecodable, asked_at=asked_at)
        finally:
            self._records.end_batch()
        self._performer.perform(commands)
        self._take_offers()

    def resize(self, limit: int) -> None:
        """Sets the number of slots."""
        self._performer.perform(self._table.resized(limit))

    # The keeper

    def heed_verdicts(self) -> None:
        """Stops attempts whose lease the keeper found lost, closes those that it has settled, and hears of freezes."""
        segment = self._writer.segment
        known_us, self._frozen_us = self._frozen_us, segment.get(Cell.FROZEN_US)
        if self._frozen_us > known_us:
            self._table.stood_still((self._frozen_us - known_us) / 1e6)
        for attempt in self._table.owed():
            if segment.standing(attempt.index, attempt.sequence) not in FINAL:
                continue
            if attempt.claim is Claim.CRASHED:
                self._performer.perform(self._table.settled(attempt))
                self._acknowledged(attempt.activity.workflow_id)
            elif attempt.is_held:
                self._performer.lost(attempt)
                self._acknowledged(attempt.activity.workflow_id)
        if not self._is_abandoned:
            self._heed_offers()

    def _heed_offers(self) -> None:
        """Begins what it may adopt, and takes what is offered."""
        was_waiting = self._adopter.is_waiting
        for adopted in self._adopter.answered():
            if adopted is None:
                self._performer.perform(self._table.polled(1))
            else:
                self._go_on_with(adopted)
        self._take_offers()
        if was_waiting:
            self.changed()

    def _go_on_with(self, adopted: Adopted) -> None:
        one = adopted.activity
        who = AttemptIds(one.activity_id, one.workflow_id, one.key, one.name, self._records)
        log.info("activity_adopted", from_process=adopted.from_process, **named(who.fields()))
        self._records.begin_adopted(adopted.place)
        try:
            commands = self._table.polled(1, [one], asked_at=adopted.claimed_at)
        finally:
            self._records.end_batch()
        self._performer.perform(commands)

    def _take_offers(self) -> None:
        """Takes what is offered; no defect there, or in another process's memory, may cost this one its polls."""
        reserved = self.slots.reserved
        try:
            self._adopter.look()
        except Exception:
            log.exception("internal_error")
        if self.slots.reserved != reserved:
            self.changed()

    # The end

    async def release(self, last_chance_s: float, *, others_go_on: bool = False) -> None:
        """Requeues all attempts without an outcome, as WORKER_SHUTDOWN.

        Args:
            last_chance_s: seconds for handlers to end by themselves after they are cancelled.
            others_go_on: leaves what has not begun to other processes of the host, as far as they can read it.

        """
        for attempt in self._table.owed() if others_go_on else ():
            if self._records.may_be_adopted(attempt):
                self._performer.perform(self._table.leave(attempt))
        self._performer.perform(self._table.release(self._clock(), last_chance_s))
        await self._changes.until(lambda: not any(one.is_held for one in self._table.owed()))

    def abandon(self) -> None:
        """Ends all work, since time is up: each delivery ends with its current call; the keeper settles the rest."""
        self._is_abandoned = True
        for attempt in self._table.owed():
            if attempt.is_reporting:
                say(logging.ERROR, "outcome_undelivered", attempt.ids)
        self._table.abandon()
        self._performer.close()

    # Commands from the performer

    def wake(self, _: WakePoller) -> None:
        """See `Surroundings.wake`."""
        self._slots_changed()

    def changed(self) -> None:
        """See `Surroundings.changed`."""
        self._say_running(len(self.slots.attempts))
        self._say_held(self.slots.in_use)
        self._changes.note()

    def deliver(self, attempt: Attempt) -> None:
        """See `Surroundings.deliver`; outcomes of one turn of handlers are sent together."""
        if self._meter.is_in_turn:
            self._posts.append(attempt)
        else:
            self._post(attempt)

    def _turn_ended(self) -> None:
        """Sends all outcomes of a turn together, which wakes an idle engine only once."""
        posts, self._posts = self._posts, []
        for attempt in posts:
            try:
                self._post(attempt)
            except Exception as error:
                log.error("internal_error", exc_info=error, **named(attempt.ids))

    def _post(self, attempt: Attempt) -> None:
        outcome, activity = attempt.outcome, attempt.activity
        assert outcome is not None
        assert not isinstance(outcome, Died)
        self._reporter.deliver(
            Delivery(
                attempt.who,
                partial(self._worker_id, attempt),
                outcome,
                partial(self._delivered, attempt, outcome, time.monotonic()),
                activity.timeout_s,
                (activity.worker_id, attempt.kept),
                partial(self._lease_lives, attempt),
            )
        )

    def _worker_id(self, attempt: Attempt) -> str | None:
        return attempt.activity.worker_id if attempt.is_reporting and not self._is_abandoned else None

    def _lease_lives(self, attempt: Attempt) -> bool:
        """True when the engine has confirmed the lease, by a heartbeat, and it is not over."""
        confirmed_at = self._writer.segment.last_ok(attempt.index, attempt.sequence)
        return self._clock() - confirmed_at < attempt.lease_s

    def _delivered(self, attempt: Attempt, outcome: Result, began: float, end: Delivered) -> None:
        ending, told = _ENDINGS[end], outcome if isinstance(outcome, Failed) else None
        if told is None:
            ending = Ending.COMPLETED if end is _ACCEPTED else ending
            told = _INSTEAD.get(end)
        elif end is Delivered.LAST:
            told = replace(told, retryable=False)
        if attempt.outcome is outcome and attempt.is_reporting and not self._is_abandoned:
            self._records.reported(attempt.activity.name, time.monotonic() - began)
            self._performer.perform(self._table.delivered(attempt, ending, told))
        self._acknowledged(attempt.activity.workflow_id)

    def reject(self, command: Reject) -> None:
        """See `Surroundings.reject`."""
        failure, who = command.failure, command.who
        who.history = self._records
        self._performer.log.failed(who, failure, command.settings)
        self._records.not_completed(who.activity_id)
        self._writer.segment.add(Cell.CLAIMED)
        worker_id = command.worker_id
        self._reporter.deliver(
            Delivery(
                who,
                lambda: None if self._is_abandoned else worker_id,
                failure,
                partial(self._rejected, who),
            )
        )

    def _rejected(self, who: AttemptIds, _: Delivered) -> None:
        self._records.count(who.activity_name, Ending.FAILED)
        self._table.rejected()
        self._changes.note()
        self._acknowledged(who.workflow_id)


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Returns the loop's clock, which tests can set; with uvloop the monotonic clock, as its own stops in a step."""
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time
