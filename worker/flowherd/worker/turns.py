"""One process's part in the host's polling: remembers its pace, says it to its siblings, wakes them; it never polls."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from flowherd.worker.pacing import Leave, Pace, Poll, Rhythm, Wait, decide, helper

if TYPE_CHECKING:
    from flowherd.ledger.siblings import Siblings
    from flowherd.settings.worker_config import WorkerConfig


class Turns:
    """Carries out what `flowherd.worker.pacing` decides. Times are seconds of the loop's clock.

    Args:
        config: the pauses of a host without work.
        siblings: the host's other processes.
        now: work is taken to have been seen when a process begins.

    """

    def __init__(self, config: WorkerConfig, siblings: Siblings, now: float) -> None:
        self._rhythm = Rhythm(config.poll_interval_s, config.poll_interval_max_s)
        self._siblings = siblings
        self._rng = random.Random()
        self._pace = Pace()
        self._worked_at = now

    def __repr__(self) -> str:
        return f"<Turns {self._pace}>"

    def next_at(self, now: float, *, is_roomy: bool) -> float:
        """When to poll, or to look again: at once if that is not later than `now`. Says so to the siblings.

        Args:
            now: seconds.
            is_roomy: see `decide`.

        """
        pace = self._pace
        if pace.worked_at != self._worked_at:
            pace = pace._replace(worked_at=self._worked_at)
        others = self._siblings.look(now)
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

    def share_of(self, wanted: int) -> int:
        """How much of what this process could start it may ask for, beside siblings that could start it too."""
        return min(wanted, self._pace.ramp) if self._siblings.are_there else wanted

    def pause(self) -> None:
        """Nobody can count on this process to poll."""
        self._siblings.say_next(0.0)

    def began(self, now: float) -> None:
        """A poll has begun."""
        self._siblings.say_polled(now)

    def found(self, asked: int, found: int, *, began_at: float, now: float, is_light: bool) -> None:
        """A poll has brought `found` activities; wakes a sibling when there may be more than this process can start.

        Args:
            asked: how many it had asked for.
            found: 0 for none.
            began_at: when the poll began.
            now: when its answer came.
            is_light: whether all that came is known to leave this process free for more.

        """
        pace = self._pace.after_poll(asked, found, began_at, now, self._rng, is_light=is_light)
        is_full = found >= asked
        if not is_full:
            self._siblings.say_drained(began_at)
        if found:
            self.worked(now)
            if (is_full or not is_light) and (one := helper(self._siblings.look(now), now)) is not None:
                self._siblings.wake(one.number)
                pace = pace._replace(rang_at=now)
        self._pace = pace

    def failed(self, began_at: float) -> None:
        """A poll has brought no answer."""
        self._pace = self._pace.after_failure(began_at, self._rng)

    def worked(self, now: float) -> None:
        """Work has come, or an outcome was acknowledged."""
        self._worked_at = now
        self._siblings.say_worked(now)

    def called(self) -> None:
        """A sibling wants this process to poll."""
        self._pace = self._pace._replace(is_called=True)
