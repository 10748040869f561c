"""The table of a worker's attempts: facts in, commands out; no asyncio, no time, no I/O (law test).

Facts are methods named for an event; each returns the commands that follow. `next_deadline` is the next time at which
something may change by itself. One activity may have a detached attempt, whose handler has not ended, and a held one.

When the engine hands out an activity that is already held, the state pair decides (protocol.md R11, faults.md E18):

    claim HELD                     adopt: go on under the newest worker_id
    claim REPORTING, a success     adopt: deliver the same output under the newest worker_id
    claim REPORTING, a failure     it has arrived: withdraw its delivery, run the new attempt
    claim CRASHED                  its failure is being reported: run the new attempt
    claim CLOSED                   run the new attempt when the old handler has ended
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from flowherd.activities_and_outcomes import Completed, Died, Failed
from flowherd.attempt_ids import AttemptIds
from flowherd.ledger.states_and_cells import Claim
from flowherd.sdk.run_state import CancelReason
from flowherd.worker.attempt import ADMITTED, DETACHED, RUNNING, SHUTDOWN
from flowherd.worker.attempt_table_types import (
    Deliver,
    Ending,
    Reject,
    Start,
    Stop,
    WakePoller,
    WarnNotBegun,
    Withdraw,
)
from flowherd.worker.backlog import Backlog
from flowherd.worker.slots import Slots
from flowherd.worker.time_limits import TimeLimits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowherd.activities_and_outcomes import Activity
    from flowherd.client.engine_protocol import Undecodable
    from flowherd.worker.admission import Admission
    from flowherd.worker.attempt import Attempt
    from flowherd.worker.attempt_table_types import Command, Records, Rules

NOT_BEGUN = "the worker was stopped before the activity had begun"
_UNDELIVERED_A_SLOT = 4  # with more undelivered outcomes per slot, no more activities are claimed
_WAKE = WakePoller()


class AttemptTable:
    """The attempts of one worker.

    Args:
        rules: the rules for all attempts.
        records: the attempts' records in the ledger.
        admission: creates attempts from claimed activities, and decides which may start.
        limit: the number of slots.

    Attributes:
        slots: the worker's slots; a poll reserves some before it is sent.
        backlog: the attempts that have not begun.
        released: the number of attempts requeued because the worker stops.
        dropped: the number of successes that came after their outcome was decided.

    """

    def __init__(self, rules: Rules, records: Records, admission: Admission, limit: int) -> None:
        self._records = records
        self._admission = admission
        self._owed: dict[str, Attempt] = {}
        self.slots = Slots(limit)
        self.backlog = Backlog(admission, self.slots, rules.warn_after_s)
        self._rejecting = self._delivering = 0
        self._is_releasing = self._is_abandoned = False
        self._commands: list[Command] = []
        self._time_limits = TimeLimits(rules.cancel_grace_s)
        self.released = self.dropped = 0

    def __repr__(self) -> str:
        return f"<AttemptTable [{len(self._owed)} owed, {self.slots!r}, {self.backlog!r}]>"

    @property
    def room(self) -> int:
        """The number of activities that a poll may bring."""
        if self._delivering + self._rejecting >= _UNDELIVERED_A_SLOT * self.slots.limit:
            return 0
        return self._admission.room(self.backlog.crowd)

    def resized(self, limit: int) -> list[Command]:
        """The number of slots has changed; claimed attempts keep the slots they need."""
        self.slots.resize(limit)
        self._commands.append(_WAKE)
        self._admit()
        return self._given()

    @property
    def next_deadline(self) -> float:
        """The next time at which something may change by itself, in monotonic seconds; never too late."""
        return self._time_limits.next_deadline

    @property
    def is_clear(self) -> bool:
        """True when no report is owed to the engine; detached handlers do not count."""
        return not self._owed and not self._rejecting

    def owed(self) -> list[Attempt]:
        """Returns the attempts whose claim is not CLOSED."""
        return list(self._owed.values())

    def polled(
        self,
        reserved: int,
        activities: Sequence[Activity] = (),
        undecodable: Sequence[Undecodable] = (),
        *,
        asked_at: float = 0.0,
    ) -> list[Command]:
        """A poll with `reserved` slots has ended; its leases count from `asked_at`, when it was sent."""
        self.slots.give_back(reserved)
        for item in undecodable:
            self._reject(item, Failed("INVALID_ACTIVITY", item.reason, retryable=False), {})
        for activity in self._admission.order(activities) if activities else ():
            owed = self._owed.get(activity.activity_id)
            if owed is None or not self._claimed_again(owed, activity, asked_at):
                self._claim(activity, asked_at)
        self._admit()
        return self._given()

    def begin(self, attempt: Attempt, now: float) -> bool:
        """The handler is about to take its first step; returns False when it must not, since its claim has ended."""
        if attempt.pair != ADMITTED or self._is_abandoned:
            return False
        attempt.begin(now)
        self.backlog.begun(attempt)
        self._records.follow(attempt)
        self._time_limits.look_at(attempt.due_at)
        return True

    def waits_for_permit(self, attempt: Attempt) -> None:
        """Notes that an attempt has a slot, while others of its name have all permits (`max_concurrent`)."""
        self.backlog.waits_for_permit(attempt)

    def finished(self, attempt: Attempt, outcome: Completed | Failed | Died) -> list[Command]:
        """The handler has ended, or cannot begin; ignored for an attempt that is over."""
        if attempt not in self.slots.attempts or self._is_abandoned:
            return []
        is_success = isinstance(outcome, Completed)
        self.dropped += is_success and attempt.cancel_reason is not None
        if not attempt.is_held:
            attempt.end()
        elif isinstance(outcome, Died) and attempt.cancel_reason is None:
            attempt.crash(outcome)
        else:
            self.released += attempt.cancel_reason is CancelReason.SHUTDOWN
            self._report(attempt, attempt.decided(outcome))
        self._records.follow(attempt)
        self._leave(attempt)
        self._admit()
        return self._given()

    def delivered(self, attempt: Attempt, ending: Ending, told: Failed | None = None) -> list[Command]:
        """The delivery has ended; ignored for a withdrawn one. `told` is the failure that was delivered, if any."""
        if not attempt.is_reporting or self._is_abandoned:
            return []
        attempt.acknowledge()
        self._delivering -= 1
        self._close(attempt, ending, told)
        self._admit()
        return self._given()

    def rejected(self) -> None:
        """The delivery of a Reject has ended."""
        self._rejecting -= 1

    def lost(self, attempt: Attempt, now: float) -> list[Command]:
        """The lease is lost; ignored while the attempt is being reported, when the delivery's answer decides."""
        if not attempt.is_held or self._is_abandoned:
            return []
        attempt.lose()
        if attempt.pair == DETACHED:
            self._commands.append(Stop(attempt))
            self._time_limits.grant_grace(attempt, now)
        else:
            self._withdraw(attempt)
        self._close(attempt, Ending.LOST)
        self._admit()
        return self._given()

    def settled(self, attempt: Attempt) -> list[Command]:
        """The keeper has reported a crashed attempt."""
        if attempt.claim is Claim.CRASHED and not self._is_abandoned:
            attempt.settle()
            self._close(attempt, Ending.FAILED)
        return self._given()

    def stood_still(self, seconds: float) -> None:
        """The process was frozen for `seconds`, which no attempt loses."""
        self._time_limits.stood_still(self._pending(), seconds)

    def time_passed(self, now: float) -> list[Command]:
        """Time has passed: ends attempts past their limit or grace, and checks the waiting ones again."""
        if now < self.next_deadline or self._is_abandoned:
            return []
        for attempt in self._pending():
            if attempt.due_at <= now:
                self._overdue(attempt, now)
        self._time_limits.look_again(self._pending())
        self._admit()
        return self._given()

    def release(self, now: float, last_chance_s: float) -> list[Command]:
        """The drain's time is up: requeues attempts that have not begun, or do not end within `last_chance_s`."""
        self._is_releasing = True
        for attempt in (*self.backlog.waiting(), *self.slots.attempts):
            if attempt.pair <= ADMITTED:
                self._requeue(attempt, SHUTDOWN, NOT_BEGUN)
            elif attempt.is_held:
                if attempt.pair == RUNNING:
                    self._commands.append(Stop(attempt))
                attempt.stop(CancelReason.SHUTDOWN)
                self._time_limits.set_due(attempt, min(attempt.due_at, now + last_chance_s))
                self._records.follow(attempt)
        return self._given()

    def leave(self, attempt: Attempt) -> list[Command]:
        """Lets an attempt go that has not begun, not its record: another process adopts it when this one has ended."""
        attempt.leave()
        del self._owed[attempt.id]
        self._withdraw(attempt)
        return self._given()

    def abandon(self) -> None:
        """The process is about to end: no more commands follow, and the keeper settles the records."""
        self._is_abandoned = True
        self._time_limits.next_deadline = inf

    def _given(self) -> list[Command]:
        if self.slots.usable > self.slots.limit:
            self.slots.give_up(len(self.backlog.queue))
        commands, self._commands = self._commands, []
        return [] if self._is_abandoned else commands

    def _pending(self) -> tuple[Attempt, ...]:
        """Attempts that time alone may change."""
        return (*self.slots.attempts, *self.backlog.waiting())

    def _claim(self, activity: Activity, asked_at: float) -> None:
        attempt = self._admission.attempt_of(activity, asked_at)
        if isinstance(attempt, Failed):
            self._reject(activity, attempt, activity.settings)
            return
        self._owed[attempt.id] = attempt
        self.backlog.add(attempt)
        self._time_limits.set_due(attempt, attempt.due_at)
        if self._is_releasing:
            self._requeue(attempt, SHUTDOWN, NOT_BEGUN)

    def _claimed_again(self, attempt: Attempt, activity: Activity, asked_at: float) -> bool:
        """Adopts the newest claim; returns False when a new attempt has to run."""
        if attempt.activity.worker_id == activity.worker_id:
            return True  # twice in one poll
        match attempt.claim:
            case Claim.HELD | Claim.REPORTING if not isinstance(attempt.outcome, Failed):
                self._records.rebind(attempt, activity.worker_id, now=asked_at)
                return True
            case Claim.REPORTING:
                self._delivering -= 1
                attempt.acknowledge()
            case Claim.CRASHED:
                attempt.settle()
        self._close(attempt, Ending.FAILED)
        return False

    def _admit(self) -> None:
        """Starts waiting attempts in order, as far as there are slots and no obstacles."""
        if not self.backlog.queue or self._is_releasing:
            return
        while (attempt := self.backlog.next_start()) is not None:
            attempt.admit()
            self.slots.enter(attempt)
            self.backlog.started(attempt)
            self._records.follow(attempt)
            self._commands.append(Start(attempt))

    def _leave(self, attempt: Attempt) -> None:
        """Frees the attempt's slot."""
        self.slots.leave(attempt)
        self.backlog.left(attempt)
        self._commands.append(_WAKE)

    def _close(self, attempt: Attempt, ending: Ending, told: Failed | None = None) -> None:
        """Ends the claim of an attempt; its handler may still run."""
        if self._owed.get(attempt.id) is attempt:
            del self._owed[attempt.id]
        self.backlog.closed(attempt)
        self._records.follow(attempt)
        self._records.closed(attempt, ending, told)

    def _report(self, attempt: Attempt, outcome: Completed | Failed) -> None:
        attempt.report(outcome)
        self._delivering += 1
        self._commands.append(Deliver(attempt))

    def _requeue(self, attempt: Attempt, code: str, message: str) -> None:
        """Reports an attempt that has not begun as a retryable failure, so that the engine runs it again."""
        self.released += code == SHUTDOWN
        self._report(attempt, Failed(code, message, retryable=True))
        self._records.follow(attempt)
        self._withdraw(attempt)

    def _withdraw(self, attempt: Attempt) -> None:
        if not self.backlog.remove(attempt):
            self._commands.append(Withdraw(attempt))
            self._leave(attempt)

    def _reject(self, item: Activity | Undecodable, failure: Failed, settings: Mapping[str, Any]) -> None:
        self._rejecting += 1
        who = AttemptIds(item.activity_id, item.workflow_id, item.key, item.name)
        self._commands.append(Reject(who, item.worker_id, failure, settings))

    def _overdue(self, attempt: Attempt, now: float) -> None:
        if attempt.pair <= ADMITTED:
            self._not_begun(attempt, now)
            return
        is_detached = attempt.pair == DETACHED
        self._commands += self._time_limits.end(attempt, now)
        if attempt.is_reporting:  # its grace was over
            self._delivering += 1
            self.released += attempt.cancel_reason is CancelReason.SHUTDOWN
        if not is_detached:
            self._records.follow(attempt)

    def _not_begun(self, attempt: Attempt, now: float) -> None:
        """Warns once; requeues when no progress explains the wait."""
        rivals = self._admission.rivals(attempt.activity.name)
        overdue = self.backlog.overdue(attempt, now, self._records.begun_at)
        if overdue.is_over and (busy_until := self._records.busy_until(rivals)) > now:
            attempt.due_at = busy_until  # what shares its CPUs runs, so it still has a turn to come
            overdue = replace(overdue, is_over=False)
        if overdue.is_new:
            self._commands.append(WarnNotBegun(attempt, overdue.waited_s, overdue.reason))
        if overdue.is_over:
            message = f"claimed {overdue.waited_s:.0f} s ago and not begun: {overdue.reason}"
            self._requeue(attempt, "WORKER_OVERLOADED", message)
