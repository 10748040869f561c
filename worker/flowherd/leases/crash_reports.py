"""The failures that are reported for activities whose process died; `flowherd.leases.suspects` decides about blame."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Failed
from flowherd.counted import counted
from flowherd.leases import suspects
from flowherd.leases.suspects import Death, Part
from flowherd.ledger import Cause, Cell, Claim, Handler, Segment
from flowherd.wait_status import describe_status, may_be_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.ledger import Record
    from flowherd.ledger.crash_history import CrashHistory

_NAMED = 3  # activities named as running beside it


@dataclass(frozen=True, slots=True)
class Remains:
    """The records of an ended process, or one whose isolate has died.

    Attributes:
        death: None when the process was ended by an order, or hung.
        at_work: the records whose handlers ran in it.
        guilty: the name of the activity that hung it, "" for none.

    """

    death: Death | None
    at_work: tuple[Record, ...] = ()
    guilty: str = ""

    @classmethod
    def of_process(cls, held: Sequence[tuple[Segment, Record]]) -> Remains:
        """Reads what an ended process has left.

        Args:
            held: all its records, each with its segment.

        """
        at_work = tuple(one for _, one in held if one.is_at_work and not one.is_isolated)
        guilty = next((one.name for segment, one in held if one.sequence == segment.get(Cell.GUILTY)), "")
        if not held or held[0][0].get(Cell.CAUSE) != Cause.CRASH:
            return cls(None, at_work, guilty)
        running = frozenset(one.sequence for one in at_work)
        on_loop = {one.sequence for segment, one in held if one.index == segment.get(Cell.ON_LOOP) - 1}
        in_threads = frozenset(one.sequence for one in at_work if one.is_in_thread)
        status = held[0][0].get(Cell.EXIT_STATUS)
        return cls(Death(status, running, running & on_loop, in_threads), at_work, guilty)

    @classmethod
    def of_isolate(cls, segment: Segment, record: Record) -> Remains:
        """Reads what an isolate has left, whose record is CRASHED."""
        status, _ = segment.death(record.index)
        alone = frozenset({record.sequence})
        waited = segment.usage(record.usage_page, record.usage_sequence).waits
        return cls(Death(status, alone, frozenset() if waited else alone, is_isolate=True))


class CrashReports:
    """Charges deaths to activities, and decides their failures.

    Args:
        history: the deaths charged to each activity.
        poison_after: the number of charged deaths after which an activity fails for good, 0 for never.

    """

    def __init__(self, history: CrashHistory, poison_after: int) -> None:
        self._history = history
        self._poison_after = poison_after

    def failure_of(self, segment: Segment, record: Record, remains: Remains) -> Failed:
        """Charges the death and returns the failure, POISON after enough deaths (faults.md C4, C22).

        Args:
            segment: the record's segment.
            record: a record without an outcome.
            remains: of its process; those of its isolate are read here.

        """
        if record.claim is Claim.CRASHED:
            remains = Remains.of_isolate(segment, record)
        death, before = remains.death, self._history.charges(record.activity_id).before(record.sequence)
        part = None if death is None else suspects.part_of(death, record.sequence, before)
        failure = _failure(segment, record, remains, part)
        if death is None or not self._poison_after or not suspects.is_charged(part):
            return failure
        is_suspect = suspects.is_suspect(part)
        charges = self._history.charge(
            record.activity_id, failure.message, record.sequence, is_suspect=is_suspect
        )
        if not suspects.is_given_up(death, part, charges.count, self._poison_after):
            return failure
        deaths = "; ".join(charges.deaths)
        died = counted(charges.count, "process")
        message = f"given up after {died} died with it, the last time alone: {deaths}"
        return Failed("POISON", message, retryable=False)


def _failure(segment: Segment, record: Record, remains: Remains, part: Part | None) -> Failed:
    """Returns the failure with the cause of the death and the activities beside it."""
    if record.claim is Claim.CRASHED:
        how = segment.death(record.index)[1] or "its isolate ended"
        doing = f" while the activity {part.value}" if part is Part.HIT else ""
        return Failed("WORKER_CRASHED", how + doing, retryable=True)
    who = f"worker process {segment.get(Cell.PROCESS)} (pid {segment.get(Cell.PID)})"
    doing = _doing(record) if part is None else part.value
    if segment.get(Cell.CAUSE) == Cause.STOPPED:
        return Failed("WORKER_SHUTDOWN", f"{who} was stopped while the activity {doing}", retryable=True)
    if segment.get(Cell.CAUSE) == Cause.HUNG:
        return _hung(segment, record, remains, who)
    how = describe_status(segment.get(Cell.EXIT_STATUS)) + _memory(segment)
    neighbours = _beside(record, remains.at_work)
    return Failed("WORKER_CRASHED", f"{who} {how} while the activity {doing}{neighbours}", retryable=True)


def _doing(record: Record) -> str:
    if record.is_at_work:
        return "ran"
    return "was being reported" if record.handler is Handler.ENDED else "waited to begin"


def _hung(segment: Segment, record: Record, remains: Remains, who: str) -> Failed:
    """Returns TIMEOUT for the activity that hung its process, WORKER_CRASHED for those beside it."""
    if record.sequence == segment.get(Cell.GUILTY):
        message = f"the handler blocked {who} for longer than its limit of {record.limit_s:g} s"
        return Failed("TIMEOUT", message, retryable=True)
    guilty = remains.guilty or "another one"
    return Failed("WORKER_CRASHED", f"{who} was ended because activity {guilty!r} blocked it", retryable=True)


def _memory(segment: Segment) -> str:
    """Returns the size of a process that the kernel may have killed for lack of memory, else "" (faults.md C10)."""
    size = segment.get(Cell.RESIDENT_BYTES)
    if not size or not may_be_out_of_memory(segment.get(Cell.EXIT_STATUS)):
        return ""
    return f", last seen with {size / 1e6:.0f} MB in memory,"


def _beside(record: Record, at_work: Sequence[Record]) -> str:
    """Names the handlers that ran in the same process: one of them may have ended it."""
    others = Counter(other.name for other in at_work if other.sequence != record.sequence)
    if not others:
        return ""
    names = ", ".join(f"{count} x {name!r}" for name, count in others.most_common(_NAMED))
    return f" beside {names}" + (" and others" if len(others) > _NAMED else "")
