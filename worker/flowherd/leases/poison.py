"""Charges deaths of processes to activities, and fails an activity for good after too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Failed
from flowherd.counted import counted
from flowherd.leases.crash_reports import failure_of
from flowherd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.ledger import Record, Segment
    from flowherd.ledger.crash_history import CrashHistory


class Poison:
    """Decides the failure of an activity whose process died.

    Args:
        history: the deaths charged to each activity.
        poison_after: the number of charged deaths after which an activity fails for good, 0 for never.

    """

    def __init__(self, history: CrashHistory, poison_after: int) -> None:
        self._history = history
        self._poison_after = poison_after

    def charged(self, segment: Segment, record: Record, beside: Sequence[Record]) -> Failed:
        """Charges the death; returns the failure, or POISON after enough deaths, the last one alone (faults.md C22).

        A death is charged only to handlers that were running in a process that crashed, or in an isolate that died.

        Args:
            segment: the record's segment.
            record: a record without an outcome.
            beside: all records of its process, also in other segments.

        """
        failure = failure_of(segment, record, beside)
        was_in_it = record.is_at_work and not record.is_isolated
        crashed = was_in_it and segment.cause is not None and segment.cause.is_crash
        if not self._poison_after or not (crashed or record.claim is Claim.CRASHED):
            return failure
        charges = self._history.charge(record.activity_id, failure.message, record.sequence)
        if charges.count < self._poison_after or not _ran_alone(record, beside):
            return failure
        deaths = "; ".join(charges.deaths)
        message = (
            f"given up after {counted(charges.count, 'process')} died with it, the last time alone: {deaths}"
        )
        return Failed("POISON", message, retryable=False)


def _ran_alone(record: Record, beside: Sequence[Record]) -> bool:
    if record.claim is Claim.CRASHED:
        return True
    return not any(
        other.is_at_work and not other.is_isolated and other.sequence != record.sequence for other in beside
    )
