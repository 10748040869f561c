"""The part of one process in its host's polling: what it remembers, tells its siblings and asks of them.

The rules are those of `poll_turns.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowherd.worker.next_step import NextStep
from flowherd.worker.poll_batch_size import BatchSize
from flowherd.worker.poll_pace import CLOSE_S, PATIENCE_S, Pace, Rhythm, after_receipt, next_expected
from flowherd.worker.poll_turns import Leave, Poll, Wait, decide, helper, share

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from flowherd.backoff import Rng
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.sibling_processes import Sibling, Siblings


class PollPolicy:
    """The part of a process in the host's polling: remembers its pace, tells its siblings, wakes them.

    Times are seconds of the loop's clock.

    Args:
        config: the pauses of a host without work, and the most that a poll asks for.
        siblings: the host's other processes.
        now: the time; a new process polls as if work had just come.
        rng: for pauses that differ.
        busy_s: see `BatchSize`.

    """

    def __init__(
        self, config: WorkerConfig, siblings: Siblings, now: float, rng: Rng, busy_s: Callable[[], float]
    ) -> None:
        self._rhythm = Rhythm(config.poll_interval_s, config.poll_interval_max_s)
        self._poll_max = self._limit = config.poll_max
        self._batch_size = BatchSize(busy_s)
        self._siblings = siblings
        self._rng = rng
        self._pace = Pace()
        self._next_step = NextStep(config.poll_interval_s)
        self._worked_at = now
        self._receipt_at = 0.0
        self._planned_at = 0.0  # until then nothing has to be decided

    def __repr__(self) -> str:
        return f"<PollPolicy {self._pace}>"

    def next_at(self, now: float, *, is_roomy: bool) -> float:
        """The time to poll, or to look again: at once if not later than `now`. Tells the siblings."""
        if self._planned_at > now + CLOSE_S:
            self._siblings.say_next(self._planned_at)
            return self._planned_at
        pace, step, others = self._pace, self._next_step, self._siblings.look(now)
        for one in others:
            if one.learned_at > step.learned_at:
                step.take(one.pause_s, one.learned_at)
        if pace.worked_at != self._worked_at or pace.pause_s != step.pause_s:
            pace = pace._replace(worked_at=self._worked_at, receipt_at=self._receipt_at, pause_s=step.pause_s)
        turn, self._pace = decide(pace, self._siblings.me(), others, self._rhythm, now, is_roomy=is_roomy)
        match turn:  # by names: for places Python 3.11 looks up a name that is new each time, and caches it
            case Poll():
                return now
            case Wait(until=until):
                self._siblings.say_next(until)
                return until
            case Leave(to=to, until=until):
                self._siblings.say_next(until)
                self._siblings.wake(to)
                return until

    @property
    def most(self) -> int:
        """Activities that a poll should ask for at most, whatever could start."""
        return min(self._limit, self._batch_size.most)

    @property
    def is_hungry(self) -> bool:
        """True when more is probably queued, which this process fetches as soon as half of a batch could start."""
        return self._pace.is_hungry

    def share_of(self, wanted: int, now: float) -> int:
        """The part of what this process could start that it may ask for, beside siblings that could start it too."""
        if not self._siblings.are_there:
            return wanted
        return share(self._pace, self._siblings.own_load, lambda: self._siblings.look(now), wanted, now)

    def full(self, now: float) -> float:
        """Nothing more can start here; returns the time to look again even so, infinite for none.

        If it takes long after a full batch, a sibling is woken for what may be left.
        """
        self.pause()
        pace = self._pace
        if not pace.is_hungry or pace.woke_at >= pace.worked_at:
            return math.inf
        at = pace.worked_at + PATIENCE_S
        if at > now:
            return at
        self._pace = self._call_helper(pace, self._siblings.look(now), now)
        return math.inf

    def pause(self) -> None:
        """Nobody can count on this process to poll."""
        self._siblings.say_next(0.0)

    def began(self, now: float) -> None:
        """A poll has begun."""
        self._receipt_at = self._planned_at = 0.0
        self._siblings.say_polled(now)

    def found(
        self,
        asked: int,
        found: int,
        *,
        began_at: float,
        now: float,
        is_light: bool,
        workflow_ids: Collection[str] = (),
    ) -> None:
        """A poll has brought `found` activities; wakes a sibling when there may be more than this process can start.

        It had asked for `asked` at `began_at`; `is_light` when all that came is known to leave this process free;
        `workflow_ids` are of what came.
        """
        siblings = self._siblings.look(now) if found else ()  # an idle process does little else than poll
        if workflow_ids:
            self._learn(workflow_ids, began_at, siblings)
        load = self._siblings.own_load
        pace = self._pace.after_poll(asked, found, began_at, now, self._rng, load=load, is_light=is_light)
        self._batch_size.found(asked, found, now)
        is_full = found >= asked
        if not is_full:
            self._siblings.say_drained(began_at)
        if found:
            self._limit = self._poll_max
            self.worked(now)
            if not is_light or (is_full and self._pace.is_hungry):
                pace = self._call_helper(pace, siblings, now)
            self._planned_at = 0.0 if pace.is_hungry else self._next_after(now, siblings)
        self._pace = pace

    def _call_helper(self, pace: Pace, siblings: Sequence[Sibling], now: float) -> Pace:
        """Wakes a sibling for what may be left in the queue, if one rests; returns the pace that goes with it."""
        one = helper(siblings, now)
        if one is None:
            return pace
        self._siblings.wake(one.number)
        return pace._replace(woke_at=now)

    def _next_after(self, own_work_at: float, siblings: Sequence[Sibling]) -> float:
        return after_receipt(own_work_at, self._next_step.pause_s, next_expected(siblings, own_work_at))

    def _learn(self, workflow_ids: Collection[str], began_at: float, siblings: Sequence[Sibling]) -> None:
        drained_at = max((one.drained_at for one in siblings), default=0.0)
        step = self._next_step
        learned_at = step.learned_at
        taken_at = max((one.polled_at for one in siblings if one.worked_at > one.polled_at), default=0.0)
        step.found(workflow_ids, began_at, max(drained_at, self._pace.drained_at), taken_at)
        if step.learned_at != learned_at:
            self._siblings.say_pause(step.pause_s, step.learned_at)

    def too_large(self) -> None:
        """An answer was longer than allowed: asks for one at a time until one fits."""
        self._limit = 1

    def failed(self, began_at: float) -> None:
        """A poll has brought no answer."""
        self._pace = self._pace.after_failure(began_at, self._rng)

    def worked(self, now: float) -> None:
        """Work has come, or an outcome was acknowledged."""
        self._worked_at = now
        self._siblings.say_worked(now)

    def acknowledged(self, workflow_id: str, now: float) -> float | None:
        """The engine has taken the outcome of an activity of that workflow; returns the new time to look again.

        None for the same as before: it is not the first since the last poll, or nothing is expected of this process.
        """
        self._next_step.acknowledged(workflow_id, now)
        if now != self._worked_at:  # else it is one of many
            self.worked(now)
        if self._receipt_at:
            return None
        self._receipt_at = now
        if not self._siblings.next_at:
            return None
        if self._pace.is_called or self._pace.is_hungry:
            return now
        at = self._planned_at = self._next_after(now, self._siblings.look(now))
        self._siblings.say_next(at)
        return at

    def called(self) -> None:
        """A sibling wants this process to poll."""
        self._planned_at = 0.0
        self._pace = self._pace._replace(is_called=True)
