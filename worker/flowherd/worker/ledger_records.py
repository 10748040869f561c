"""Writes the worker's attempts to the ledger, so that the keeper can settle them after a crash."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flowherd.activities_and_outcomes import Completed, Died, Failed
from flowherd.end_forked_copies import is_copy
from flowherd.ledger import JOURNAL_BYTES, Cell
from flowherd.ledger.activity_counts import Ended, Took
from flowherd.ledger.earlier_attempts import SeenRow
from flowherd.ledger.states_and_cells import PAIR, PLACE, TAKEN, Claim
from flowherd.ledger.usage_page import SUMS_BYTES
from flowherd.worker.activity_log import say
from flowherd.worker.attempt import ADMITTED, CRASHED, OVER, OVERRUN, REPORTING, RUNNING, STOPPING
from flowherd.worker.attempt_table_types import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from flowherd.activities_and_outcomes import Activity
    from flowherd.client.engine_protocol import Engine
    from flowherd.ledger import RecordWriter, Segment
    from flowherd.ledger.adoption_cells import KeptReply
    from flowherd.ledger.usage_page import UsagePage
    from flowherd.worker.attempt import Attempt

_CLAIMED, _REPORTS = Cell.CLAIMED, int(Claim.REPORTING)
_TOLD = frozenset({REPORTING, OVERRUN})
_AT_WORK = frozenset({RUNNING, STOPPING})
_FAILED = Ending.FAILED
MOST_NAMES = 1_000
_COUNTERS = (
    (Cell.COMPLETED, Ended.COMPLETED),
    (Cell.FAILED, Ended.FAILED),
    (Cell.LOST, Ended.LOST),
)  # by Ending
_WAIT, _RUN, _REPORT = int(Took.WAIT), int(Took.RUN), int(Took.REPORT)
_clearing = threading.Lock()  # of this process's own threads: no usage page is reused while it is written


class _Entries(dict[str, int]):
    """The entry of each name in the worker's table of activities."""

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self._work = segment.work

    def __missing__(self, name: str) -> int:
        entry = self._work.entry_of(name)
        if len(self) < MOST_NAMES:  # there may be any number of names that are not hosted
            self[name] = entry
        return entry


