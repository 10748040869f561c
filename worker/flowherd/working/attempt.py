"""One claimed activity as its worker sees it, its record, and who works on it; it decides nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from flowherd.ledger import JOURNAL_BYTES, Cell, State
from flowherd.ledger.crash_history import CrashHistory
from flowherd.ledger.usage import SUMS_BYTES
from flowherd.model import Completed, Failed
from flowherd.process.fork_guard import is_copy
from flowherd.running.stepping import LoopMeter
from flowherd.working.reporter import Delivery

if TYPE_CHECKING:
    from flowherd.client.protocol import Engine
    from flowherd.ledger import RecordWriter
    from flowherd.model import Activity, Usage
    from flowherd.running.run import Run
    from flowherd.running.runner import Runner
    from flowherd.working.reporter import Reporter
    from flowherd.working.slots import Slots

SHUTDOWN = "WORKER_SHUTDOWN"

# Looking a member up in its enum costs as much as what is done with it, and hashing one costs more.
_ACCEPTED, _COMPLETED, _DETACHED, _FREE = Delivery.ACCEPTED, Cell.COMPLETED, State.DETACHED, State.FREE

_moving = threading.Lock()  # of this process's own threads: a record has one place when its sums are written


class Attempt(msgspec.Struct, eq=False):
    """One claimed activity.

    Attributes:
        id: the activity's.
        activity: with the worker_id of the newest claim.
        writer: where its record is.
        index: of its record.
        sequence: of its record; a verdict with another one is about something else.
        lease_s: from the claim, or the last heartbeat.
        is_suspect: whether a process has died while it ran.
        is_alone: whether it runs alone for that, since there are no isolates where it could run apart.
        is_patient: whether it may still be kept waiting for its neighbours.
        state: what its record says.
        run: its handler's, once it has a slot.
        outcome: what is being delivered.

    """

    id: str
    activity: Activity
    writer: RecordWriter
    index: int
    sequence: int
    lease_s: float
    is_suspect: bool = False
    is_alone: bool = False
    is_patient: bool = True
    state: State = State.CLAIMED
    run: Run | None = None
    outcome: Completed | Failed | None = None

    def __repr__(self) -> str:
        return f"<Attempt {self.id} [{self.state.name}], record {self.index}.{self.sequence}, {self.run!r}>"

    @property
    def is_apart(self) -> bool:
        """Whether it runs in an isolate because a process has died while it ran."""
        return self.is_suspect and not self.is_alone

    @property
    def is_owed(self) -> bool:
        """Whether the engine waits for its outcome: what `flowherd.ledger.HELD` says of its record."""
        state = self.state
        return state is not _DETACHED and state is not _FREE

    @property
    def is_busy(self) -> bool:
        """Whether its handler runs, or its outcome is on its way."""
        return self.state in {State.RUNNING, State.REPORTING}

    @property
    def spent(self) -> tuple[str | None, tuple[Usage, ...]]:
        """Cost and usage its handler has recorded so far."""
        return (None, ()) if self.run is None else self.run.spent

    @property
    def room_for_sums(self) -> int:
        """How many bytes of sums its record has room for."""
        return SUMS_BYTES

    def keep_spent(self, sums: bytes) -> None:
        """Keeps what its handler has spent with its record, until that is somebody else's; from any thread."""
        with _moving:
            if self.state is not _FREE and not is_copy():
                self.writer.keep_spent(self.index, self.sequence, sums)

    def move(self, worker_id: str, engine: Engine, asked_at: float) -> None:
        """Goes on under the newest claim of the same activity (protocol.md R11), by a poll of then."""
        self.activity = replace(self.activity, worker_id=worker_id)
        with _moving:
            self.index, self.sequence = self.writer.move(
                self.index, worker_id, now=asked_at, completion=kept_of(self, engine)
            )
        if self.run is not None:
            self.run.tag = self.index + 1

    def clear(self) -> None:
        """Gives its record back; nobody owes anything about it any more."""
        if self.run is None or not self.run.has_costs:
            self.state = _FREE
        else:  # what its handler left behind may be about to write more sums
            with _moving:
                self.state = _FREE
        self.writer.clear(self.index)


@dataclass(frozen=True, slots=True)
class Tools:
    """The collaborators of `Attempts`."""

    engine: Engine
    writer: RecordWriter
    slots: Slots
    runner: Runner
    reporter: Reporter
    meter: LoopMeter = field(default_factory=LoopMeter)
    crash_history: CrashHistory = field(default_factory=CrashHistory.none)


def claim(activity: Activity, tools: Tools, lease_s: float, asked_at: float) -> Attempt:
    """Writes the record of a new attempt; LedgerFull when there is no room for it.

    Its lease may be as old as the request for it: the reply may have been slow, or this process stopped for a while.
    """
    id_, writer = activity.activity_id, tools.writer
    index, sequence = writer.claim(id_, activity.worker_id, activity.name, now=asked_at, lease_s=lease_s)
    attempt = Attempt(id_, activity, writer, index, sequence, lease_s)
    if tools.crash_history.any_charged and tools.crash_history.charges(id_).count:
        attempt.is_suspect, attempt.is_alone = True, not tools.runner.has_isolates
    return attempt


def shutdown_of(attempt: Attempt) -> Failed:
    """What gives an attempt back whose handler has not ended, with what it has spent."""
    cost_usd, usage = attempt.spent
    message = "the worker was stopped before the activity had ended"
    return Failed(SHUTDOWN, message, retryable=True, cost_usd=cost_usd, usage=usage)


def kept_of(attempt: Attempt, engine: Engine) -> bytes | None:
    """The completion the ledger shall keep against a crash; None for failures and large ones."""
    outcome = attempt.outcome
    if not isinstance(outcome, Completed) or len(outcome.output) > JOURNAL_BYTES:
        return None
    return engine.encode_completion(attempt.activity.worker_id, outcome)


def counter_of(outcome: Completed | Failed, delivery: Delivery) -> Cell:
    """Where a delivery is counted."""
    if delivery is _ACCEPTED:
        return _COMPLETED if isinstance(outcome, Completed) else Cell.FAILED
    return Cell.FAILED if delivery is Delivery.REPLACED else Cell.LOST
