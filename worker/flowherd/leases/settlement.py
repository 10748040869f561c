"""Settles the records of an ended process: requeues their activities, or delivers their stored results."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.backoff import Backoff
from flowherd.client.engine_protocol import Answer, Engine, Verdict
from flowherd.errors import EngineError
from flowherd.leases.crash_reports import CrashReports, Remains
from flowherd.leases.record_ids import ids_of
from flowherd.ledger import Cell, Claim, Host, Ledger, Life, Record, Segment, Standing
from flowherd.ledger.activity_counts import Ended
from flowherd.ledger.attempt_history import End
from flowherd.ledger.damage_check import unread_in
from flowherd.sdk.usage_bytes import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowherd.activities_and_outcomes import Failed, Usage
    from flowherd.leases.adoption import Adoptions
    from flowherd.leases.poll_hold import Confirmations

PLACES = 16  # calls under way, and so connections
_TRIED_FOR_AT_LEAST_S = 300.0  # the worker_id makes a late settlement harmless
_BACKOFF = Backoff(cap_s=5.0)

log = structlog.stdlib.get_logger(__name__)


class Settled(StrEnum):
    """The result of a settlement. All but FAILED are values of `outcome` in `activity_settled`, and must not change."""

    FAILED = "failed"
    COMPLETED = "completed from the kept result"
    BEFORE = "had been settled before"
    UNKNOWN = "unknown to the engine"
    REFUSED = "refused by the engine"


@dataclass(frozen=True, slots=True)
class _Told:
    """The engine's answer, and the reported failure, if any."""

    done: Settled
    failure: Failed | None = None
    will_retry: bool = True


def _say(told: _Told, fields: Mapping[str, Any]) -> None:
    """Logs a failure like that of a live process, or a line with any other result."""
    failure = told.failure
    if failure is None or told.done is not Settled.FAILED:
        log.warning("activity_settled", outcome=str(told.done), **fields)
        return
    retryable = failure.retryable and told.will_retry
    used_up = {"attempts_left": 0} if failure.retryable and not told.will_retry else {}
    words = {"code": failure.code, "reason": failure.message, "retryable": retryable, **used_up}
    log.log(logging.WARNING if retryable else logging.ERROR, "activity_failed", **words, **fields)


