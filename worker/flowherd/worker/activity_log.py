"""Log lines about activities: one for each that has ended, in the same form wherever it ran."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.client.retry_rules import NextTry, next_try
from flowherd.cut_middle import cut_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowherd.activities_and_outcomes import Failed, Raised
    from flowherd.attempt_ids import AttemptIds

AGAIN_AFTER_S = 600.0  # after which a traceback is logged again: "same as above" must stay easy to find
MOST_DISTINCT = 200  # distinct failures whose tracebacks are tracked
_MOST_WORDS = 600  # characters of an error's message: a log line holds 4 KiB

log = structlog.stdlib.get_logger(__name__)
_log = logging.getLogger(__name__)


def named(ids: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `AttemptIds` under the names they have in structlog lines."""
    return {("name" if name == "activity_name" else name): value for name, value in ids.items()}


def say(level: int, event: str, ids: Mapping[str, Any], **data: Any) -> None:
    """Logs a line about an activity: the event, its data, and the ids.

    Without structlog's configuration, as in a test of a handler, it is a standard log record, which `caplog` captures.
    Its message has the data, and the traceback below: pytest shows nothing else of a record.
    """
    if structlog.is_configured():
        log.log(level, event, **data, **named(ids))
    elif _log.isEnabledFor(level):
        shown = "".join(f" {name}={value!r}" for name, value in data.items() if name != "exception")
        trace = f"\n{data['exception']}" if "exception" in data else ""
        _log.log(level, "%s", f"{event}{shown}{trace}", extra={**data, **ids})


@dataclass(frozen=True, slots=True)
class Times:
    """The times of an attempt, in seconds.

    Attributes:
        waited_s: from the claim to the handler's first step.
        took_s: from the first step to the end; None when the handler has not begun.

    """

    waited_s: float
    took_s: float | None

    @classmethod
    def of(cls, claimed_at: float, begun_at: float, now: float) -> Times:
        """Times of an attempt that ends now; `begun_at` is 0 if its handler has not begun."""
        return cls((begun_at or now) - claimed_at, now - begun_at if begun_at else None)

    def fields(self) -> dict[str, float]:
        """Returns the fields of a log line, rounded."""
        took = {} if self.took_s is None else {"took_s": round(self.took_s, 4)}
        return {**took, "waited_s": round(max(self.waited_s, 0.0), 4)}


class ActivityLog:
    """Logs the ends of one worker's activities.

    Args:
        log_completed: True to log completed activities at info, else at debug.
        clock: monotonic seconds.

    Attributes:
        says_completed: True when lines for completed activities are logged at all; checked before one is built.

    """

    def __init__(self, *, log_completed: bool, clock: Callable[[], float]) -> None:
        self._level = logging.INFO if log_completed else logging.DEBUG
        self.says_completed = _log.isEnabledFor(self._level)
        self._tracebacks = _Tracebacks(clock)

    def completed(self, who: AttemptIds, times: Times) -> None:
        """Logs that the handler has returned."""
        say(self._level, "activity_completed", who.fields(), **times.fields())

    def failed(
        self, who: AttemptIds, failure: Failed, settings: Mapping[str, Any], times: Times | None = None
    ) -> None:
        """Logs that the attempt has failed: a warning when the engine is expected to retry it, else an error.

        Args:
            who: the attempt.
            failure: the failure to be reported.
            settings: the activity's settings.
            times: the attempt's times, None when unknown.

        """
        ids = who.fields()
        following = next_try(settings, who.seen) if failure.retryable else NextTry(is_last=True, after_s=None)
        who.is_last = following.is_last
        say(
            logging.ERROR if following.is_last else logging.WARNING,
            "activity_failed",
            ids,
            **described(failure),
            retryable=not following.is_last,
            **({} if following.after_s is None else {"retry_in_s": following.after_s}),
            **({"attempts_left": 0} if failure.retryable and following.is_last else {}),
            **({} if times is None else times.fields()),
            **self._tracebacks.shown(who.activity_name, failure.raised),
        )


def described(failure: Failed) -> dict[str, Any]:
    """Returns the log fields of a failure: class, code, reason and place."""
    kind = {} if failure.raised is None else {"type": failure.raised.kind}
    at = {"at": failure.at} if failure.at else {}
    return {**kind, "code": failure.code, "reason": cut_middle(failure.message, _MOST_WORDS), **at}


class _Tracebacks:
    """Shows a traceback once for each distinct failure, then counts."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shown: OrderedDict[tuple[str, str], list[float]] = OrderedDict()  # time, and repetitions since

    def shown(self, name: str, raised: Raised | None) -> dict[str, str]:
        """Returns the log field with the traceback, or with a note that it is the same as above."""
        if raised is None or not raised.report:
            return {}
        key, now = (name, raised.distinct), self._clock()
        known = self._shown.get(key)
        if known is not None and raised.distinct and now - known[0] < AGAIN_AFTER_S:
            known[1] += 1
            count = f"{known[1]:.0f} times" if known[1] > 1 else "once"
            return {"traceback": f"same as above, {count}"}
        self._shown[key] = [now, 0.0]
        self._shown.move_to_end(key)
        if len(self._shown) > MOST_DISTINCT:
            self._shown.popitem(last=False)
        return {"exception": raised.report}
