"""Documents about the past of this host: failures, the last 15 minutes, one workflow's attempts.

They are read from the rings of ended attempts and the records of the others.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flowherd.ledger import Cell, Claim, Handler, Ledger, Life
from flowherd.ledger.attempt_history import End, decoded
from flowherd_supervisor.keeper.activity_rows import quantile_ms, waits_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd.ledger import Record, Segment
    from flowherd.ledger.attempt_history import EndedAttempt
    from flowherd.ledger.trend import Interval

SHOWN_FAILURES = 50
MOST_TOLD = 500  # attempts of one workflow, the newest
_STOPPED = {"CANCELLED": "cancelled", "TIMEOUT": "hung", "WORKER_SHUTDOWN": "stopped"}


class History:
    """The host's history as documents. Times in documents are seconds since 1970.

    Args:
        ledger: the ledger, which is only read.
        clock: returns monotonic seconds, as the ledger's.
        wall: returns seconds since 1970.

    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._wall = wall

    @property
    def failures_so_far(self) -> int:
        """A number that grows with each failure, so that clients know when to fetch them again."""
        own = sum(len(segment.history.failures.waiting()) for segment in self._ledger.segments)
        return self._ledger.history.failures.written + own

    def failures(self) -> dict[str, Any]:
        """Returns the document of `/api/failures`, newest first."""
        found = _distinct(decoded(self._ledger.ended_failures()))
        newest = sorted(found, key=lambda one: one.closed_at, reverse=True)[:SHOWN_FAILURES]
        since = self._since()
        return {
            "failures": [
                {
                    "at": round(since + (one.ended_at or one.closed_at), 3),
                    "activity": one.name,
                    "key": one.key,
                    "activity_id": one.activity_id,
                    "workflow_id": one.workflow_id,
                    "process": one.process,
                    "code": one.code,
                    "type": _type_of(one),
                    "message": one.message,
                    "line": one.at or None,
                    "retryable": one.is_retryable,
                }
                for one in newest
            ]
        }

    def trend(self) -> dict[str, Any]:
        """Returns the document of `/api/trend`: ended attempts per second and durations over the last 15 minutes."""
        now = self._clock()
        since = self._since()
        intervals = self._ledger.trend.intervals(now)
        return {"intervals": [{"at": round(since + now - one.ago_s, 1), **_rates(one)} for one in intervals]}

    def lately(self) -> dict[str, Any] | None:
        """Returns rates and durations of the last 15 minutes; None before there are any."""
        whole = self._ledger.trend.whole(self._clock())
        return None if whole is None else {"seconds": round(whole.seconds, 1), **_rates(whole)}

    def explain(self, wanted: str, first: str = "") -> dict[str, Any]:
        """Returns the attempts of a workflow, or of an activity's workflow, as `events`, and the `present` ones.

        Only the newest `MOST_TOLD` are returned; `left_out` counts older ones, those of `first` alone if it is given.

        Args:
            wanted: the id of either; if there are too many, attempts of that activity are preferred.
            first: an activity, by id, key or name, whose attempts are preferred to all others.

        """
        held = list(self._held())
        past = self._past(wanted)
        found = [one.workflow_id for _, one in held if wanted in {one.workflow_id, one.activity_id}]
        workflow_id = next(iter([*found, *(one.workflow_id for one in past)]), wanted)
        if workflow_id != wanted:
            past = self._past(workflow_id)
        over = {one.sequence for one in past}
        told, left_out = _newest(past, first or wanted, has_first=bool(first))
        present = [
            (segment, one)
            for segment, one in held
            if one.workflow_id == workflow_id and (one.sequence not in over or not one.is_owed)
        ]
        events = [event for one in told for event in _events_of(one)]
        for segment, one in present:
            if one.sequence not in over:
                events += _events_so_far(segment, one)
        since = self._since()
        return {
            "workflow_id": workflow_id,
            "events": [{**event, "at": round(since + event["at"], 3)} for event in _numbered(events)],
            "present": [self._standing(segment, one) for segment, one in present[:MOST_TOLD]],
            "left_out": left_out,
        }

    def _since(self) -> float:
        """Returns the wall-clock time at which the monotonic clock was 0."""
        return self._wall() - self._clock()

    def _past(self, wanted: str) -> list[EndedAttempt]:
        """Returns the ended attempts of a workflow or activity with their error messages, in order of their claims."""
        word = wanted.encode(errors="replace")
        attempts = decoded(self._ledger.ended_attempts(word))
        failures = decoded(self._ledger.ended_failures(word))
        told = {one.sequence: one for one in attempts if one.end is not End.LOST}
        known = {one.sequence: one for one in attempts} | told | {one.sequence: one for one in failures}
        found = [one for one in known.values() if wanted in {one.workflow_id, one.activity_id}]
        return sorted(found, key=lambda one: (one.claimed_at, one.closed_at))

    def _held(self) -> Iterator[tuple[Segment, Record]]:
        """Yields all records, except one that would take over another: until the keeper decides, that one stands."""
        for segment in self._ledger.segments:
            if segment.life is not Life.FREE and segment.readable:
                for record in segment.records():
                    if not record.is_adopting:
                        yield segment, record

    def _standing(self, segment: Segment, record: Record) -> dict[str, Any]:
        """Returns the current state of a record, from which the next event follows."""
        now = self._clock()
        at_work_s = now - record.started_at if record.started_at else None
        return {
            "activity_id": record.activity_id,
            "key": record.key,
            "name": record.name,
            "process": segment.get(Cell.PROCESS),
            "state": state_of(segment, record),
            "for_s": round(at_work_s if at_work_s is not None else now - record.claimed_at, 1),
            "limit_s": record.limit_s or None,
            "waits_for": waits_for(segment, record),
            "lease_s": record.lease_s,
            "has_result": record.claim is Claim.REPORTING and segment.journal(record.index) is not None,
        }


