"""Delivers one outcome until the engine has taken it or never will; it never runs handlers.

A delivery is not an outcome: an undelivered success stays a success and is never turned into a failure,
except that the engine itself refuses its bytes for good (protocol.md §6.4, faults.md E5, E6, E27).

A call under way is never cancelled: the engine makes two writes of it, and drops the second when the
connection ends in between. Withdrawing a delivery lets the present call end, and makes no other.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from flowherd.activity import Completed, Failed
from flowherd.engine import Answer, Engine, Verdict
from flowherd.errors import EngineError
from flowherd.process import crashpoints

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowherd.client.gate import Gate

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


class _Withdrawn(Exception):
    """The fence has become None."""


@dataclass(slots=True)
class _Parcel:
    """An outcome on its way: encoded once for each fence, so that repeated tries send identical bytes.

    Attributes:
        fence: the worker_id at the time of the try: a repeated claim replaces it (protocol.md R11).
        in_doubt: whether an earlier try with the same fence may have arrived.

    """

    activity_id: str
    fence: Callable[[], str | None]
    encode: Callable[[str], bytes]
    send: Callable[[str, bytes, float], Awaitable[Answer]]
    deadline_s: float
    sent_as: str | None = None
    body: bytes = b""
    in_doubt: bool = False

    async def try_once(self) -> Answer:
        """Encodes for the present fence and sends; asked after the gate has let it through, not before."""
        worker_id = self.fence()
        if worker_id is None:
            raise _Withdrawn
        if worker_id != self.sent_as:
            self.body, self.sent_as, self.in_doubt = self.encode(worker_id), worker_id, False
        return await self.send(self.activity_id, self.body, self.deadline_s)

    @property
    def is_outdated(self) -> bool:
        """Whether the last answer was to a fence that has been replaced since, and so says nothing."""
        return self.fence() not in {self.sent_as, None}


class Reporter:
    """Sends `complete` and `fail` through the worker's gate.

    Args:
        deadline_s: seconds for each try.

    """

    def __init__(self, engine: Engine, gate: Gate, deadline_s: float) -> None:
        self._engine = engine
        self._gate = gate
        self._deadline_s = deadline_s
        self._under_way = 0
        self._still = asyncio.Event()
        self._still.set()

    async def deliver(
        self,
        activity_id: str,
        fence: Callable[[], str | None],
        outcome: Completed | Failed,
        encoded: tuple[str, bytes | None] = ("", None),
    ) -> Delivery:
        """Tries until there is a verdict.

        Args:
            activity_id: whose outcome it is.
            fence: the worker_id to speak under; None withdraws the delivery.
            outcome: what to deliver, unchanged however often it is tried.
            encoded: a worker_id, and the completion's bytes for it where somebody has made them already.

        """
        try:
            if isinstance(outcome, Failed):
                delivery = await self._fail(activity_id, fence, outcome)
            else:
                delivery = await self._complete(activity_id, fence, outcome, encoded)
        except _Withdrawn:
            return Delivery.WITHDRAWN
        crashpoints.reached("after_report")
        return delivery

    async def calls_ended(self) -> None:
        """Returns when no call is under way, as before a connection is closed."""
        await self._still.wait()

    async def _try(self, parcel: _Parcel) -> Answer | None:
        """One try; None when it did not end in a verdict."""
        try:
            return await self._gate.through(lambda: self._counted(parcel.try_once()))
        except EngineError as error:
            parcel.in_doubt = parcel.in_doubt or error.in_doubt
            log.debug("outcome_not_delivered_yet", activity_id=parcel.activity_id, reason=str(error))
            return None

    async def _counted(self, call: Awaitable[Answer]) -> Answer:
        self._under_way += 1
        self._still.clear()
        try:
            return await call
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._still.set()

    async def _complete(
        self,
        activity_id: str,
        fence: Callable[[], str | None],
        outcome: Completed,
        encoded: tuple[str, bytes | None],
    ) -> Delivery:
        parcel = _Parcel(
            activity_id,
            fence,
            lambda worker_id: self._engine.encode_completion(worker_id, outcome),
            self._engine.complete,
            self._deadline_s,
        )
        if encoded[1] is not None:
            parcel.sent_as, parcel.body = encoded[0], encoded[1]
        while True:
            answer = await self._try(parcel)
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
                    failure = _refused(len(parcel.body), answer.detail, outcome)
                    log.error("output_refused", activity_id=activity_id, reason=answer.detail)
                    delivery = await self._fail(activity_id, fence, failure)
                    return Delivery.REPLACED if delivery is Delivery.ACCEPTED else delivery

    async def _fail(self, activity_id: str, fence: Callable[[], str | None], outcome: Failed) -> Delivery:
        parcel = _Parcel(
            activity_id,
            fence,
            lambda worker_id: self._engine.encode_failure(worker_id, outcome),
            self._engine.fail,
            self._deadline_s,
        )
        for _ in range(FAIL_TRIES):
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


def _refused(size: int, detail: str, outcome: Completed) -> Failed:
    """What is left to say when the engine, or a proxy before it, will never take an output's bytes."""
    code, message = "INVALID_OUTPUT", f"the engine refused the output: {detail}"
    if detail.startswith("status 413"):
        code = "OUTPUT_TOO_LARGE"
        message = (
            f"the output of {size} bytes is more than the engine or a proxy takes: return a file instead"
        )
    return Failed(code, message, retryable=False, usage=outcome.usage, cost_usd=outcome.cost_usd)
