"""Who of a host's processes polls next, when, and for how much: pure, so that hours are simulated in milliseconds.

The engine has no long poll, so all that a host can do is ask often when there may be work, rarely when there is none,
and never twice for the same answer. Three rules, each from what every process publishes about itself:

    quick    after work of its own a process polls 2 ms later, since that usually makes the next step ready, then
             again and again after a part of the time that has passed since; a sibling's empty poll counts as its own
    turns    without work of its own it takes the first free place in the host's calendar: the host polls once an
             interval, whoever it is; a place whose owner is frozen or gone costs the host that one poll
    leaving  at its due time a process that is busier than a sibling wakes that sibling instead, and polls only if
             the sibling has not within 10 ms
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.backoff import Rng

SOON_STARTED_S = 0.2  # work that could not begin for longer is better claimed by a sibling
SOON_S = 0.002  # after work, or an acknowledged completion: that usually makes the next step ready
RISE = 0.7  # the next quick pause, as a share of the time since the last work: pick-up against requests
CROWDED = 1 / 3  # of a period: a poll that comes sooner after another one tells too little
GAP = 1 / 2  # of a period: what must be free after a place, or its owner would give it up
IDLE_AFTER_S = 5.0  # without work for this long, polls spread out to the longest interval
PATIENCE_S = 0.01  # how long a process that left its turn to a sibling waits for its poll
CLOSE_S = 0.0005  # a timer may fire this early
OVERDUE_S = 0.05  # a sibling that has missed its own time by more is frozen, or its loop is blocked
LAGGING_S = 0.02  # a loop that is this late should leave work to others
MOST = 100  # activities a poll may ask for (protocol.md §4)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How long a host without work pauses between polls, in seconds: at first, and at most after long idleness."""

    interval_s: float
    interval_max_s: float

    def period_s(self, idle_s: float) -> float:
        """The pause when the host has had no work for `idle_s` seconds."""
        if idle_s < IDLE_AFTER_S:
            return self.interval_s
        return max(self.interval_s, min(self.interval_max_s, self.interval_s * idle_s / IDLE_AFTER_S))


class Sibling(NamedTuple):
    """What a process publishes about its polling; all times are monotonic seconds, 0 for never.

    A tuple, since an idle process makes one for each sibling at each look, and does little else.

    Attributes:
        number: of its segment.
        next_poll_at: its place in the calendar; 0 while it does not poll: no free slot, a poll under way, a drain.
        polled_at: when its last poll began.
        drained_at: when its last poll began that brought less than it had asked for: the queue was empty then.
        worked_at: when it last got work, or had an outcome acknowledged.
        load: activities at work.
        lag_s: how late its loop is.
        is_on_loop: whether a handler keeps its loop at this moment.

    """

    number: int
    next_poll_at: float = 0.0
    polled_at: float = 0.0
    drained_at: float = 0.0
    worked_at: float = 0.0
    load: int = 0
    lag_s: float = 0.0
    is_on_loop: bool = False

    def will_poll(self, now: float) -> bool:
        """Whether it can be counted on: it has free slots, and has not missed its own time."""
        return not self.is_on_loop and self.next_poll_at > 0 and self.next_poll_at >= now - OVERDUE_S


