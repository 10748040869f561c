"""Cancels activities for an operator: reports it to the engine first, then revokes its lease in the worker."""

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

CANCELLED = (
    "cancelled by an operator"  # the message of the failure, which the engine keeps; it drops the code
)
ANSWERED_WITHIN_S = 15.0  # the admin API drops a request that is not answered in 20 s
_STOPS = "its handler is told to stop"

log = structlog.stdlib.get_logger(__name__)


class NotCancelled(FlowherdError):
    """The activity was not cancelled; the message gives the reason."""


class _Unanswered(NotCancelled):
    """The engine has not answered."""


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

    async def cancel(self, wanted: str, *, requeue: bool) -> str:
        """Cancels an activity, or all of a workflow that the host holds; returns one line about the result.

        The handler is stopped as after a lost lease: a coroutine is cancelled, an isolate is stopped, and a thread runs
        on, but its outcome is not reported.

        Args:
            wanted: the id of the activity or of the workflow.
            requeue: True if the engine may hand it out again, which costs an attempt; else it fails for good.

        Raises:
            NotCancelled: no process here holds it, its result is being reported, or the engine did not accept it. Of
                a workflow's activities some may have been cancelled; the message says which.

        """
        found = self._find(wanted)
        if len(found) == 1:
            return await self._cancel(*found[0], requeue=requeue)
        lines, is_whole = [], True
        for number, (segment, record) in enumerate(found, 1):
            try:
                lines.append(await self._cancel(segment, record, requeue=requeue))
            except NotCancelled as error:
                is_whole = False
                lines.append(f"{record.activity_id}: {error}")
                if isinstance(error, _Unanswered) and number < len(found):  # each would wait as long
                    lines.append(f"{len(found) - number} more not tried")
                    break
        if not is_whole:
            raise NotCancelled(". ".join(lines))
        return ". ".join(lines)

    async def _cancel(self, segment: Segment, record: Record, *, requeue: bool) -> str:
        activity_id = record.activity_id
        decided_at, ids = self._clock(), ids_of(self._ledger, segment, record)
        cost_usd, usage = spent_of(segment, record)
        failure = Failed("CANCELLED", CANCELLED, retryable=requeue)
        body = self._engine.encode_failure(record.worker_id, replace(failure, cost_usd=cost_usd, usage=usage))
        try:
            answer = await self._engine.fail(activity_id, body, self._deadline_s)
        except EngineError as error:
            again = "; it may have taken it: try again" if error.in_doubt else ""
            raise _Unanswered(
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

    def _find(self, wanted: str) -> list[tuple[Segment, Record]]:
        """Returns the activity of this id, or those of the workflow; each once."""
        owed = list(self._owed(wanted))
        held: dict[str, tuple[Segment, Record]] = {}
        for segment, record in owed:
            if record.claim is Claim.HELD:
                held.setdefault(record.activity_id, (segment, record))
        if not owed:
            raise NotCancelled(
                f"no process of this host holds an activity {wanted}, and none of a workflow of this id"
            )
        if not held:
            raise NotCancelled(f"{wanted} has ended: its result is on its way to the engine")
        return list(held.values())

    def _revoke(self, claim: Record) -> None:
        """Tells who holds the claim now: it may have been adopted while the engine was asked."""
        for segment, record in self._owed(claim.activity_id):
            if record.worker_id == claim.worker_id:
                standing = Standing.GONE if segment.life is Life.LIVE else Standing.SETTLED
                segment.judge(record, standing, segment.last_ok(record.index, record.sequence))
                self._wake(segment.number)

    def _owed(self, wanted: str) -> Iterator[tuple[Segment, Record]]:
        """Yields the records of an activity or workflow: of living processes, and what is not adopted of dead ones."""
        for segment in self._ledger.segments:
            if segment.life is Life.FREE:
                continue
            for record in segment.records():
                if (
                    wanted in {record.activity_id, record.workflow_id}
                    and record.is_owed
                    and not segment.adoption.decision(record)
                ):
                    yield segment, record
