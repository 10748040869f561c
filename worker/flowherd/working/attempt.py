"""One claimed activity as its worker sees it, its record, and who works on it; it decides nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowherd.activity import Completed
from flowherd.ledger import HELD, JOURNAL_BYTES, Cell, State
from flowherd.running.stepping import LoopMeter
from flowherd.shared.suspects import Suspects
from flowherd.working.reporter import Delivery

if TYPE_CHECKING:
    import asyncio

    from flowherd.activity import Activity, Failed
    from flowherd.engine import Engine
    from flowherd.ledger import RecordBook
    from flowherd.running.run import Run
    from flowherd.running.runner import Runner
    from flowherd.working.reporter import Reporter
    from flowherd.working.slots import Slots


@dataclass(slots=True, eq=False)
class Attempt:
    """One claimed activity.

    Attributes:
        activity: with the worker_id of the newest claim.
        index: of its record.
        sequence: of its record; a verdict with another one is about something else.
        lease_s: from the claim, or the last heartbeat.
        claimed_at: monotonic seconds.
        is_suspect: whether a process has died while it ran: it runs alone.
        state: what its record says.
        run: its handler's, once it has a slot.
        outcome: what is being delivered.
        carrier: the task that waits for the run and delivers its outcome.

    """

    activity: Activity
    index: int
    sequence: int
    lease_s: float
    claimed_at: float
    is_suspect: bool = False
    state: State = State.CLAIMED
    run: Run | None = None
    outcome: Completed | Failed | None = None
    carrier: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The activity's id."""
        return self.activity.activity_id

    @property
    def is_owed(self) -> bool:
        """Whether the engine waits for its outcome."""
        return self.state in HELD

    def move(self, worker_id: str, book: RecordBook, engine: Engine) -> None:
        """Goes on under the newest claim of the same activity (protocol.md R11)."""
        self.activity = replace(self.activity, worker_id=worker_id)
        self.index, self.sequence = book.move(
            self.index, worker_id, now=time.monotonic(), completion=kept_of(self, engine)
        )
        if self.run is not None:
            self.run.tag = self.index + 1


@dataclass(frozen=True, slots=True)
class Tools:
    """The collaborators of `Attempts`."""

    engine: Engine
    book: RecordBook
    slots: Slots
    runner: Runner
    reporter: Reporter
    meter: LoopMeter = field(default_factory=LoopMeter)
    suspects: Suspects = field(default_factory=Suspects.none)


def claim(activity: Activity, tools: Tools, lease_s: float) -> Attempt:
    """Writes the record of a new attempt; LedgerFull when there is no room for it."""
    now = time.monotonic()
    index, sequence = tools.book.claim(
        activity.activity_id, activity.worker_id, activity.name, now=now, lease_s=lease_s
    )
    is_suspect = bool(tools.suspects.charges(activity.activity_id).count)
    return Attempt(activity, index, sequence, lease_s, claimed_at=now, is_suspect=is_suspect)


def kept_of(attempt: Attempt, engine: Engine) -> bytes | None:
    """The completion the ledger shall keep against a crash; None for failures and large ones."""
    outcome = attempt.outcome
    if not isinstance(outcome, Completed) or len(outcome.output) > JOURNAL_BYTES:
        return None
    return engine.encode_completion(attempt.activity.worker_id, outcome)


def counter_of(outcome: Completed | Failed, delivery: Delivery) -> Cell:
    """Where a delivery is counted."""
    match delivery:
        case Delivery.ACCEPTED:
            return Cell.COMPLETED if isinstance(outcome, Completed) else Cell.FAILED
        case Delivery.REPLACED:
            return Cell.FAILED
        case _:
            return Cell.LOST
