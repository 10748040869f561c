"""Heartbeats: each lease has its own schedule, and no call delays another for longer than the leases allow.

A failed beat is retried within a third of its lease, regardless of Retry-After. Three limits bound the calls under way,
so that neither an outage nor unanswered beats delay the others:

    places   64 calls at once, the lease that ends first before others. A call that begins when half of the places
             are taken has a deadline of at most a third of the shortest lease
    again    32 of the places for beats whose last try was not answered, first those that can still save a lease
    silence  while the engine does not answer at all, these are sent singly after growing pauses (`Contact`)
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from heapq import heapify, heappop
from typing import TYPE_CHECKING

import structlog

from flowherd.background import Tasks
from flowherd.client.engine_protocol import Answer, Engine, Verdict
from flowherd.errors import EngineDisconnected, EngineError
from flowherd.leases.heartbeat_contact import Contact, Trouble
from flowherd.leases.record_ids import ids_of
from flowherd.ledger import FINAL, Claim, Host, Ledger, Record, Segment, Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.leases.poll_hold import Confirmations
    from flowherd.settings.worker_config import WorkerConfig

PLACES = 64  # calls under way, and so connections
_AGAIN = 32  # of these places, for beats whose last try was not answered
_SHORTEST_BEAT_S = 0.1  # a lease shorter than the round trip must not cause a busy loop (faults.md E22)
_AT_ONCE_BELOW_S = 2.0  # a shorter lease gets its first beat at once
_SHORTEST_CALL_S, _LONGEST_CALL_S = 1.0, 10.0
_REFUSALS = frozenset({Verdict.REFUSED, Verdict.TOO_LARGE})
_LONGEST_PAUSE_S = 2.0  # after an unanswered beat

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Watch:
    """The state of one record's heartbeats between scans."""

    next_beat_at: float
    failures: int = 0  # consecutive
    was_answered: bool = True  # by the engine at the last try, even with an error
    begun_at: float | None = None  # start of the call under way


@dataclass(slots=True, order=True)
class _Due:
    """A beat that is due; ordered by priority."""

    is_again: bool
    has_lapsed: bool
    lapses_at: float
    order: int
    segment: Segment
    record: Record
    watch: _Watch