class LedgerRecords:
    """`flowherd.worker.attempt_table_types.Records` in shared memory.

    Args:
        writer: the record writer of this worker.
        engine: encodes the completions to store.
        clock: monotonic seconds.
        segments: all segments of the host, for the attempts of other processes.
        seen: counts how often the host has claimed an activity; None for a private row.

    """

    def __init__(
        self,
        writer: RecordWriter,
        engine: Engine,
        clock: Callable[[], float],
        segments: Iterable[Segment] = (),
        seen: SeenRow | None = None,
    ) -> None:
        self._writer = writer
        self._engine = engine
        self._clock = clock
        self._segments = segments
        self._seen = seen or SeenRow.alone()
        self._counts = writer.segment.work.counts
        self._entries = _Entries(writer.segment)
        self._reply: KeptReply | None = None
        self._adopted: tuple[int, int] | None = None

    def begin_batch(self, reply: bytes) -> None:
        """All that is claimed until `end_batch` was brought by that reply, which is kept for who may adopt it."""
        self._reply = self._writer.replies.keep(reply)

    def begin_adopted(self, place: tuple[int, int]) -> None:
        """All that is claimed until `end_batch` has its record already."""
        self._adopted = place

    def end_batch(self) -> None:
        """All has been claimed."""
        if self._reply is not None:
            self._writer.replies.leave(self._reply)
        self._reply = self._adopted = None

    @property
    def free(self) -> int:
        """See `Records.free`."""
        return self._writer.free

    def claim(self, activity: Activity, *, now: float, lease_s: float) -> tuple[int, int]:
        """See `Records.claim`. The lease may be as old as the request for it: the reply may have been slow."""
        if self._adopted is not None:
            return self._adopted
        place = self._writer.claim(
            activity.activity_id,
            activity.worker_id,
            activity.name,
            now=now,
            lease_s=lease_s,
            workflow_id=activity.workflow_id,
            key=activity.key,
            reply=self._reply,
        )
        self._writer.segment.add(_CLAIMED)
        return place

    def follow(self, attempt: Attempt) -> None:
        """See `Records.follow`."""
        pair, index, writer = attempt.pair, attempt.index, self._writer
        if pair == ADMITTED:
            writer.waits(index, pair)
        elif pair == RUNNING:
            writer.running(index, now=attempt.begun_at, limit_s=attempt.limit_s, apart=attempt.is_isolated)
            if attempt.is_in_thread:
                writer.in_thread(index)
            waited_s = attempt.begun_at - attempt.claimed_at
            self._counts.took(self._entries[attempt.activity.name], _WAIT, waited_s)
        elif pair == OVER and attempt.cancel_reason is None:
            self._clear(attempt)
        else:
            self._note_decided(attempt, pair, index)

    def _note_decided(self, attempt: Attempt, pair: int, index: int) -> None:
        writer = self._writer
        if attempt.is_decided and not attempt.ended_at:
            attempt.ended_at = now = self._clock()
            if writer.segment.states[index] & PAIR in _AT_WORK:
                self._counts.took(self._entries[attempt.activity.name], _RUN, now - attempt.begun_at)
        if pair in _TOLD and writer.segment.states[index] & 3 != _REPORTS:
            attempt.kept = self._kept_of(attempt)
            writer.reporting(index, attempt.kept, writer.segment.states[index] & PLACE | TAKEN | pair)
        elif pair == OVER:
            self._clear(attempt)
        elif pair == CRASHED:
            died = attempt.outcome if isinstance(attempt.outcome, Died) else Died("")
            writer.crashed(index, died.how, died.status)
        else:
            writer.stands(index, pair)

    def may_be_adopted(self, attempt: Attempt) -> bool:
        """True while the reply that brought it is kept, and it has not begun."""
        return attempt.pair <= ADMITTED and self._writer.keeps_reply(attempt.index)

    def rebind(self, attempt: Attempt, worker_id: str, *, now: float) -> None:
        """See `Records.rebind`."""
        attempt.activity = replace(attempt.activity, worker_id=worker_id)
        attempt.kept = self._kept_of(attempt)
        attempt.index, attempt.sequence = self._writer.move(
            attempt.index, worker_id, now=now, completion=attempt.kept
        )
        state = "claimed" if attempt.pair <= ADMITTED else "running" if attempt.is_held else "reporting"
        self.not_completed(attempt.id)
        attempt.who.seen += attempt.who.seen > 0
        say(logging.WARNING, "activity_claimed_again", attempt.ids, state=state)

    def closed(self, attempt: Attempt, ending: Ending, told: Failed | None) -> None:
        """See `Records.closed`; the keeper adds the attempts that it settles to the history itself."""
        self.count(attempt.activity.name, ending)
        outcome = attempt.outcome
        if isinstance(outcome, Died):
            return
        if ending != _FAILED:
            told = None
        elif told is None and isinstance(outcome, Failed):
            told = outcome
        self._writer.remember(
            attempt.index,
            attempt.sequence,
            attempt.begun_at,
            attempt.ended_at,
            self._clock(),
            ending,
            told,
            isolated=attempt.is_isolated,
        )

    def count(self, name: str, ending: Ending) -> None:
        """Counts the end of a claim by activity name."""
        cell, how = _COUNTERS[ending]
        self._writer.segment.add(cell)
        self._counts.ended(self._entries[name], how)

    def reported(self, name: str, took_s: float) -> None:
        """Counts the duration of an outcome's delivery."""
        self._counts.took(self._entries[name], _REPORT, took_s)

    def keeper_of(self, attempt: Attempt) -> SumsKeeper:
        """See `Records.keeper_of`."""
        return SumsKeeper(self, attempt)

    def usage_of(self, attempt: Attempt) -> UsagePage:
        """Returns the usage page of an attempt, found by the index and sequence of its first record."""
        return self._writer.segment.usage(*attempt.usage_place)

    def earlier(self, activity_id: str) -> int:
        """See `Records.earlier`."""
        return self._seen.earlier(activity_id)

    def not_completed(self, activity_id: str) -> None:
        """See `Records.not_completed`."""
        self._seen.add(activity_id)

    def begun_at(self, name: str) -> float:
        """See `Records.begun_at`."""
        return max(
            (
                record.started_at
                for segment in self._segments
                for record in segment.records()
                if record.name == name
            ),
            default=0.0,
        )

    def busy_until(self, names: Collection[str]) -> float:
        """See `Records.busy_until`."""
        return max(
            (
                record.started_at + record.limit_s
                for segment in self._segments
                for record in segment.records()
                if record.name in names and record.is_at_work
            ),
            default=0.0,
        )

    def keep_spent(self, attempt: Attempt, sums: bytes) -> None:
        """Stores an attempt's sums, unless it is over; callable from any thread."""
        with _clearing:
            if attempt.pair != OVER and not is_copy():
                self.usage_of(attempt).keep(sums)

    def _clear(self, attempt: Attempt) -> None:
        if attempt.costs is None:
            self._writer.clear(attempt.index)
        else:  # a thread that its handler left behind may be about to write more sums
            with _clearing:
                self._writer.clear(attempt.index)

    def _kept_of(self, attempt: Attempt) -> bytes | None:
        """Returns the completion to store in case of a crash; None for failures and large completions."""
        outcome = attempt.outcome
        if not isinstance(outcome, Completed) or len(outcome.output) > JOURNAL_BYTES:
            return None
        return self._engine.encode_completion(attempt.activity.worker_id, outcome)


class SumsKeeper:
    """`flowherd.sdk.spending.SpendingKeeper` of one attempt."""

    __slots__ = ("_attempt", "_records")

    room_for_sums = SUMS_BYTES

    def __init__(self, records: LedgerRecords, attempt: Attempt) -> None:
        self._records = records
        self._attempt = attempt

    def keep_spent(self, sums: bytes) -> None:
        """See `SpendingKeeper.keep_spent`."""
        self._records.keep_spent(self._attempt, sums)
