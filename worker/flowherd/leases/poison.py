"""Charges deaths of processes to activities, and ends for good what has killed too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Failed
from flowherd.leases.crash_reports import failure_of
from flowherd.ledger import Cause, Cell, Claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.ledger import Record, Segment
    from flowherd.ledger.crash_history import CrashHistory


class Poison:
    """Decides how an activity fails that was held by a process when it ended.

    Args:
        history: the deaths that have been charged to each activity.
        poison_after: deaths charged to one activity before it fails for good, 0 for never.

    """

    def __init__(self, history: CrashHistory, poison_after: int) -> None:
        self._history = history
        self._poison_after = poison_after

    def charged(self, segment: Segment, record: Record, beside: Sequence[Record]) -> Failed:
        """The failure, or POISON when an activity has died alone and often enough (faults.md C22).

        Only what ran in a process whose death nobody ordered is charged; what ran in an isolate, only if that
        has died.

        Args:
            segment: the record's.
            record: what has no outcome.
            beside: all that its process held, also in other segments.

        """
        failure = failure_of(segment, record, beside)
        was_in_it = record.is_at_work and not record.is_isolated
        crashed = was_in_it and segment.get(Cell.CAUSE) == Cause.CRASH
        if not self._poison_after or not (crashed or record.claim is Claim.CRASHED):
            return failure
        charges = self._history.charge(record.activity_id, failure.message, record.sequence)
        if charges.count < self._poison_after or not _ran_alone(record, beside):
            return failure
        deaths = "; ".join(charges.deaths)
        message = f"given up after {charges.count} processes died with it, the last time alone: {deaths}"
        return Failed("POISON", message, retryable=False)


def _ran_alone(record: Record, beside: Sequence[Record]) -> bool:
    if record.claim is Claim.CRASHED:
        return True
    return not any(
        other.is_at_work and not other.is_isolated and other.sequence != record.sequence for other in beside
    )
