"""Delivers one outcome until the engine has taken it or never will; it never runs handlers.

A delivery is not an outcome: an undelivered success stays a success and is never turned into a failure,
except that the engine itself refuses its bytes for good (protocol.md §6.4, faults.md E5, E6, E27), or that a proxy
has done so for as long as the activity may run, counted from its first answer (faults.md N7).

Nearly all completions are accepted at the first try: such a one takes no task, only a call that is begun and a
callback. Whatever else comes of that first try, a task goes on from there.

A call under way is never cancelled: the engine makes two writes of it, and drops the second when the
connection ends in between. Withdrawing a delivery lets the present call end, and makes no other.
"""

from __future__ import annotations

import asyncio
import random
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import structlog

from flowherd import crashpoints
from flowherd.client.protocol import Answer, Engine, Verdict
from flowherd.errors import EngineError
from flowherd.model import Completed, Failed
from flowherd.transport.progress import LARGE_BODY_BYTES
from flowherd.worker.changes import Changes
from flowherd.worker.parcel import Parcel, Withdrawn, refused
from flowherd.worker.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowherd.client.circuit import Circuit

FAIL_TRIES = (
    40  # `fail` is not idempotent, but a fence per poll makes a late repeat harmless (protocol.md §7)
)

log = structlog.stdlib.get_logger(__name__)


class Delivery(Enum):
    """What became of an outcome."""

    ACCEPTED = "accepted"
    REPLACED = "replaced"  # the engine refused the output; a failure that says so was delivered instead
    GONE = "gone"  # the attempt was no longer ours
    DROPPED = "dropped"  # the engine does not know the activity, or refuses every form of the outcome
    WITHDRAWN = "withdrawn"  # nobody wanted it to be delivered any more


_ACCEPTED, _DELIVERED = Verdict.ACCEPTED, Delivery.ACCEPTED  # looked up for each activity, which is dear


