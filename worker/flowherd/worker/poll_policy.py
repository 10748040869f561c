"""Decides which of a host's processes polls next, when, and for how much. Pure: hours are simulated in milliseconds.

The engine has no long poll, so all that a host can do is ask often when there may be work, rarely when there is none,
and never twice for the same answer. Three rules, each from what every process publishes about itself:

    quick    after work of its own a process polls once the engine should have the next step (`next_step.py`), and no
             sooner after another poll of the host; then again and again after a part of the time that has passed
             since, as long as no sibling has had work later; a sibling's empty poll counts as its own
    turns    without work of its own it takes the first free place in the host's calendar: the host polls once an
             interval, whoever it is; a place whose owner is frozen or gone costs the host that one poll; who finds at
             its place that a sibling polls soon takes another one
    leaving  at its due time a process that is busier than a sibling wakes that sibling instead, and polls only if
             the sibling has not within 10 ms; much busier, unless what it was given last has hardly begun to end;
             after a full batch too it wakes a sibling that rests, and polls once more unless that empties the queue

Activities that wait for something outside for long would else all be with whoever polled first. So a process whose last
ones have not ended asks for no more than makes it as busy as its freest sibling, and a quarter more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowherd.worker.next_step import SOON_S, NextStep
from flowherd.worker.poll_batch_size import BatchSize
from flowherd.worker.poll_pace import CLOSE_S, PATIENCE_S, Pace, Rhythm

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from flowherd.backoff import Rng
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.sibling_processes import Sibling, Siblings

CROWDED = 1 / 3  # of a period: a poll that comes sooner after another one tells too little
GAP = 1 / 2  # of a period: what must be free after a place, or its owner would give it up
RECENTLY_S = 0.1  # a poll that began since may be under way
LAGGING_S = 0.02  # a loop that is this late should leave work to others


class Poll(NamedTuple):
    """Poll now."""


class Wait(NamedTuple):
    """Look again at `until`, or when something has happened; `until` is published as the next poll's time."""

    until: float


class Leave(NamedTuple):
    """Wake the sibling in segment `to`, which is freer, and look again at `until`."""

    to: int
    until: float


Turn = Poll | Wait | Leave


def decide(
    pace: Pace, me: Sibling, siblings: Sequence[Sibling], rhythm: Rhythm, now: float, *, is_roomy: bool
) -> tuple[Turn, Pace]:
    """Decides what to do now; returns it with the pace that goes with it.

    Args:
        pace: what this process remembers.
        me: its load and lag; the rest is not read.
        siblings: the host's other processes.
        rhythm: the host's pauses.
        now: monotonic seconds.
        is_roomy: whether at least half of what a poll can bring could start at once: worth a poll of its own.

    """
    drained_at, worked_at, polled_by_others_at = pace.drained_at, pace.worked_at, 0.0
    if siblings:
        _, _, polled, drained, worked, *_ = zip(*siblings, strict=True)
        drained_at, worked_at = max(drained_at, *drained), max(worked_at, *worked)
        polled_by_others_at = max(polled)
    if pace.is_hungry and drained_at > pace.polled_at:
        pace = pace.after_empty_poll_of_sibling(me.load)
    period_s = rhythm.period_s(now - worked_at)
    polled_at = max(pace.polled_at, polled_by_others_at)
    due_at = pace.quick_at(polled_at, drained_at, worked_at, period_s, now, is_roomy=is_roomy)
    if due_at is None:
        is_due = pace.due_at <= now + CLOSE_S
        if not pace.due_at or (is_due and _is_taken(polled_by_others_at, siblings, period_s, now)):
            pace = pace._replace(due_at=_free_place(polled_at, siblings, period_s * pace.jitter, now))
        due_at = pace.due_at
    if due_at > now + CLOSE_S:
        return Wait(due_at), pace
    freest = freer_than(me, siblings, now, is_filling=pace.is_filling(me.load))
    if freest is None:
        return Poll(), pace
    if now < pace.rang_at + PATIENCE_S:
        return Wait(pace.rang_at + PATIENCE_S), pace
    if polled_at <= pace.rang_at:
        return Poll(), pace  # whom it had woken did not come
    return Leave(freest.number, now + PATIENCE_S), pace._replace(rang_at=now)


def _is_taken(polled_at: float, siblings: Sequence[Sibling], period_s: float, now: float) -> bool:
    """A sibling has just polled, or will soon, perhaps for work of its own: its workflow's next step is not stolen."""
    has_polled = polled_at > now - CROWDED * period_s
    return has_polled or any(now < one.next_poll_at < now + GAP * period_s for one in siblings)