class Heartbeats:
    """Sends the heartbeats of records, and stores the engine's answers as verdicts.

    Args:
        scan_s: seconds between two calls of `attend`; a beat is sent this much early rather than late.
        wake: wakes the worker in a segment, after a verdict.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        config: WorkerConfig,
        confirmations: Confirmations,
        wake: Callable[[int], None],
        clock: Callable[[], float],
        *,
        scan_s: float,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._config = config
        self._confirmations = confirmations
        self._wake = wake
        self._clock = clock
        self._scan_s = scan_s
        self._rng = random.Random()
        self._watched: dict[tuple[int, int], _Watch] = {}
        self._due: list[_Due] = []
        self._under_way = self._again = 0
        self._shortest_lease_s = 0.0
        self._contact = Contact()
        self._trouble = Trouble()
        self._short_leases: set[str] = set()
        self._tasks = Tasks()

    def __repr__(self) -> str:
        return (
            f"<Heartbeats [{len(self._watched)} leases, {self._under_way} calls under way] {self._contact!r}>"
        )

    def attend(self, held: list[tuple[Segment, Record]], now: float) -> None:
        """Begins the due beats of all records that live processes hold."""
        self._shortest_lease_s = min((record.lease_s for _, record in held), default=0.0)
        known, self._watched = self._watched, {}
        due: list[_Due] = []
        for segment, record in held:
            key = segment.number, record.sequence
            watch = self._watched[key] = known.get(key) or self._first_watch(record, now)
            if self._is_due(segment, record, watch, now):
                lapses_at = (
                    max(record.claimed_at, segment.last_ok(record.index, record.sequence)) + record.lease_s
                )
                due.append(
                    _Due(not watch.was_answered, lapses_at < now, lapses_at, len(due), segment, record, watch)
                )
        heapify(due)
        self._due = due
        self._begin_due()
        if self._trouble and not any(map(self._is_in_trouble, self._watched.values())):
            self._trouble.over(now)

    async def aclose(self) -> None:
        """Ends all calls."""
        await self._tasks.end()

    def _is_in_trouble(self, watch: _Watch) -> bool:
        """True when the last try failed, or the call under way began in the silence and may stay unanswered."""
        in_silence = watch.begun_at is not None and watch.begun_at <= self._contact.heard_since
        return watch.failures > 0 or in_silence

    def _is_due(self, segment: Segment, record: Record, watch: _Watch, now: float) -> bool:
        if watch.begun_at is not None or now < watch.next_beat_at - self._early_s(record):
            return False
        # No beat for an activity that another worker holds: it could only do harm.
        return segment.standing(record.index, record.sequence) is not Standing.GONE

    def _first_watch(self, record: Record, now: float) -> _Watch:
        """Schedules the first beat an interval after the claim; at once for a short lease or after a late start."""
        first = record.claimed_at + self._interval_s(record)
        return _Watch(now if record.lease_s < _AT_ONCE_BELOW_S else max(first, now))

    def _early_s(self, record: Record) -> float:
        """Seconds by which a beat may be sent early, rather than late at the next scan; less for a short interval."""
        return max(self._scan_s / 2, min(self._scan_s, self._config.beat_interval_s(record.lease_s) / 10))

    def _interval_s(self, record: Record) -> float:
        interval = max(self._config.beat_interval_s(record.lease_s), _SHORTEST_BEAT_S)
        return interval * self._rng.uniform(0.9, 1.0)

    # Calls

    def _begin_due(self) -> None:
        """Begins as many due beats as there are places."""
        now = self._clock()
        while self._due and self._under_way < PLACES:
            if self._due[0].is_again and not self._may_try_again(now):
                return
            due = heappop(self._due)
            patience_s = due.record.lease_s if self._under_way < PLACES / 2 else self._shortest_lease_s
            due.watch.begun_at = now
            self._under_way += 1
            self._again += due.is_again
            self._tasks.spawn(self._beat(due, now, patience_s / 3))

    def _may_try_again(self, now: float) -> bool:
        return self._again < _AGAIN and self._contact.may_try_again(now, self._shortest_lease_s)

    async def _beat(self, due: _Due, now: float, patience_s: float) -> None:
        record, watch = due.record, due.watch
        wait_s = min(self._interval_s(record), _LONGEST_PAUSE_S)  # in case of an unexpected exception
        try:
            deadline_s = max(_SHORTEST_CALL_S, min(_LONGEST_CALL_S, patience_s))
            answer = await self._engine.heartbeat(record.activity_id, record.worker_id, deadline_s)
        except EngineError as error:
            watch.failures += 1
            wait_s = self._after_failure(due, error, now)
        else:
            wait_s = self._after_answer(due, answer, now)
        finally:
            self._under_way -= 1
            self._again -= due.is_again
            watch.begun_at = None
            watch.next_beat_at = self._clock() + wait_s
        self._begin_due()

    def _after_failure(self, due: _Due, error: EngineError, asked_at: float) -> float:
        """Returns seconds until the next try: at most a third of the lease, less at first or without an answer."""
        record, failures, now = due.record, due.watch.failures, self._clock()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("heartbeat_failed", reason=str(error), **ids_of(self._ledger, due.segment, record))
        self._trouble.met(error, now, failures)
        interval_s = self._interval_s(record)
        due.watch.was_answered = error.is_engines
        if error.is_engines:
            self._confirmations.answered(due.segment, record, asked_at)
            self._contact.answered(now)
            return interval_s / 2 if failures == 1 else interval_s
        self._contact.ended_unanswered(asked_at, now)
        if failures == 1 and isinstance(error, EngineDisconnected):
            return 0.0  # the connection may only have been idle for too long (faults.md E4)
        return min(interval_s / 2, _LONGEST_PAUSE_S) * self._rng.uniform(0.5, 1.0)

    def _after_answer(self, due: _Due, answer: Answer, asked_at: float) -> float:
        """Returns seconds until the next beat."""
        record, now = due.record, self._clock()
        due.watch.was_answered = True
        self._contact.answered(now)
        self._confirmations.answered(due.segment, record, asked_at)
        took_s = now - asked_at
        if took_s > record.lease_s / 3 and record.name not in self._short_leases:
            self._short_leases.add(record.name)
            ids = ids_of(self._ledger, due.segment, record)
            log.warning("lease_too_short", lease_s=record.lease_s, took_s=took_s, **ids)
        if answer.verdict in _REFUSALS:
            return self._after_refusal(due, answer)
        due.watch.failures = 0
        self._judge(due.segment, record, answer, asked_at)
        return self._interval_s(record)

    def _after_refusal(self, due: _Due, answer: Answer) -> float:
        due.watch.failures += 1
        if due.watch.failures == 1:
            ids = ids_of(self._ledger, due.segment, due.record)
            log.error("heartbeat_refused", reason=answer.detail, **ids)
        return self._interval_s(due.record)

    def _judge(self, segment: Segment, record: Record, answer: Answer, asked_at: float) -> None:
        """Stores the verdict, unless the record has changed since."""
        present = segment.record(record.index)
        if present is None or present.sequence != record.sequence or not segment.readable:
            return
        if present.claim is Claim.CRASHED:
            return  # its settlement has the last word
        if segment.standing(record.index, record.sequence) in FINAL:
            return  # it was cancelled, or adopted, while the beat was under way
        if segment.adoption.decision(present):
            return  # its process has ended, and what the keeper tells the engine has the last word
        if answer.verdict is Verdict.ACCEPTED:
            segment.judge(record, Standing.GOOD, asked_at)
            return
        self._ledger.conclude(Host.LEASES_LOST, segment, record, Standing.GONE)
        log.warning("lease_lost", reason=answer.detail, **ids_of(self._ledger, segment, record))
        self._wake(segment.number)
