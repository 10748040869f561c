"""Delivers one outcome until the engine has taken it, will never take it, or time is up; it never runs handlers.

A delivery is not an outcome: an undelivered success stays a success and is never turned into a failure, except that
the engine itself refuses its bytes for good (protocol.md §6.4, faults.md E5, E6, E27).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import structlog

from flowherd.activity import Completed, Failed
from flowherd.engine import Engine, Verdict
from flowherd.errors import EngineError
from flowherd.gate import Gate

FAIL_TRIES = (
    40  # `fail` is not idempotent, but a fence per poll makes a late repeat harmless (protocol.md §7)
)

log = structlog.stdlib.get_logger(__name__)


class Delivery(Enum):
    """What became of an outcome."""

    ACCEPTED = "accepted"
    GONE = "gone"  # the attempt was no longer ours, or an earlier try had arrived
    DROPPED = "dropped"  # the engine does not know the activity, or refuses every form of the outcome


class Reporter:
    """Delivers outcomes of one worker.

    Args:
        gate: shared with the poller, so that one call at a time probes an engine that is away.
        deadline_s: seconds for one try.
    """

    def __init__(self, engine: Engine, gate: Gate, deadline_s: float) -> None:
        self._engine = engine
        self._gate = gate
        self._deadline_s = deadline_s

    async def deliver(
        self, activity_id: str, worker_id: Callable[[], str], outcome: Completed | Failed
    ) -> Delivery:
        """Tries until there is a verdict; cancel it when time is up.

        Args:
            worker_id: the fence at the time of the try: a repeated claim replaces it (protocol.md R11).
        """
        match outcome:
            case Completed():
                return await self._complete(activity_id, worker_id, outcome)
            case Failed():
                return await self._fail(activity_id, worker_id, outcome)

    async def _complete(self, activity_id: str, worker_id: Callable[[], str], outcome: Completed) -> Delivery:
        while True:
            fence = worker_id()
            body = self._engine.encode_completion(fence, outcome)
            try:
                answer = await self._gate.through(
                    lambda body=body: self._engine.complete(activity_id, body, self._deadline_s)  # type: ignore[misc]
                )
            except EngineError as error:
                log.debug("completion_not_delivered_yet", activity_id=activity_id, reason=str(error))
                continue
            match answer.verdict:
                case Verdict.ACCEPTED:
                    if answer.detail:
                        log.warning("completion_warnings", activity_id=activity_id, warnings=answer.detail)
                    return Delivery.ACCEPTED
                case Verdict.GONE if worker_id() != fence:
                    continue
                case Verdict.GONE:
                    log.warning("completion_not_ours_any_more", activity_id=activity_id, reason=answer.detail)
                    return Delivery.GONE
                case Verdict.UNKNOWN:
                    log.error("activity_unknown_to_engine", activity_id=activity_id, reason=answer.detail)
                    return Delivery.DROPPED
                case Verdict.REFUSED:
                    return await self._fail(
                        activity_id, worker_id, _refused(len(body), answer.detail, outcome)
                    )

    async def _fail(self, activity_id: str, worker_id: Callable[[], str], outcome: Failed) -> Delivery:
        ambiguous = False
        for _ in range(FAIL_TRIES):
            fence = worker_id()
            body = self._engine.encode_failure(fence, outcome)
            try:
                answer = await self._gate.through(
                    lambda body=body: self._engine.fail(activity_id, body, self._deadline_s)  # type: ignore[misc]
                )
            except EngineError as error:
                ambiguous = True
                log.debug("failure_not_delivered_yet", activity_id=activity_id, reason=str(error))
                continue
            match answer.verdict:
                case Verdict.ACCEPTED:
                    return Delivery.ACCEPTED
                case Verdict.GONE if worker_id() != fence:
                    continue
                case Verdict.GONE:
                    return Delivery.ACCEPTED if ambiguous else Delivery.GONE
                case Verdict.UNKNOWN | Verdict.REFUSED:
                    log.error("failure_refused_by_engine", activity_id=activity_id, reason=answer.detail)
                    return Delivery.DROPPED
        log.error("failure_given_up", activity_id=activity_id, tries=FAIL_TRIES)
        return Delivery.DROPPED


def _refused(size: int, detail: str, outcome: Completed) -> Failed:
    """What is left to say when the engine, or a proxy before it, will never take an output's bytes."""
    if detail.startswith("status 413"):
        message = (
            f"the output of {size} bytes is larger than the engine or a proxy accepts: return a file instead"
        )
        return Failed(
            "OUTPUT_TOO_LARGE", message, retryable=False, usage=outcome.usage, cost_usd=outcome.cost_usd
        )
    message = f"the engine refused the output: {detail}"
    return Failed("INVALID_OUTPUT", message, retryable=False, usage=outcome.usage, cost_usd=outcome.cost_usd)