def _rates(one: Interval) -> dict[str, Any]:
    return {
        "completed": round(one.completed, 3),
        "failed": round(one.failed, 3),
        "lost": round(one.lost, 3),
        "run_ms_p50": quantile_ms(one.run_s_p50),
        "run_ms_p95": quantile_ms(one.run_s_p95),
        "wait_ms_p95": quantile_ms(one.wait_s_p95),
    }


def state_of(segment: Segment, record: Record) -> str:
    """Returns waiting, running, stopping, reporting, detached or settling."""
    if not record.is_owed:
        return "detached"
    if segment.life is Life.ENDED or record.claim is Claim.CRASHED:
        return "settling"
    if record.claim is Claim.REPORTING:
        return "reporting"
    return {Handler.RUNNING: "running", Handler.STOPPING: "stopping"}.get(record.handler, "waiting")


def _newest(past: Sequence[EndedAttempt], first: str, *, has_first: bool) -> tuple[list[EndedAttempt], int]:
    """Returns at most `MOST_TOLD` attempts in order, preferably those of activity `first`, and the number left out."""
    named = [one for one in past if first in {one.activity_id, one.key, one.name}]
    others = [one for one in past if first not in {one.activity_id, one.key, one.name}]
    room = max(MOST_TOLD - len(named), 0)
    told = [*named[-MOST_TOLD:], *others[max(len(others) - room, 0) :]]
    left_out = max(len(named) - MOST_TOLD, 0) if has_first and named else len(past) - len(told)
    return sorted(told, key=lambda one: one.claimed_at), left_out


def _distinct(found: list[EndedAttempt]) -> list[EndedAttempt]:
    """Removes duplicates, which arise when an attempt moves between rings while they are read."""
    return list({(one.sequence, one.closed_at): one for one in found}.values())


def _numbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts events by time and numbers the claims of each activity on this host, as far as they are stored.

    An adopted attempt goes on with its predecessor's claim, so it has no event of its own for it.
    """
    events = sorted(events, key=lambda event: float(event["at"]))
    claims: dict[str, list[object]] = {}
    numbered = []
    for event in events:
        its, claim = claims.setdefault(event["activity_id"], []), event.pop("worker_id") or event["sequence"]
        is_claimed = claim in its
        if not is_claimed:
            its.append(claim)
        event["seen"] = its.index(claim) + 1
        if event["event"] == "claimed" and is_claimed:
            continue
        if event["event"] == "claimed" and event["seen"] > 1:
            event["event"] = "retried"
        del event["sequence"]
        numbered.append(event)
    return numbered


def _events_so_far(segment: Segment, record: Record) -> Iterator[dict[str, Any]]:
    """Yields the events of an attempt that has not ended."""
    common = _common(record, segment.get(Cell.PROCESS))
    yield {**common, "event": "claimed", "at": record.claimed_at, "lease_s": record.lease_s}
    if record.started_at:
        begun = {"event": "begun", "at": record.started_at, "limit_s": record.limit_s}
        yield {**common, **begun, "isolate": record.is_isolated}
    if (beat_at := segment.last_ok(record.index, record.sequence)) > record.claimed_at:
        yield {**common, "event": "beat", "at": beat_at}


def _events_of(one: EndedAttempt) -> Iterator[dict[str, Any]]:
    """Yields the events of an attempt that has ended."""
    common = _common(one, one.process)
    yield {**common, "event": "claimed", "at": one.claimed_at}
    if one.begun_at:
        yield {**common, "event": "begun", "at": one.begun_at, "isolate": one.is_isolated}
    if one.beat_at > one.claimed_at:
        yield {**common, "event": "beat", "at": one.beat_at}
    words = {"code": one.code, "type": _type_of(one), "message": one.message, "line": one.at or None}
    match one.end:
        case End.COMPLETED:
            yield {**common, "event": "returned", "at": one.ended_at or one.closed_at}
            yield {**common, "event": "completed", "at": one.closed_at}
        case End.DELIVERED:
            yield {**common, "event": "crashed", "at": one.ended_at}
            yield {**common, "event": "delivered", "at": one.closed_at}
        case End.LOST | End.ADOPTED:
            yield {**common, "event": one.end.name.lower(), "at": one.closed_at}
        case End.FAILED | End.SETTLED:
            crashed = "crashed" if one.end is End.SETTLED else "failed"
            event = _STOPPED.get(one.code, crashed) if one.end is End.SETTLED else crashed
            cause = {"cause": one.kind} if one.end is End.SETTLED and one.kind else {}
            yield {**common, **words, **cause, "event": event, "at": one.ended_at or one.closed_at}
            after = "requeued" if one.is_retryable else "given_up"
            yield {**common, "event": after, "at": one.closed_at}


def _type_of(one: EndedAttempt) -> str:
    """Returns the class of the exception, or else the code."""
    return one.code if one.end is End.SETTLED else one.kind or one.code


def _common(one: EndedAttempt | Record, process: int) -> dict[str, Any]:
    return {
        "activity_id": one.activity_id,
        "key": one.key,
        "name": one.name,
        "process": process,
        "sequence": one.sequence,
        "worker_id": one.worker_id,
    }