class Settlement:
    """Settles ended processes, one activity at a time for each of a few connections.

    The records to settle are state in the ledger, not messages, so a new keeper finds them again.

    Args:
        confirmations: receives the engine's answers.
        deadline_s: seconds for each call.
        poison_after: see `CrashReports`.
        clock: monotonic seconds.
        adoptions: offers what had not begun to living processes before.

    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        confirmations: Confirmations,
        *,
        deadline_s: float,
        poison_after: int,
        clock: Callable[[], float],
        adoptions: Adoptions,
    ) -> None:
        self._adoptions = adoptions
        self._engine = engine
        self._ledger = ledger
        self._confirmations = confirmations
        self._places = asyncio.Semaphore(PLACES)
        self._deadline_s = deadline_s
        self._reports = CrashReports(ledger.crash_history, poison_after)
        self._clock = clock
        self._rng = random.Random()

    async def settle(self, segments: Sequence[Segment]) -> None:
        """Settles every record of an ended process, then frees its segments; when cancelled, it frees none.

        Args:
            segments: all segments of the process, one for each worker thread.

        """
        held = [(segment, record) for segment in segments for record in segment.records()]
        remains = Remains.of_process(held)
        owed = [(segment, record) for segment, record in held if record.is_owed]
        self._adoptions.open(held)
        await asyncio.gather(*(self._settle_unadopted(segment, record, remains) for segment, record in owed))
        for segment in segments:
            self._free(segment)

    def _free(self, segment: Segment) -> None:
        """Frees a segment, even a corrupt one, which must not stay taken or be settled again."""
        if unread := unread_in(segment):
            note = "these activities wait for the end of their leases"
            log.error("records_unreadable", records=unread, note=note, **name_of_segment(segment))
        try:
            self._ledger.absorb(segment)
        except Exception as error:
            log.error("segment_unreadable", **name_of_segment(segment), exc_info=error)
            segment.settled()

    async def settle_crashed(self, segment: Segment, record: Record) -> None:
        """Settles a CRASHED record of a live process, which reads the verdict."""
        await self._settle_one(segment, record, Remains(None))

    async def _settle_unadopted(self, segment: Segment, record: Record, remains: Remains) -> None:
        if not await self._adoptions.adopts(segment, record):
            await self._settle_one(segment, record, remains)

    async def _settle_one(self, segment: Segment, record: Record, remains: Remains) -> None:
        if segment.standing(record.index, record.sequence) is Standing.SETTLED:
            return  # by a keeper that died during the settlement
        ids = ids_of(self._ledger, segment, record)
        if record.claim is not Claim.REPORTING:  # its worker has counted a reported one itself
            self._ledger.seen.keeper.add(record.activity_id)
        try:
            ended_at = self._clock()
            told = await self._until_told(segment, record, remains, ids)
        except EngineError as error:
            reason = str(error)  # without a traceback, which would add nothing
            log.error("settlement_given_up", reason=reason, **ids)
            self._ledger.conclude(Host.UNSETTLED, segment, record, Standing.SETTLED)
            return
        except Exception:  # a segment must not stay taken because of one record
            log.exception("internal_error", **ids)
            segment.judge(record, Standing.SETTLED, 0.0)
            return
        self._ledger.conclude(Host.SETTLED, segment, record, Standing.SETTLED)
        how, end = _ends_of(told)
        if segment.life is Life.ENDED:  # otherwise its worker counts it
            segment.work.counts.ended(segment.work.entry_of(record.name), how)
        failure = told.failure
        if failure is not None and told.done is not Settled.FAILED:
            failure = replace(failure, message=f"{failure.message} ({told.done})")
        if failure is not None and not told.will_retry:
            failure = replace(failure, retryable=False)
        remember(self._ledger, segment, record, ended_at, self._clock(), failure, end)
        cost_usd, usage = spent_of(segment, record)
        spent = {"cost_usd": cost_usd, "usage": list(usage)} if cost_usd or usage else {}
        _say(told, {**_past_of(segment, record, ended_at), **spent, **ids})

    async def _until_told(
        self, segment: Segment, record: Record, remains: Remains, ids: Mapping[str, Any]
    ) -> _Told:
        """Retries through outages; raises the last EngineError when it gives up."""
        began_at = self._clock()
        give_up_at = began_at + max(record.lease_s, _TRIED_FOR_AT_LEAST_S)
        failures = 0
        while True:
            try:
                async with self._places:
                    asked_at = self._clock()
                    return await self._tell(segment, record, remains)
            except EngineError as error:
                failures += 1
                if error.is_engines:
                    self._confirmations.answered(segment, record, asked_at)
                if self._clock() > give_up_at:
                    raise
                if failures == 1:
                    log.warning("settlement_delayed", reason=str(error), **ids)
                lasted_s = self._clock() - began_at
                await asyncio.sleep(_BACKOFF.delay_s(failures, self._rng, lasted_s=lasted_s))

    async def _tell(self, segment: Segment, record: Record, remains: Remains) -> _Told:
        """Sends the stored result, or else a failure, once."""
        kept = segment.journal(record.index) if record.claim is Claim.REPORTING else None
        if kept is not None:
            answer = await self._engine.complete(record.activity_id, kept, self._deadline_s)
            if answer.verdict not in {Verdict.REFUSED, Verdict.TOO_LARGE}:
                return _Told(_settled(answer, Settled.COMPLETED))
        cost_usd, usage = spent_of(segment, record)
        failure = self._reports.failure_of(segment, record, remains)
        failure = replace(failure, cost_usd=cost_usd, usage=usage)
        body = self._engine.encode_failure(record.worker_id, failure)
        answer = await self._engine.fail(record.activity_id, body, self._deadline_s)
        return _Told(_settled(answer, Settled.FAILED), failure, will_retry=answer.will_retry)


def name_of_segment(segment: Segment) -> dict[str, int]:
    """Process and pid of a segment, as far as they can be read."""
    return {"segment": segment.number, "process": segment.get(Cell.PROCESS), "pid": segment.get(Cell.PID)}


_OTHERWISE = {
    Verdict.GONE: Settled.BEFORE,
    Verdict.UNKNOWN: Settled.UNKNOWN,
    Verdict.REFUSED: Settled.REFUSED,
    Verdict.TOO_LARGE: Settled.REFUSED,
}


def _ends_of(told: _Told) -> tuple[Ended, End]:
    """Returns the end for the counts and for the history."""
    if told.failure is not None:
        return Ended.CRASHED, End.SETTLED
    return (Ended.COMPLETED, End.DELIVERED) if told.done is Settled.COMPLETED else (Ended.LOST, End.LOST)


def _settled(answer: Answer, accepted: Settled) -> Settled:
    return _OTHERWISE.get(answer.verdict, accepted)


def _past_of(segment: Segment, record: Record, ended_at: float) -> dict[str, Any]:
    """Returns the pid of the dead process, and the known times of the attempt, for the log."""
    past: dict[str, Any] = {"pid": segment.get(Cell.PID)} if segment.life is Life.ENDED else {}
    if record.started_at and record.claim is not Claim.REPORTING:
        past["took_s"] = round(ended_at - record.started_at, 4)
        past["waited_s"] = round(record.started_at - record.claimed_at, 4)
    return past


def spent_of(segment: Segment, record: Record) -> tuple[str | None, tuple[Usage, ...]]:
    """Returns the cost and usage that the attempt recorded before its process ended."""
    sums = segment.usage(record.usage_page, record.usage_sequence).read()
    return (None, ()) if sums is None else unpack(sums)


def remember(
    ledger: Ledger,
    segment: Segment,
    record: Record,
    ended_at: float,
    now: float,
    failure: Failed | None,
    end: End = End.SETTLED,
) -> None:
    """Adds an attempt that the keeper has settled to the history; `failure` is None for a stored result."""
    beat_at = segment.last_ok(record.index, record.sequence)
    times = (record.started_at, ended_at, now, beat_at)
    ledger.history.add(record, times, segment.get(Cell.PROCESS), failure, end)
