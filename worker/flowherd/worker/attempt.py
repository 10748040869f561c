"""An attempt as two small state machines: the state of its handler, and the state of its claim at the engine.

This file alone changes either of them. Two laws:

1. An event that the table does not allow raises IllegalEvent and changes nothing.
2. Each event moves the pair in one step. What ends the claim of an attempt that has not begun also ends its handler,
   so no user code can begin on it.

Of the twenty pairs these nine exist; a slot is held in ADMITTED, RUNNING and STOPPING:

    handler     claim
    WAITING     HELD        claimed; has no slot yet
    ADMITTED    HELD        has a slot; waits for a permit, an isolate or its first step
    RUNNING     HELD        the handler has begun, and with it its limit
    STOPPING    HELD        stopped; the outcome is open until the handler ends or its grace is over
    STOPPING    REPORTING   the grace is over: the outcome is being reported although the handler still runs
    STOPPING    CLOSED      detached: nothing is owed any more, but the slot is held until the handler ends
    ENDED       REPORTING   the outcome is being reported
    ENDED       CRASHED     its isolate has died: the keeper reports it
    ENDED       CLOSED      over
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from flowherd.activities_and_outcomes import Completed, Died, Failed
from flowherd.ledger.states_and_cells import Claim, Handler, pair_of
from flowherd.sdk.run_state import CancelReason, RunState

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Activity
    from flowherd.sdk.spending import Costs
    from flowherd.worker.attempt_table_types import Records


class IllegalEvent(Exception):
    """The event is illegal in the attempt's current state: an internal error; nothing has changed."""


_H, _C = Handler, Claim
WAITING: Final = pair_of(_H.WAITING, _C.HELD)
ADMITTED: Final = pair_of(_H.ADMITTED, _C.HELD)
RUNNING: Final = pair_of(_H.RUNNING, _C.HELD)
STOPPING: Final = pair_of(_H.STOPPING, _C.HELD)
OVERRUN: Final = pair_of(_H.STOPPING, _C.REPORTING)
DETACHED: Final = pair_of(_H.STOPPING, _C.CLOSED)
REPORTING: Final = pair_of(_H.ENDED, _C.REPORTING)
CRASHED: Final = pair_of(_H.ENDED, _C.CRASHED)
OVER: Final = pair_of(_H.ENDED, _C.CLOSED)

PAIRS = frozenset({WAITING, ADMITTED, RUNNING, STOPPING, OVERRUN, DETACHED, REPORTING, CRASHED, OVER})
_ILLEGAL = 255
_REPORTS, _CLOSED = int(Claim.REPORTING), int(Claim.CLOSED)  # constants: an enum lookup is slow
SHUTDOWN = "WORKER_SHUTDOWN"


def _event(**moves: int) -> bytes:
    """Returns the transitions of an event: the new pair for each pair, `_ILLEGAL` where it cannot happen."""
    table = bytearray([_ILLEGAL] * 20)
    for name, target in moves.items():
        table[globals()[name]] = target
    return bytes(table)


_ADMIT = _event(WAITING=ADMITTED)
_BEGIN = _event(ADMITTED=RUNNING)
_STOP = _event(RUNNING=STOPPING, STOPPING=STOPPING)
_REPORT = _event(WAITING=REPORTING, ADMITTED=REPORTING, RUNNING=REPORTING, STOPPING=REPORTING)
_OVERRUN = _event(STOPPING=OVERRUN)
_CRASH = _event(RUNNING=CRASHED, STOPPING=CRASHED)
_LEAVE = _event(WAITING=OVER, ADMITTED=OVER)
_LOSE = _event(WAITING=OVER, ADMITTED=OVER, RUNNING=DETACHED, STOPPING=DETACHED)
_ACKNOWLEDGE = _event(OVERRUN=DETACHED, REPORTING=OVER)
_SETTLE = _event(CRASHED=OVER)
_END = _event(OVERRUN=REPORTING, DETACHED=OVER)