class Reporter:
    """Sends `complete` and `fail` through the worker's circuit.

    Args:
        deadline_s: seconds for each try, besides what its bytes take.
        limit_s: of activities that have none of their own.
        most_large: bodies of more than `LARGE_BODY_BYTES` that may be on their way at once (faults.md N8).

    """

    def __init__(
        self,
        engine: Engine,
        circuit: Circuit,
        deadline_s: float,
        *,
        limit_s: float = 300.0,
        most_large: int = 1,
    ) -> None:
        self._engine = engine
        self._circuit = circuit
        self._deadline_s = deadline_s
        self._limit_s = limit_s
        self._large = asyncio.Semaphore(most_large)
        self._rng = random.Random()
        self._under_way = 0
        self._still = Changes()
        self._tasks = Tasks()

    def post(
        self,
        activity_id: str,
        fence: Callable[[], str | None],
        outcome: Completed | Failed,
        encoded: tuple[str, bytes | None],
        then: Callable[[Delivery], None],
        timeout_s: float | None = None,
    ) -> None:
        """As `deliver`, for callers that do not wait: `then` is called with what became of it.

        A worker_id in `encoded` must be that of this moment's fence.
        """
        if isinstance(outcome, Failed):
            self._tasks.spawn(self._to_the_end(self._fail(activity_id, fence, outcome, timeout_s), then))
            return
        speaker, body = encoded
        parcel_of = partial(self._parcel, activity_id, fence, outcome, timeout_s)
        if self._circuit.failures or not speaker or len(outcome.output) > LARGE_BODY_BYTES:
            self._go_on(parcel_of(encoded), outcome, then)
            return
        if body is None:
            body = self._engine.encode_completion(speaker, outcome)
        sent = (speaker, body)
        replied = partial(self._replied, parcel_of, outcome, sent, then)
        if self._engine.begin_complete(activity_id, body, self._deadline_s, replied):
            self._under_way += 1
        else:
            self._go_on(parcel_of(sent), outcome, then)

    def _go_on(
        self,
        parcel: Parcel,
        outcome: Completed,
        then: Callable[[Delivery], None],
        first: Answer | EngineError | None = None,
    ) -> None:
        self._tasks.spawn(self._to_the_end(self._complete(parcel, outcome, first), then))

    def _replied(
        self,
        parcel_of: Callable[[tuple[str, bytes | None]], Parcel],
        outcome: Completed,
        sent: tuple[str, bytes],
        then: Callable[[Delivery], None],
        answer: Answer | EngineError | None,
    ) -> None:
        """What came of a first try: done, or a task goes on. The circuit was open when it began."""
        self._under_way -= 1
        if not self._under_way:
            self._still.note()
        if isinstance(answer, Answer):
            if self._circuit.failures:
                self._circuit.succeeded()
            if answer.verdict is _ACCEPTED and not answer.detail:
                crashpoints.reached("after_report")
                then(_DELIVERED)
                return
        if isinstance(answer, EngineError):
            self._circuit.failed(answer, 0)
        self._go_on(parcel_of(sent), outcome, then, answer)

    async def _to_the_end(self, delivery: Awaitable[Delivery], then: Callable[[Delivery], None]) -> None:
        """Calls `then` whatever happens: who delivers for ever would never be given more."""
        result = Delivery.WITHDRAWN
        try:
            result = await self._said(delivery)
        finally:
            then(result)

    async def deliver(
        self,
        activity_id: str,
        fence: Callable[[], str | None],
        outcome: Completed | Failed,
        encoded: tuple[str, bytes | None] = ("", None),
        timeout_s: float | None = None,
    ) -> Delivery:
        """Tries until there is a verdict.

        Args:
            activity_id: whose outcome it is.
            fence: the worker_id to speak under; None withdraws the delivery.
            outcome: what to deliver, unchanged however often it is tried.
            encoded: a worker_id, and the completion's bytes for it where somebody has made them already.
            timeout_s: the activity's, None where it has none of its own.

        """
        if isinstance(outcome, Failed):
            return await self._said(self._fail(activity_id, fence, outcome, timeout_s))
        parcel = self._parcel(activity_id, fence, outcome, timeout_s, encoded)
        return await self._said(self._complete(parcel, outcome))

    async def _said(self, delivery: Awaitable[Delivery]) -> Delivery:
        try:
            result = await delivery
        except Withdrawn:
            return Delivery.WITHDRAWN
        crashpoints.reached("after_report")
        return result

    async def calls_ended(self) -> None:
        """Returns when no call is under way, as before a connection is closed."""
        await self._still.until(lambda: not self._under_way)

    async def _try(self, parcel: Parcel, first: Answer | EngineError | None = None) -> Answer | None:
        """One try, unless the `first` has been made; None when it did not end in a verdict.

        The circuit makes others wait after an error that concerns them too; after any other this parcel waits alone.
        """
        answer = first or await self._tried(parcel)
        if isinstance(answer, Answer):
            return answer
        now = asyncio.get_running_loop().time()
        parcel.failed(answer, now)
        if (verdict := parcel.last_word(answer, now)) is not None:
            return verdict
        if answer.is_of_the_call:
            await self._circuit.pause(parcel.pause_s(self._rng))
        return None

    async def _tried(self, parcel: Parcel) -> Answer | EngineError:
        """Large bodies wait for one another first: polls, and all that is light, find senders that are free."""
        try:
            if not parcel.is_large:
                return await self._circuit.through(lambda: self._counted(parcel.try_once()))
            async with self._large:
                return await self._circuit.through(lambda: self._counted(parcel.try_once()), is_long=True)
        except EngineError as error:
            return error

    async def _counted(self, call: Awaitable[Answer]) -> Answer:
        self._under_way += 1
        try:
            return await call
        finally:
            self._under_way -= 1
            self._still.note()

    def _parcel(
        self,
        activity_id: str,
        fence: Callable[[], str | None],
        outcome: Completed,
        timeout_s: float | None,
        encoded: tuple[str, bytes | None],
    ) -> Parcel:
        parcel = Parcel(
            activity_id,
            fence,
            lambda worker_id: self._engine.encode_completion(worker_id, outcome),
            self._engine.complete,
            self._deadline_s,
            self._limit_s if timeout_s is None else timeout_s,
            is_large=len(outcome.output) > LARGE_BODY_BYTES,
        )
        if encoded[1] is not None:
            parcel.sent_as, parcel.body = encoded[0], encoded[1]
        return parcel

    async def _complete(
        self, parcel: Parcel, outcome: Completed, first: Answer | EngineError | None = None
    ) -> Delivery:
        """Tries on, unless the `first` try has been answered with a verdict."""
        activity_id = parcel.activity_id
        while True:
            answer, first = await self._try(parcel, first), None
            if answer is None:
                continue
            match answer.verdict:
                case Verdict.ACCEPTED:
                    if answer.detail:
                        log.warning("completion_warnings", activity_id=activity_id, warnings=answer.detail)
                    return Delivery.ACCEPTED
                case Verdict.GONE if parcel.is_outdated:
                    continue
                case Verdict.GONE:
                    log.warning("completion_not_ours_any_more", activity_id=activity_id, reason=answer.detail)
                    return Delivery.GONE
                case Verdict.UNKNOWN:
                    log.error("activity_unknown_to_engine", activity_id=activity_id, reason=answer.detail)
                    return Delivery.DROPPED
                case Verdict.REFUSED:
                    failure = refused(len(parcel.body), answer.detail, outcome)
                    log.error("output_refused", activity_id=activity_id, reason=answer.detail)
                    delivery = await self._fail(activity_id, parcel.fence, failure, parcel.limit_s)
                    return Delivery.REPLACED if delivery is Delivery.ACCEPTED else delivery

    async def _fail(
        self, activity_id: str, fence: Callable[[], str | None], outcome: Failed, timeout_s: float | None
    ) -> Delivery:
        parcel = Parcel(
            activity_id,
            fence,
            lambda worker_id: self._engine.encode_failure(worker_id, outcome),
            self._engine.fail,
            self._deadline_s,
            self._limit_s if timeout_s is None else timeout_s,
        )
        while parcel.failures < FAIL_TRIES:
            answer = await self._try(parcel)
            if answer is None:
                continue
            match answer.verdict:
                case Verdict.ACCEPTED:
                    return Delivery.ACCEPTED
                case Verdict.GONE if parcel.is_outdated:
                    continue
                case Verdict.GONE:  # after a try in doubt: that one had arrived (protocol.md R10)
                    return Delivery.ACCEPTED if parcel.in_doubt else Delivery.GONE
                case Verdict.UNKNOWN | Verdict.REFUSED:
                    log.error("failure_refused_by_engine", activity_id=activity_id, reason=answer.detail)
                    return Delivery.DROPPED
        log.error("failure_given_up", activity_id=activity_id, tries=FAIL_TRIES)
        return Delivery.DROPPED