def _free_place(polled_at: float, siblings: Sequence[Sibling], period_s: float, now: float) -> float:
    """The first time that is a period after the host's last poll and between the places that others hold."""
    place = max(polled_at + period_s, now)
    for taken_at in sorted(one.next_poll_at for one in siblings if one.will_poll(now)):
        if taken_at >= place + GAP * period_s:
            break
        place = max(place, taken_at + period_s)
    return place


def freer_than(
    me: Sibling, siblings: Sequence[Sibling], now: float, *, is_filling: bool = False
) -> Sibling | None:
    """The sibling that should poll instead: with less than half the load, or half the lag of a loop that lags.

    While this process `is_filling`, one with any less load, even if its poll is under way.
    """
    is_lagging = me.lag_s > LAGGING_S
    if not me.load and not is_lagging:
        return None  # nobody is freer than an idle process, and an idle host asks for each poll
    expected = _takers(siblings, now) if is_filling else [one for one in siblings if one.will_poll(now)]
    freer = [
        one
        for one in expected
        if (2 - is_filling) * one.load < me.load
        or (is_lagging and one.load <= me.load and 2 * one.lag_s < me.lag_s)
    ]
    return min(freer, key=_by_freedom, default=None)


def share(pace: Pace, me: Sibling, siblings: Sequence[Sibling], wanted: int, now: float) -> int:
    """The part of `wanted` activities that a process may ask for, beside siblings that could start them too."""
    if not siblings:
        return wanted
    asked = min(wanted, pace.ramp)
    if pace.is_filling(me.load):
        least = min((one.load for one in _takers(siblings, now)), default=None)
        if least is not None:
            asked = min(asked, max(1, least - me.load + max(1, me.load // 4)))
    return asked


def _takers(siblings: Sequence[Sibling], now: float) -> list[Sibling]:
    """Those that are expected to poll, or have begun a poll that may be under way."""
    return [one for one in siblings if one.will_poll(now) or one.polled_at > now - RECENTLY_S]


def helper(siblings: Sequence[Sibling], now: float) -> Sibling | None:
    """The sibling to wake when there is probably more work than was taken: the freest that does not poll soon."""
    resting = [one for one in siblings if one.will_poll(now) and one.next_poll_at > now + SOON_S]
    return min(resting, key=_by_freedom, default=None)


def _by_freedom(one: Sibling) -> tuple[int, float, float, int]:
    return one.load, one.lag_s, one.polled_at, one.number


class PollPolicy:
    """The part of a process in the host's polling: remembers its pace, tells its siblings, wakes them.

    Times are seconds of the loop's clock.

    Args:
        config: the pauses of a host without work, and the most that a poll asks for.
        siblings: the host's other processes.
        now: work is taken to have been seen when a process begins.
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

    def __repr__(self) -> str:
        return f"<PollPolicy {self._pace}>"

    def next_at(self, now: float, *, is_roomy: bool) -> float:
        """The time to poll, or to look again: at once if not later than `now`. Tells the siblings."""
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

    def share_of(self, wanted: int, now: float) -> int:
        """The part of what this process could start that it may ask for, beside siblings that could start it too."""
        return share(self._pace, self._siblings.me(), self._siblings.look(now), wanted, now)

    def pause(self) -> None:
        """Nobody can count on this process to poll."""
        self._siblings.say_next(0.0)

    def began(self, now: float) -> None:
        """A poll has begun."""
        self._receipt_at = 0.0
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
        siblings = self._siblings.look(now)
        if workflow_ids:
            self._learn(workflow_ids, began_at, siblings)
        load = self._siblings.me().load
        pace = self._pace.after_poll(asked, found, began_at, now, self._rng, load=load, is_light=is_light)
        self._batch_size.found(asked, found, now)
        is_full = found >= asked
        if not is_full:
            self._siblings.say_drained(began_at)
        if found:
            self._limit = self._poll_max
            self.worked(now)
            if (is_full or not is_light) and (one := helper(siblings, now)) is not None:
                self._siblings.wake(one.number)
                pace = pace._replace(rang_at=now)
        self._pace = pace

    def _learn(self, workflow_ids: Collection[str], began_at: float, siblings: Sequence[Sibling]) -> None:
        drained_at = max((one.drained_at for one in siblings), default=0.0)
        step, learned_at = self._next_step, self._next_step.learned_at
        step.found(workflow_ids, began_at, max(drained_at, self._pace.drained_at))
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
        pace = self._pace
        at = now if pace.is_called or pace.is_hungry else now + self._next_step.pause_s
        self._siblings.say_next(at)
        return at

    def called(self) -> None:
        """A sibling wants this process to poll."""
        self._pace = self._pace._replace(is_called=True)