class Attempt(RunState):
    """A claimed activity, from its claim until no report is owed and its handler has ended.

    The base class has the part that a handler's context reads.

    Attributes:
        pair: handler and claim as one number, see `pair_of`; changed only in this file.
        id: the activity's id.
        activity: the activity, with the worker_id of the newest claim.
        index: the index of its record in the ledger.
        sequence: the sequence of its record; a verdict with another sequence concerns another record.
        usage_place: the index and sequence of its first record, which identify its usage page.
        lease_s: seconds from the claim, or the last heartbeat, until the engine may give it to another worker.
        limit_s: seconds that the handler may run from its first step.
        claimed_at: the time at which the poll that brought it was sent, in monotonic seconds.
        begun_at: the time of the handler's first step in monotonic seconds, 0 before.
        ended_at: the time of the outcome in monotonic seconds, even if the handler never began; 0 before.
        due_at: its deadline in monotonic seconds, infinity for none.
        is_suspect: True when this activity may have ended a process (`flowherd.leases.suspects`).
        is_apart: True when it runs in an isolate because it is a suspect.
        is_isolated: True when its handler runs in an isolate, for any reason.
        is_in_thread: True when its handler runs in a thread of the worker's process.
        is_alone: True when it runs alone because it is a suspect and there are no isolates.
        was_named: True when it was logged that it has not begun.
        outcome: the outcome to deliver, or the death of its isolate; None before.
        kept: the encoded completion for the current worker_id, None for a failure and for a large completion.
        records: stores its usage in case of a crash; None where no keeper settles a crash.
        executor: the executor of its handler, None before the start.
        handle: the executor's handle for stopping it.

    """

    __slots__ = (
        "begun_at", "claimed_at", "due_at", "ended_at", "executor", "handle", "id", "index", "is_alone", "is_apart",
        "is_in_thread", "is_isolated", "is_suspect", "kept", "lease_s", "outcome", "pair", "records", "sequence",
        "usage_place", "was_named",
    )  # fmt: skip

    def __init__(
        self,
        activity: Activity,
        index: int,
        sequence: int,
        *,
        claimed_at: float,
        lease_s: float,
        limit_s: float,
    ) -> None:
        super().__init__(activity)
        self.id = activity.activity_id
        self.index = index
        self.sequence = sequence
        self.usage_place = index, sequence
        self.lease_s = lease_s
        self.limit_s = limit_s
        self.claimed_at = claimed_at
        self.begun_at = self.ended_at = 0.0
        self.due_at = claimed_at + limit_s
        self.is_suspect = self.is_apart = self.is_alone = self.is_isolated = self.is_in_thread = False
        self.was_named = False
        self.outcome: Completed | Failed | Died | None = None
        self.kept: bytes | None = None
        self.executor: Any = None
        self.handle: Any = None
        self.records: Records | None = None
        self.pair = WAITING

    def __repr__(self) -> str:
        return f"<Attempt {self.id} [{self.handler.name}, {self.claim.name}], record {self.index}.{self.sequence}>"

    @property
    def handler(self) -> Handler:
        """The state of the handler."""
        return Handler(self.pair >> 2)

    @property
    def claim(self) -> Claim:
        """The state of the claim."""
        return Claim(self.pair & 3)

    @property
    def is_held(self) -> bool:
        """True while there is no outcome yet and the engine waits for one."""
        return not self.pair & 3

    @property
    def is_owed(self) -> bool:
        """True while the engine waits for a report, by this worker or the keeper."""
        return self.pair & 3 != _CLOSED

    @property
    def is_reporting(self) -> bool:
        """True while the outcome is being reported."""
        return self.pair & 3 == _REPORTS

    @property
    def is_busy(self) -> bool:
        """True while the handler runs, in any state of the claim."""
        return RUNNING <= self.pair <= DETACHED

    @property
    def may_begin(self) -> bool:
        """True if it has a slot and its handler has not begun."""
        return self.pair == ADMITTED

    @property
    def has_slot(self) -> bool:
        """True when the attempt holds a slot."""
        return ADMITTED <= self.pair <= DETACHED

    def open_costs(self) -> Costs:
        """Returns the costs of this attempt; callable from any thread."""
        if self.costs is None and self.records is not None and not self.has_ended:
            self.keeper = self.records.keeper_of(self)
        return super().open_costs()

    def _move(self, event: bytes) -> None:
        target = event[self.pair]
        if target == _ILLEGAL:
            raise IllegalEvent(f"{self!r} cannot take this event")
        self.pair = target

    def admit(self) -> None:
        """Gives it a slot."""
        self._move(_ADMIT)

    def begin(self, now: float) -> None:
        """Notes the handler's first step, from which the limit counts."""
        self._move(_BEGIN)
        self.begun_at = now
        self.due_at = now + self.limit_s

    def stop(self, reason: CancelReason) -> None:
        """Notes that the handler is stopped; a second reason is ignored."""
        self._move(_STOP)
        if self.cancel_reason is None:
            self.cancel_reason = reason

    def report(self, outcome: Completed | Failed) -> None:
        """Sets the outcome of a handler that has ended, or will never begin."""
        self._move(_REPORT)
        self.outcome, self.due_at, self.is_decided = outcome, inf, True

    def overrun(self, outcome: Completed | Failed) -> None:
        """Sets the outcome of a handler that still runs after its grace."""
        self._move(_OVERRUN)
        self.outcome, self.due_at, self.is_decided = outcome, inf, True

    def crash(self, how: Died) -> None:
        """Notes that its isolate has died."""
        self._move(_CRASH)
        self.outcome, self.due_at, self.is_decided = how, inf, True

    def lose(self) -> None:
        """Notes that the lease is lost; legal only while HELD (a 409 to a later heartbeat means nothing)."""
        self._move(_LOSE)
        self.cancel_reason, self.due_at, self.is_decided = CancelReason.LEASE_LOST, inf, True

    def leave(self) -> None:
        """Notes that another process of the host goes on with it once this one has ended."""
        self._move(_LEAVE)
        self.due_at, self.is_decided = inf, True

    def decided(self, outcome: Completed | Failed | Died | None) -> Completed | Failed:
        """Returns the handler's outcome, or the failure for the reason for which it was stopped."""
        if self.cancel_reason is None:
            assert outcome is not None
            assert not isinstance(outcome, Died), self
            return outcome
        code, message = "TIMEOUT", f"the handler took longer than its limit of {self.limit_s:g} s"
        if self.cancel_reason is CancelReason.SHUTDOWN:
            code, message = SHUTDOWN, "the worker was stopped before the handler had ended"
        at = outcome.at if isinstance(outcome, Failed) else ""
        cost_usd, usage = self.spent
        return Failed(code, message, retryable=True, cost_usd=cost_usd, usage=usage, at=at)

    def acknowledge(self) -> None:
        """Notes the end of the delivery, with any answer."""
        self._move(_ACKNOWLEDGE)

    def settle(self) -> None:
        """Notes that the keeper has reported the crash."""
        self._move(_SETTLE)

    def end(self) -> None:
        """Notes the end of a handler whose outcome was already decided."""
        self._move(_END)
