"""The failure that is reported for an activity whose process died."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Failed
from flowherd.ledger import Cause, Cell, Claim, Handler, Segment
from flowherd.wait_status import describe_status, may_be_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.ledger import Record

_NAMED = 3  # activities named as running beside it


def failure_of(segment: Segment, record: Record, beside: Sequence[Record]) -> Failed:
    """Returns the failure of a record, with the cause of the death and the activities beside it (faults.md C4).

    Args:
        segment: the record's segment.
        record: a record without an outcome.
        beside: all records of its process, also in other segments.

    """
    if record.claim is Claim.CRASHED:
        how = (segment.journal(record.index) or b"its isolate ended").decode()
        return Failed("WORKER_CRASHED", how, retryable=True)
    doing = _doing(record)
    who = f"worker process {segment.get(Cell.PROCESS)} (pid {segment.get(Cell.PID)})"
    cause = segment.cause
    if cause is not None and cause.is_planned:
        return Failed(
            "WORKER_SHUTDOWN", f"{who} was stopped while the activity {doing}", retryable=True, cause=cause
        )
    if cause is Cause.HUNG:
        return replace(_hung(segment, record, beside, who), cause=cause)
    how = describe_status(segment.get(Cell.EXIT_STATUS)) + _memory(segment)
    neighbours = _beside(record, beside)
    message = f"{who} {how} while the activity {doing}{neighbours}"
    return Failed("WORKER_CRASHED", message, retryable=True, cause=cause)


def _doing(record: Record) -> str:
    if record.is_at_work:
        return "ran"
    return "was being reported" if record.handler is Handler.ENDED else "waited to begin"


def _hung(segment: Segment, record: Record, beside: Sequence[Record], who: str) -> Failed:
    """Returns TIMEOUT for the activity that hung its process, WORKER_CRASHED for those beside it."""
    if record.sequence == segment.get(Cell.GUILTY):
        message = f"the handler blocked {who} for longer than its limit of {record.limit_s:g} s"
        return Failed("TIMEOUT", message, retryable=True)
    guilty = segment.get(Cell.GUILTY)
    name = next((other.name for other in beside if other.sequence == guilty), "another one")
    return Failed("WORKER_CRASHED", f"{who} was ended because activity {name!r} blocked it", retryable=True)


def _memory(segment: Segment) -> str:
    """Returns the size of a process that the kernel may have killed for lack of memory, else "" (faults.md C10)."""
    size = segment.get(Cell.RESIDENT_BYTES)
    if not size or not may_be_out_of_memory(segment.get(Cell.EXIT_STATUS)):
        return ""
    return f", last seen with {size / 1e6:.0f} MB in memory,"


def _beside(record: Record, beside: Sequence[Record]) -> str:
    """Names the handlers that ran in the same process: one of them may have ended it."""
    others = Counter(
        other.name
        for other in beside
        if other.is_at_work and not other.is_isolated and other.sequence != record.sequence
    )
    if not others:
        return ""
    names = ", ".join(f"{count} x {name!r}" for name, count in others.most_common(_NAMED))
    return f" beside {names}" + (" and others" if len(others) > _NAMED else "")
