"""Learns how soon an engine has the next activity of a workflow after a receipt. Pure.

An engine that schedules together with the receipt has it at once. One that schedules at intervals has it up to a second
later, and each poll before that is in vain. So the pause between a receipt and the poll for the next activity follows
what is seen: longer after an activity that was not ready by then, shorter after one that was.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SOON_S = 0.002  # the shortest pause: an engine that schedules at once is ready by then
LONGER = 1.3  # after an activity that was not ready by then
SHORTER = LONGER ** (-1 / 3)  # after one that was: three of four are, wherever the pause settles
AT_FIRST, FIRST = (
    2.0,
    8,
)  # instead of `LONGER`, for the first activities: a new host should not ask in vain for long
BETWEEN_S = (
    1.0  # if nothing was ready for so long, other work lies between, and the engine's haste says nothing
)
REMEMBERED = 256  # workflows: some have ended, or go on elsewhere
_OUT = 0.0  # in the place of a receipt: its only activity is at work


class NextStep:
    """The pause between a receipt and the poll for the next activity of its workflow.

    Args:
        interval_s: seconds between the polls of a host without work.

    Attributes:
        pause_s: seconds, at least `SOON_S`.
        learned_at: when that was last looked at.

    """

    def __init__(self, interval_s: float) -> None:
        self._longest_s = max(interval_s, SOON_S)
        self._receipts: dict[str, float] = {}
        self._seen = 0
        self.pause_s = SOON_S
        self.learned_at = 0.0

    def __repr__(self) -> str:
        return f"<NextStep [{self.pause_s * 1e3:.1f} ms, {len(self._receipts)} workflows]>"

    def acknowledged(self, workflow_id: str, now: float) -> None:
        """The engine has taken the outcome of an activity of this workflow."""
        if workflow_id in self._receipts:
            self._receipts[workflow_id] = now

    def take(self, pause_s: float, learned_at: float) -> None:
        """Goes on from the pause of a sibling that has learned later: the steps of a workflow may alternate."""
        self._seen = FIRST
        self.pause_s, self.learned_at = min(max(pause_s, SOON_S), self._longest_s), learned_at

    def found(
        self, workflow_ids: Iterable[str], asked_at: float, drained_at: float, taken_at: float = 0.0
    ) -> None:
        """A poll that began at `asked_at` has brought activities of these workflows, each as often as there are.

        The host's last poll before it that had left nothing in the queue began at `drained_at`; a sibling's last one
        that brought it something at `taken_at`. Activities beside each other say nothing: what comes after the receipt
        of one may have been ready long before. Nor does a receipt from before `taken_at`: the sibling may have run the
        next activity, and this be the one after it.
        """
        receipts = self._receipts
        for workflow_id, count in Counter(workflow_ids).items():
            receipt_at = receipts.pop(workflow_id, None)
            if receipt_at and receipt_at > taken_at:
                self._learn(max(drained_at - receipt_at, 0.0), asked_at - receipt_at)
                self.learned_at = asked_at
            if count == 1 and receipt_at != _OUT:
                receipts[workflow_id] = _OUT
                if len(receipts) > REMEMBERED:
                    del receipts[next(iter(receipts))]

    def _learn(self, after_s: float, within_s: float) -> None:
        """An activity became ready so long after the receipt of the one before.

        Nothing is learned where nobody could ask sooner, as without a free slot, nor of what comes to a poll for
        another reason long before the pause is over: that may have been ready beside what was acknowledged.
        """
        ready_s = (after_s + within_s) / 2
        was_ready = ready_s <= self.pause_s
        if after_s > BETWEEN_S or not (was_ready or after_s) or within_s < self.pause_s / 2:
            return
        longer = LONGER if self._seen >= FIRST else AT_FIRST
        self._seen += 1
        self.pause_s = min(max(self.pause_s * (SHORTER if was_ready else longer), SOON_S), self._longest_s)
