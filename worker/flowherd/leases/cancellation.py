"""Cancels one activity for an operator: reports it to the engine first, then revokes its lease in the worker."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from flowherd.activities_and_outcomes import Failed
from flowherd.client.engine_protocol import Verdict
from flowherd.errors import EngineError, FlowherdError
from flowherd.leases.record_ids import ids_of
from flowherd.leases.settlement import remember, spent_of
from flowherd.ledger import Claim, Life, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowherd.client.engine_protocol import Engine
    from flowherd.ledger import Ledger, Record, Segment

_STOPS = "its handler is told to stop"

log = structlog.stdlib.get_logger(__name__)


class NotCancelled(FlowherdError):
    """The activity was not cancelled; the message gives the reason."""


def _done(requeue: bool, will_retry: bool) -> str:  # noqa: FBT001 - two words of one sentence
    if requeue and will_retry:
        return "goes back to the engine"
    return "has failed for good (CANCELLED)" + (": it had no attempt left" if requeue else "")


class Canceller:
    """Fails an activity that the host holds, and revokes its lease in whatever process holds it then.

    Args:
        engine: sends the failure.
        ledger: the ledger to search.
        wake: wakes the worker in a segment, after the verdict.
        deadline_s: seconds for the call.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        wake: Callable[[int], None],
        *,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._wake = wake
        self._deadline_s = deadline_s
        self._clock = clock

    async def cancel(self, activity_id: str, *, requeue: bool) -> str:
        """Cancels an activity; returns one line about the result.

        The handler is stopped as after a lost lease: a coroutine is cancelled, an isolate is stopped, and a thread runs
        on, but its outcome is not reported.

        Args:
            activity_id: the activity's id.
            requeue: True if the engine may hand it out again, which costs an attempt; else it fails for good.

        Raises:
            NotCancelled: no process here holds it, its result is being reported, or the engine did not accept it.

        """
        segment, record = self._find(activity_id)
        decided_at, ids = self._clock(), ids_of(self._ledger, segment, record)
        cost_usd, usage = spent_of(segment, record)
        failure = Failed("CANCELLED", "cancelled by an operator", retryable=requeue)
        body = self._engine.encode_failure(record.worker_id, replace(failure, cost_usd=cost_usd, usage=usage))
        try:
            answer = await self._engine.fail(activity_id, body, self._deadline_s)
        except EngineError as error:
            again = "; it may have taken it: try again" if error.in_doubt else ""
            raise NotCancelled(
                f"the engine has not answered, so nothing was stopped: {error}{again}"
            ) from None
        if answer.verdict not in {Verdict.ACCEPTED, Verdict.GONE}:
            raise NotCancelled(f"the engine has not taken it: {answer.detail or answer.verdict.value}")
        self._revoke(record)
        if answer.verdict is Verdict.ACCEPTED:
            told = replace(failure, retryable=requeue and answer.will_retry)
            remember(self._ledger, segment, record, decided_at, self._clock(), told)
        log.warning("activity_cancelled", requeued=requeue and answer.will_retry, **ids)
        if answer.verdict is Verdict.GONE:
            return f"{record.name} {activity_id} is not this host's any more ({answer.detail}); {_STOPS}"
        return f"{record.name} {activity_id} {_done(requeue, answer.will_retry)}; {_STOPS}"

    def _find(self, activity_id: str) -> tuple[Segment, Record]:
        for segment, record in self._owed(activity_id):
            if record.claim is not Claim.HELD:
                raise NotCancelled(f"{activity_id} has ended: its result is on its way to the engine")
            return segment, record
        raise NotCancelled(f"no process of this host holds an activity {activity_id}")

    def _revoke(self, claim: Record) -> None:
        """Tells who holds the claim now: it may have been adopted while the engine was asked."""
        for segment, record in self._owed(claim.activity_id):
            if record.worker_id == claim.worker_id:
                standing = Standing.GONE if segment.life is Life.LIVE else Standing.SETTLED
                segment.judge(record, standing, segment.last_ok(record.index, record.sequence))
                self._wake(segment.number)

    def _owed(self, activity_id: str) -> Iterator[tuple[Segment, Record]]:
        """Yields the records of an activity in living processes, and of dead ones if nobody goes on with them yet."""
        for segment in self._ledger.segments:
            if segment.life is Life.FREE:
                continue
            for record in segment.records():
                if (
                    record.activity_id == activity_id
                    and record.is_owed
                    and not segment.adoption.decision(record)
                ):
                    yield segment, record
