"""The pace of a process's polls: what it remembers between them, and when its own work is reason for the next. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flowherd.worker.next_step import SOON_S
from flowherd.worker.poll_batch_size import MOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.backoff import Rng
    from flowherd.worker.sibling_processes import Sibling

RISE = 0.7  # the next quick pause, as a share of the time since the last work: pick-up against requests
IDLE_AFTER_S = 600.0  # without work for this long, polls spread out to the longest interval
SPREADING_S = 10.0  # seconds beyond that in which the pause grows by one interval
FEW = 2  # what a poll may ask for beside siblings when little is queued or activities wait
PATIENCE_S = 0.01  # how long a process waits for a sibling that it woke, and for room before it wakes one
CLOSE_S = 0.0005  # a timer may fire this early


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds between the polls of a host without work: at first, and at most after long idleness."""

    interval_s: float
    interval_max_s: float

    def period_s(self, idle_s: float) -> float:
        """The pause when the host has had no work for `idle_s` seconds."""
        if idle_s < IDLE_AFTER_S:
            return self.interval_s
        longer_s = self.interval_s * (1 + (idle_s - IDLE_AFTER_S) / SPREADING_S)
        return max(self.interval_s, min(self.interval_max_s, longer_s))


def after_receipt(receipt_at: float, pause_s: float, expected_at: float) -> float:
    """The time to poll for what follows a receipt: a pause after it, or after a sibling's poll expected before that."""
    at = receipt_at + pause_s
    return expected_at + pause_s if expected_at < at else at


def next_expected(siblings: Sequence[Sibling], now: float) -> float:
    """The next poll of a sibling after work or a receipt of its own since its last one; infinite for none."""
    return min(
        (
            one.next_poll_at
            for one in siblings
            if one.worked_at > one.polled_at and one.next_poll_at > now and not one.is_on_loop
        ),
        default=math.inf,
    )


class Pace(NamedTuple):
    """The memory of a process between its polls. Times are monotonic seconds. A tuple, as `Sibling`.

    Attributes:
        worked_at: when it last got work, or had an outcome acknowledged.
        receipt_at: when the first outcome since its last poll was acknowledged, 0 for none.
        pause_s: between a receipt and the poll for what follows (`NextStep`).
        polled_at: when its last poll began.
        drained_at: when its last poll began that brought less than was asked for.
        due_at: its place in the calendar, 0 for none yet.
        woke_at: when it last woke a sibling.
        is_called: True once a sibling has woken it, so that it polls at once.
        is_hungry: True if its last poll brought all that was asked for, and nothing that keeps it from more.
        ramp: the most that the next poll may ask for beside siblings.
        filling_above: with more load than this, less than half of what came last has ended.
        jitter: of the next pause: processes forked together, and hosts started together, would poll in phase.

    """

    worked_at: float = 0.0
    receipt_at: float = 0.0
    pause_s: float = SOON_S
    polled_at: float = 0.0
    drained_at: float = 0.0
    due_at: float = 0.0
    woke_at: float = 0.0
    is_called: bool = False
    is_hungry: bool = False
    ramp: int = 1
    filling_above: float = math.inf
    jitter: float = 1.0

    def after_poll(
        self, asked: int, found: int, began_at: float, now: float, rng: Rng, *, load: int, is_light: bool
    ) -> Pace:
        """The pace after a poll for `asked` activities that began at `began_at` and brought `found`, now in `load`.

        How much may be asked for beside siblings begins at 1, doubles with each full batch, halves with each empty
        one of an idle host down to 2, and is 2 again once the queue was empty while most of what came last had not
        ended: a few heavy or waiting activities spread over the host, and many light ones are soon fetched a hundred
        at a time.
        """
        is_full = found >= asked
        ramp = self.ramp
        if is_full:
            ramp = min(2 * ramp, MOST)
        elif self.is_filling(load - found):
            ramp = min(ramp, FEW)
        elif not found and self.due_at:
            ramp = max(ramp // 2, min(ramp, FEW))
        return self._replace(
            worked_at=now if found else self.worked_at,
            receipt_at=0.0,
            polled_at=began_at,
            drained_at=self.drained_at if is_full else began_at,
            due_at=0.0,
            is_called=False,
            is_hungry=is_full and is_light,
            ramp=ramp,
            filling_above=load - found / 2 if found else math.inf,
            jitter=rng.uniform(0.7, 1.0),
        )

    def after_empty_poll_of_sibling(self, load: int) -> Pace:
        """The pace, in `load`, of a process whose last poll was full, and after which a sibling emptied the queue."""
        return self._replace(
            is_hungry=False, ramp=min(self.ramp, FEW) if self.is_filling(load) else self.ramp
        )

    def after_failure(self, began_at: float, rng: Rng) -> Pace:
        """The pace after a poll without an answer: the queue may hold anything."""
        jitter = rng.uniform(0.7, 1.0)
        return self._replace(polled_at=began_at, due_at=0.0, is_called=False, is_hungry=False, jitter=jitter)

    def is_filling(self, load: int) -> bool:
        """Less than half of what came last has ended: more would make a process with this load busier for long."""
        return load > self.filling_above

    def quick_at(
        self,
        polled_at: float,
        drained_at: float,
        worked_at: float,
        siblings: Sequence[Sibling],
        period_s: float,
        now: float,
        *,
        is_roomy: bool,
    ) -> float | None:
        """The time at which its own work is reason to poll; None when others are to, or nothing came of it for long.

        Args:
            polled_at: when the host's last poll began.
            drained_at: when the host's last poll began that brought less than was asked for.
            worked_at: when the host last got work, or had an outcome acknowledged.
            siblings: the host's other processes.
            period_s: seconds between the polls of the host without work.
            now: monotonic seconds.
            is_roomy: True if at least half of what a poll can bring could start at once.

        """
        if self.is_called or (self.is_hungry and is_roomy):
            return now
        since_work_s = drained_at - self.worked_at
        if since_work_s < self.pause_s - CLOSE_S:
            since = max(self.receipt_at or self.worked_at, polled_at)
            return after_receipt(since, self.pause_s, next_expected(siblings, now))
        if self.worked_at < worked_at or since_work_s >= period_s:
            return None
        return drained_at + since_work_s * RISE * self.jitter
