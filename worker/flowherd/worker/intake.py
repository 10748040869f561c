"""From an activity that a poll has brought to an attempt with a record: the first thing this worker does. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.errors import LedgerFull
from flowherd.model import Failed
from flowherd.worker.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowherd.model import Activity
    from flowherd.worker.admission import Admission, Catalog, Crowd
    from flowherd.worker.edges import History, Records


class Intake:
    """Makes attempts.

    Args:
        records: has a record of each attempt before anything else is done with it.
        admission: knows in which order a batch should start.
        catalog: the hosted activities.
        history: knows suspects.
        default_lease_s: of activities that name no `timeout_seconds`.

    """

    def __init__(
        self,
        records: Records,
        admission: Admission,
        catalog: Catalog,
        history: History,
        default_lease_s: float,
    ) -> None:
        self._records = records
        self._admission = admission
        self._catalog = catalog
        self._history = history
        self._default_lease_s = default_lease_s

    def room(self, crowd: Crowd) -> int:
        """How many activities a poll may bring, as far as records and neighbours allow."""
        room = self._admission.room(crowd, suspects_are_about=self._history.are_about)
        return min(self._records.free, room)

    def in_order(self, activities: Sequence[Activity]) -> Iterable[Activity]:
        """A batch in the order in which it should start."""
        if len(activities) < 2:
            return activities
        charged: frozenset[str] = frozenset()
        if self._history.any_charged:
            charged = frozenset(
                one.activity_id for one in activities if self._history.is_charged(one.activity_id)
            )
        return self._admission.order(activities, charged)

    def attempt_of(self, activity: Activity, asked_at: float) -> Attempt | Failed:
        """The record first: whatever ends this process from now on, the keeper knows of the claim."""
        timeout_s = activity.timeout_s
        lease_s = self._default_lease_s if timeout_s is None else timeout_s
        try:
            index, sequence = self._records.claim(activity, now=asked_at, lease_s=lease_s)
        except LedgerFull as error:
            return Failed("WORKER_OVERLOADED", f"no room for this activity: {error}", retryable=True)
        limit_s = self._catalog.limit_s(activity)
        attempt = Attempt(activity, index, sequence, claimed_at=asked_at, lease_s=lease_s, limit_s=limit_s)
        attempt.records = self._records
        if self._history.any_charged and self._history.is_charged(attempt.id):
            attempt.is_suspect = True
            attempt.is_apart = self._catalog.has_isolates
            attempt.is_alone = not attempt.is_apart
        return attempt