class Pace(NamedTuple):
    """What a process remembers between its polls. Times are monotonic seconds. A tuple, as `Sibling`.

    Attributes:
        worked_at: when it last got work, or had an outcome acknowledged.
        polled_at: when its last poll began.
        drained_at: when its last poll began that brought less than was asked for.
        due_at: its place in the calendar, 0 for none yet.
        rang_at: when it last woke a sibling.
        is_called: whether a sibling has woken it, so that it polls at once.
        is_hungry: whether its last poll brought all that was asked for, and nothing that keeps it from more.
        ramp: how much the next poll may ask for beside siblings.
        jitter: of the next pause: processes forked together, and hosts started together, would poll in phase.

    """

    worked_at: float = 0.0
    polled_at: float = 0.0
    drained_at: float = 0.0
    due_at: float = 0.0
    rang_at: float = 0.0
    is_called: bool = False
    is_hungry: bool = False
    ramp: int = 1
    jitter: float = 1.0

    def after_poll(
        self, asked: int, found: int, began_at: float, now: float, rng: Rng, *, is_light: bool
    ) -> Pace:
        """The pace after a poll for `asked` activities that began at `began_at` and brought `found`.

        How much may be asked for beside siblings begins at 1, doubles with each full batch and halves with each
        empty one down to 2: a few heavy activities spread over the host, and many light ones are soon fetched a
        hundred at a time.
        """
        is_full = found >= asked
        ramp = self.ramp
        if is_full:
            ramp = min(2 * ramp, MOST)
        elif not found:
            ramp = max(ramp // 2, min(ramp, 2))
        return self._replace(
            worked_at=now if found else self.worked_at,
            polled_at=began_at,
            drained_at=self.drained_at if is_full else began_at,
            due_at=0.0,
            is_called=False,
            is_hungry=is_full and is_light,
            ramp=ramp,
            jitter=rng.uniform(0.7, 1.0),
        )

    def after_failure(self, began_at: float, rng: Rng) -> Pace:
        """The pace after a poll without an answer: the queue may hold anything."""
        jitter = rng.uniform(0.7, 1.0)
        return self._replace(polled_at=began_at, due_at=0.0, is_called=False, is_hungry=False, jitter=jitter)

    def quick_at(self, drained_at: float, period_s: float, now: float, *, is_roomy: bool) -> float | None:
        """When its own work is reason to poll; None when the queue has been found empty for long enough since."""
        if self.is_called or (self.is_hungry and is_roomy):
            return now
        since_work_s = drained_at - self.worked_at
        if since_work_s < SOON_S - CLOSE_S:
            return self.worked_at + SOON_S
        return drained_at + since_work_s * RISE * self.jitter if since_work_s < period_s else None


@dataclass(frozen=True, slots=True)
class Poll:
    """Poll now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again at `until`, or when something has happened; `until` is published as the next poll's time."""

    until: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Wake the sibling in segment `to`, which is freer, and look again at `until`."""

    to: int
    until: float


Turn = Poll | Wait | Leave


def decide(
    pace: Pace, me: Sibling, siblings: Sequence[Sibling], rhythm: Rhythm, now: float, *, is_roomy: bool
) -> tuple[Turn, Pace]:
    """What to do now, and the pace with the place in the calendar that goes with it.

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
    period_s = rhythm.period_s(now - worked_at)
    due_at = pace.quick_at(drained_at, period_s, now, is_roomy=is_roomy)
    if due_at is None:
        is_taken = pace.due_at <= now + CLOSE_S and polled_by_others_at > now - CROWDED * period_s
        if not pace.due_at or is_taken:
            polled_at = max(pace.polled_at, polled_by_others_at)
            pace = pace._replace(due_at=_free_place(polled_at, siblings, period_s * pace.jitter, now))
        due_at = pace.due_at
    if due_at > now + CLOSE_S:
        return Wait(due_at), pace
    freest = freer_than(me, siblings, now)
    if freest is None:
        return Poll(), pace
    if now < pace.rang_at + PATIENCE_S:
        return Wait(pace.rang_at + PATIENCE_S), pace
    if max(pace.polled_at, polled_by_others_at) <= pace.rang_at:
        return Poll(), pace  # whom it had woken did not come
    return Leave(freest.number, now + PATIENCE_S), pace._replace(rang_at=now)


def _free_place(polled_at: float, siblings: Sequence[Sibling], period_s: float, now: float) -> float:
    """The first time that is a period after the host's last poll and between the places that others hold."""
    place = max(polled_at + period_s, now)
    for taken_at in sorted(one.next_poll_at for one in siblings if one.will_poll(now)):
        if taken_at >= place + GAP * period_s:
            break
        place = max(place, taken_at + period_s)
    return place


def freer_than(me: Sibling, siblings: Sequence[Sibling], now: float) -> Sibling | None:
    """The sibling that should poll instead: with less than half the load, or half the lag of a loop that lags."""
    is_lagging = me.lag_s > LAGGING_S
    if not me.load and not is_lagging:
        return None  # nobody is freer than an idle process, and an idle host asks for each poll
    freer = [
        one
        for one in siblings
        if one.will_poll(now)
        and (2 * one.load < me.load or (is_lagging and one.load <= me.load and 2 * one.lag_s < me.lag_s))
    ]
    return min(freer, key=_by_freedom, default=None)


def helper(siblings: Sequence[Sibling], now: float) -> Sibling | None:
    """Whom to wake when there is probably more work than this process took: the freest that does not poll soon."""
    resting = [one for one in siblings if one.will_poll(now) and one.next_poll_at > now + SOON_S]
    return min(resting, key=_by_freedom, default=None)


def _by_freedom(one: Sibling) -> tuple[int, float, float, int]:
    return one.load, one.lag_s, one.polled_at, one.number


def claimable(busy_mean_s: float) -> int:
    """How many activities a poll may ask for, so that this loop can start them soon and siblings get the rest.

    Args:
        busy_mean_s: seconds of the loop that a recent activity took, on average.

    """
    return MOST if busy_mean_s <= 0 else max(1, min(MOST, int(SOON_STARTED_S / busy_mean_s)))
