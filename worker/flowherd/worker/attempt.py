"""An attempt as two small automata: where its handler stands, and what the engine still expects of us.

This file alone changes either of them. Two laws:

1. An event that the table does not allow raises IllegalEvent and changes nothing.
2. Each event moves the pair in one step. What ends the claim of an attempt that has not begun also ends its handler,
   so no user code can begin on it.

Of the twenty pairs these nine exist; a slot is held in ADMITTED, RUNNING and STOPPING:

    handler     claim
    WAITING     HELD        claimed; has no slot yet
    ADMITTED    HELD        has a slot; waits for a permit, an isolate or its first step
    RUNNING     HELD        the handler has begun, and with it its limit
    STOPPING    HELD        told to stop; the outcome is open until it ends or its grace is over
    STOPPING    REPORTING   the grace is over: the outcome is on its way although the handler still runs
    STOPPING    CLOSED      detached: nothing is owed any more, but the slot is held until the handler ends
    ENDED       REPORTING   the outcome is on its way to the engine
    ENDED       CRASHED     its isolate has died with it: the keeper reports it
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
    """An event that cannot happen where the attempt stands: a defect of ours; nothing has changed."""


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
_REPORTS, _CLOSED = int(Claim.REPORTING), int(Claim.CLOSED)  # of an enum they cost more than their use
SHUTDOWN = "WORKER_SHUTDOWN"


def _event(**moves: int) -> bytes:
    """A table by pair: where an event leads, `_ILLEGAL` where it cannot happen."""
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
_LOSE = _event(WAITING=OVER, ADMITTED=OVER, RUNNING=DETACHED, STOPPING=DETACHED)
_ACKNOWLEDGE = _event(OVERRUN=DETACHED, REPORTING=OVER)
_SETTLE = _event(CRASHED=OVER)
_END = _event(OVERRUN=REPORTING, DETACHED=OVER)


class Attempt(RunState):
    """A claimed activity, from its claim until nothing is owed and its handler has ended.

    What a handler's context reads of it is in its base class.

    Attributes:
        pair: handler and claim as one number, see `pair_of`; read by all, changed here alone.
        id: the activity's.
        activity: with the worker_id of the newest claim.
        index: of its record in the ledger.
        sequence: of its record; a verdict with another one is about something else.
        usage_place: where its sums are kept: index and sequence of its first record.
        lease_s: seconds from the claim, or the last heartbeat, until the engine may give it away.
        limit_s: seconds the handler may take from its first step.
        claimed_at: monotonic seconds: when the poll that brought it was sent.
        begun_at: monotonic seconds of the handler's first step, 0 before.
        ended_at: monotonic seconds when the outcome was decided, also of one that never begins; 0 before.
        due_at: monotonic seconds when time alone changes something, infinity if nothing.
        is_suspect: a process has died while it ran.
        is_apart: it runs in an isolate because it is a suspect.
        is_isolated: its handler belongs in an isolate, for whatever reason.
        is_alone: it runs alone because it is a suspect and there are no isolates.
        was_named: a warning has said that it has not begun.
        outcome: what is being delivered, or how its isolate died; None before.
        kept: the bytes of its completion under the present worker_id, None for a failure and for a large one.
        records: keep what it spends against a crash; None where nobody settles for a process that has died.
        executor: runs its handler, None before it is started.
        handle: what its executor stops it by.

    """

    __slots__ = (
        "begun_at", "claimed_at", "due_at", "ended_at", "executor", "handle", "id", "index", "is_alone", "is_apart",
        "is_isolated", "is_suspect", "kept", "lease_s", "outcome", "pair", "records", "sequence", "usage_place",
        "was_named",
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
        self.is_suspect = self.is_apart = self.is_alone = self.is_isolated = False
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
        """The state of the claim: what the engine still expects."""
        return Claim(self.pair & 3)

    @property
    def is_held(self) -> bool:
        """The outcome is open and the engine waits for it."""
        return not self.pair & 3

    @property
    def is_owed(self) -> bool:
        """The engine waits for word about it, be it ours or the keeper's."""
        return self.pair & 3 != _CLOSED

    @property
    def is_reporting(self) -> bool:
        """The outcome is on its way."""
        return self.pair & 3 == _REPORTS

    @property
    def is_busy(self) -> bool:
        """The handler runs, whatever the claim says."""
        return RUNNING <= self.pair <= DETACHED

    @property
    def may_begin(self) -> bool:
        """True if it has a slot and its handler has not begun."""
        return self.pair == ADMITTED

    @property
    def has_slot(self) -> bool:
        """The attempt holds a slot."""
        return ADMITTED <= self.pair <= DETACHED

    def open_costs(self) -> Costs:
        """The sums of its spending; from any thread."""
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
        """Its handler takes its first step: the limit begins."""
        self._move(_BEGIN)
        self.begun_at = now
        self.due_at = now + self.limit_s

    def stop(self, reason: CancelReason) -> None:
        """Its handler is told to stop; a second reason changes nothing."""
        self._move(_STOP)
        if self.cancel_reason is None:
            self.cancel_reason = reason

    def report(self, outcome: Completed | Failed) -> None:
        """The outcome is known and the handler has ended, or will never begin."""
        self._move(_REPORT)
        self.outcome, self.due_at, self.is_decided = outcome, inf, True

    def overrun(self, outcome: Completed | Failed) -> None:
        """The outcome is known although the handler still runs: its grace is over."""
        self._move(_OVERRUN)
        self.outcome, self.due_at, self.is_decided = outcome, inf, True

    def crash(self, how: Died) -> None:
        """Its isolate has died with it."""
        self._move(_CRASH)
        self.outcome, self.due_at, self.is_decided = how, inf, True

    def lose(self) -> None:
        """The lease is somebody else's; legal only while the claim is HELD (a 409 to a beat says nothing later)."""
        self._move(_LOSE)
        self.cancel_reason, self.due_at, self.is_decided = CancelReason.LEASE_LOST, inf, True

    def decided(self, outcome: Completed | Failed | Died | None) -> Completed | Failed:
        """The handler's outcome, or what follows from the reason for which it was told to stop."""
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
        """The delivery has ended, with whatever answer."""
        self._move(_ACKNOWLEDGE)

    def settle(self) -> None:
        """The keeper has reported what crashed."""
        self._move(_SETTLE)

    def end(self) -> None:
        """The handler has ended after its outcome was decided."""
        self._move(_END)
