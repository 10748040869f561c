"""The delivery of an outcome to the engine: its bytes, and the consequence of each answer. Pure except for the log.

`reporter.py` sends it; `client/circuit.py` makes it wait during an outage.

A delivery is not an outcome: an undelivered success stays a success. It becomes a failure only when the engine itself
refuses its bytes for good (protocol.md §6.4, faults.md E5, E6, E27), or when for ten minutes, or the activity's own
limit if that is longer, only others have answered in the engine's place, counted from the first such answer, although
heartbeats go through (faults.md N7): then a retryable one. Without heartbeats it is an outage of everything: a failure
could not be told either, and the engine may still take the success at its end (protocol.md fact 7). A 413 of a proxy
speaks of this body alone, and ends it after the activity's limit.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from flowherd.activities_and_outcomes import Completed, Failed
from flowherd.backoff import Backoff
from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineMisconfigured, EngineUnavailable, ForeignReply, NotAcknowledged
from flowherd.transport.stall_detection import LARGE_BODY_BYTES
from flowherd.worker.activity_log import described, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.attempt_ids import AttemptIds
    from flowherd.backoff import Rng
    from flowherd.client.engine_protocol import Engine
    from flowherd.errors import EngineError

FAIL_TRIES = (
    40  # `fail` is not idempotent, but a worker_id per poll makes a late repeat harmless (protocol.md §7)
)
_BACKOFF = Backoff()
OUTAGE_S = 600.0  # of answers that are no verdict, at least, before a computed success is given up


class Delivered(Enum):
    """The end of a delivery."""

    ACCEPTED = "accepted"
    LAST = "accepted as the last"  # a failure, after which the engine makes no other attempt, even of a retryable one
    REPLACED = "replaced"  # the engine refused the output; a failure was delivered instead
    UNDELIVERED = (
        "undelivered"  # the engine never answered for the output; a retryable failure was delivered instead
    )
    GONE = "gone"  # the attempt no longer belonged to this worker
    DROPPED = "dropped"  # the engine does not know the activity, or refuses every form of the outcome
    WITHDRAWN = "withdrawn"  # the delivery was no longer wanted


class Again(Enum):
    """The next try of a delivery that has not ended."""

    NOW = "now"  # as soon as the circuit lets it pass
    LATER = "later"  # after a pause of its own, because its error concerns no other calls


_ACCEPTED, _DELIVERED = Verdict.ACCEPTED, Delivered.ACCEPTED  # constants: an enum lookup is slow


class Delivery:
    """An outcome to deliver, encoded once per worker_id so that retries are byte-identical.

    Args:
        who: the names of the attempt.
        worker_id: returns the worker_id to send at each try, since a repeated claim replaces it (protocol.md R11); None
            withdraws the delivery.
        outcome: the outcome, the same at every try.
        on_done: called once, with the result.
        timeout_s: the activity's own limit, None without one.
        kept: the worker_id for which a completion is encoded already, and its bytes.
        lease_lives: True while the engine confirms the lease, so that a failure in place of the outcome would reach it.

    Attributes:
        is_large: True when its body is large and takes long to send (faults.md N8).
        in_doubt: True when an earlier try under the same worker_id may have arrived.
        is_alone: True when its last try failed although other calls had succeeded since the try before.
        tries: the number of tries without a verdict, except a proxy's answers and those of a wrong URL.

    """

    __slots__ = (
        "_failing_since", "_replaced", "_retries", "_since", "_successes", "activity_id", "body", "in_doubt",
        "is_alone", "is_large", "lease_lives", "on_done", "outcome", "sent_as", "timeout_s", "tries", "who",
        "worker_id",
    )  # fmt: skip

    def __init__(
        self,
        who: AttemptIds,
        worker_id: Callable[[], str | None],
        outcome: Completed | Failed,
        on_done: Callable[[Delivered], None],
        timeout_s: float | None = None,
        kept: tuple[str, bytes | None] = ("", None),
        lease_lives: Callable[[], bool] = lambda: True,
    ) -> None:
        self.who = who
        self.activity_id = who.activity_id
        self.worker_id = worker_id
        self.outcome = outcome
        self.on_done = on_done
        self.timeout_s = timeout_s
        self.sent_as, self.body = kept
        self.lease_lives = lease_lives
        self.is_large = isinstance(outcome, Completed) and len(outcome.output) > LARGE_BODY_BYTES
        self.in_doubt = self.is_alone = False
        self._replaced: Delivered | None = None
        self.tries = self._retries = 0
        self._failing_since = 0.0
        self._successes: int | None = None
        self._since: dict[tuple[type[EngineError], bool], float] = {}  # kind of answer → when it began

    def __repr__(self) -> str:
        kind = "success" if isinstance(self.outcome, Completed) else "failure"
        return f"<Delivery of {self.activity_id} [{kind}, {self.tries} tries]>"

    def body_for(self, worker_id: str, engine: Engine) -> bytes:
        """Returns the bytes to send under this worker_id."""
        if self.body is None or worker_id != self.sent_as:
            if isinstance(self.outcome, Completed):
                self.body = engine.encode_completion(worker_id, self.outcome)
            else:
                self.body = engine.encode_failure(worker_id, self.outcome)
            self.sent_as, self.in_doubt = worker_id, False
        return self.body

    def answered(self, answer: Answer) -> Delivered | Again:
        """Returns the end of the delivery for a verdict, or the next try."""
        verdict = answer.verdict
        if verdict is _ACCEPTED:
            return self._taken(answer)
        if verdict is Verdict.GONE and self.worker_id() not in {self.sent_as, None}:
            return Again.NOW  # the worker_id has been replaced since
        if isinstance(self.outcome, Completed):
            return self._success_refused(verdict, answer.detail, self.outcome)
        if verdict is not Verdict.GONE:
            self._say(logging.ERROR, "failure_refused_by_engine", reason=answer.detail)
            return Delivered.DROPPED
        if not self.in_doubt:
            return Delivered.GONE
        return self._replaced or _DELIVERED  # an earlier try had arrived (R10)

    def _taken(self, answer: Answer) -> Delivered:
        if answer.detail:
            self._say(logging.WARNING, "completion_warnings", warnings=answer.detail)
        if not answer.will_retry:
            self._say_last()
        if self._replaced is not None:
            return self._replaced
        return _DELIVERED if answer.will_retry else Delivered.LAST

    def _success_refused(self, verdict: Verdict, detail: str, outcome: Completed) -> Delivered | Again:
        match verdict:
            case Verdict.GONE:
                self._say(logging.WARNING, "completion_not_ours_any_more", reason=detail)
                return Delivered.GONE
            case Verdict.UNKNOWN:
                self._say(logging.ERROR, "activity_unknown_to_engine", reason=detail)
                return Delivered.DROPPED
        return self._refused(outcome, detail, is_too_large=verdict is Verdict.TOO_LARGE)

    def _refused(self, outcome: Completed, detail: str, *, is_too_large: bool) -> Again:
        self._say(logging.ERROR, "output_refused", reason=detail)
        message = f"the engine refused the output: {detail}"
        failure = Failed("INVALID_OUTPUT", message, retryable=False)
        if is_too_large:
            size = len(self.body or b"")
            message = (
                f"the output of {size} bytes is more than the engine or a proxy takes: return a file instead"
            )
            failure = Failed("OUTPUT_TOO_LARGE", message, retryable=False)
        return self._go_on_with(failure, outcome, Delivered.REPLACED)

    def _go_on_with(self, failure: Failed, outcome: Completed, end: Delivered) -> Again:
        """Delivers a failure in place of the output, with what it has cost."""
        self.outcome = replace(failure, usage=outcome.usage, cost_usd=outcome.cost_usd)
        self.body, self.is_large, self._replaced = None, False, end
        self.tries = 0
        self._since.clear()
        return Again.NOW

    def is_to_blame(self, error: EngineError, successes: int) -> bool:
        """Notes a failed try; True when its error concerns this delivery alone.

        That is so by the kind of error, or when other calls have succeeded since the try before: an engine or a proxy
        that never accepts this output must not make all others wait. Polls detect a URL that is wrong for every call,
        and a Retry-After applies to all calls.

        Args:
            error: the error of the try.
            successes: the number of calls that have ever succeeded.

        """
        is_asked = isinstance(error, EngineUnavailable) and error.retry_after_s > 0
        self.is_alone = self._successes not in {None, successes} and not is_asked
        self._successes = successes
        return type(error).is_of_the_call or self.is_alone

    def failed(self, error: EngineError, now: float, limit_s: float) -> Delivered | Again:
        """Notes a try without a verdict; returns the end of the delivery if it was the last, else the next try.

        Args:
            error: the error of the try.
            now: monotonic seconds.
            limit_s: the limit of activities that have none of their own.

        """
        self._say(logging.DEBUG, "outcome_not_delivered_yet", reason=str(error))
        self.in_doubt = self.in_doubt or error.in_doubt
        limit_s = limit_s if self.timeout_s is None else self.timeout_s
        match error:
            case ForeignReply(is_too_large=True):
                return self._no_verdict(error, now, limit_s)
            case ForeignReply() | NotAcknowledged():
                return self._no_verdict(error, now, max(OUTAGE_S, limit_s))
        self.tries += not isinstance(error, EngineMisconfigured)
        if isinstance(self.outcome, Failed) and self.tries >= FAIL_TRIES:
            self._say(logging.ERROR, "failure_given_up", tries=FAIL_TRIES)
            return Delivered.DROPPED
        if not error.is_of_the_call:
            return Again.NOW
        if not self._retries:
            self._say(logging.WARNING, "outcome_not_taken_yet", reason=str(error))
        return Again.LATER

    def _no_verdict(
        self, error: ForeignReply | NotAcknowledged, now: float, for_s: float
    ) -> Delivered | Again:
        """Waits for `for_s` of answers of one kind, of which the first is logged, and then for a living lease."""
        is_too_large = isinstance(error, ForeignReply) and error.is_too_large
        kind = type(error), is_too_large
        if kind not in self._since:
            self._since[kind] = now
            self._say_no_verdict(error, for_s)
        if now < self._since[kind] + for_s or not (is_too_large or self.lease_lives()):
            return Again.LATER
        outcome = self.outcome
        if isinstance(outcome, Failed):
            self._say(logging.ERROR, "failure_given_up", tries=self._retries + 1, reason=str(error))
            return Delivered.DROPPED
        self.in_doubt = False
        words = f"{error} (for {now - self._since[kind]:.0f} s)"
        if is_too_large:
            return self._refused(outcome, words, is_too_large=True)
        self._say(logging.ERROR, "output_not_delivered", reason=words)
        failure = Failed("NOT_DELIVERED", f"the engine never took the output: {words}", retryable=True)
        return self._go_on_with(failure, outcome, Delivered.UNDELIVERED)

    def _say_no_verdict(self, error: ForeignReply | NotAcknowledged, for_s: float) -> None:
        about = {"reason": str(error), "tried_again_for_s": for_s}
        match error:
            case ForeignReply(is_too_large=True):
                self._say(logging.WARNING, "outcome_too_large_for_a_proxy", **about)
            case ForeignReply():
                self._say(logging.WARNING, "outcome_refused_by_a_proxy", **about)
            case NotAcknowledged():
                then = "a retryable failure takes the place of a result, and a failure is given up"
                self._say(logging.WARNING, "delivery_not_acknowledged", **about, note=f"then {then}")

    def _say(self, level: int, event: str, **data: Any) -> None:
        say(level, event, self.who.fields(), **data)

    def _say_last(self) -> None:
        """Logs, once per attempt, that the engine makes no other attempt although the failure is retryable."""
        outcome = self.outcome
        if isinstance(outcome, Failed) and outcome.retryable and not self.who.is_last:
            self.who.is_last = True
            self._say(logging.ERROR, "activity_out_of_attempts", **described(outcome))

    def pause_s(self, rng: Rng, now: float) -> float:
        """Counts a retry; returns the seconds until it, after `Again.LATER`."""
        self._retries += 1
        if self._retries == 1:
            self._failing_since = now
        return _BACKOFF.delay_s(self._retries, rng, lasted_s=now - self._failing_since)
