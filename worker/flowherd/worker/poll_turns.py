"""Decides which of a host's processes polls next, when, and for how much. Pure: hours are simulated in milliseconds.

The engine has no long poll, so all that a host can do is ask often when there may be work, rarely when there is none,
and never twice for the same answer. Four rules, each from what every process publishes about itself:

    quick    after work of its own a process polls once the engine should have the next step (`next_step.py`), and no
             sooner after another poll of the host, made or expected before its own; then again and again after a part
             of the time that has passed since, as long as no sibling has had work later; a sibling's empty poll counts
             as its own
    turns    without work of its own it takes the first free place in the host's calendar: the host polls once an
             interval, whoever it is; a place whose owner is frozen or gone costs the host that one poll, and up to a
             turn of all if handlers block the loops of others; who finds at its place that a sibling polls soon takes
             another one
    leaving  at its due time a process that is busier than a sibling wakes that sibling instead, and polls only if
             the sibling has not within 10 ms; much busier, unless what it was given last has hardly begun to end
    helping  a full batch is followed by another poll as soon as there is room, unless a sibling has emptied the queue;
             a resting sibling is woken for what may be left if that batch is full too, if there is no room for 10 ms,
             and at once if what came can keep this process busy

Activities that wait for something outside for long would else all be with whoever polled first. So a process whose last
ones have not ended asks for no more than makes it as busy as its freest sibling, and a quarter more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowherd.worker.next_step import SOON_S
from flowherd.worker.poll_pace import CLOSE_S, PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowherd.worker.poll_pace import Pace, Rhythm
    from flowherd.worker.sibling_processes import Sibling

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
        pace: this process's memory of its polls.
        me: its load and lag; the rest is not read.
        siblings: the host's other processes.
        rhythm: the host's pauses.
        now: monotonic seconds.
        is_roomy: True if at least half of what a poll can bring could start at once: worth a poll of its own.

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
    due_at = pace.quick_at(polled_at, drained_at, worked_at, siblings, period_s, now, is_roomy=is_roomy)
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
    if now < pace.woke_at + PATIENCE_S:
        return Wait(pace.woke_at + PATIENCE_S), pace
    if polled_at <= pace.woke_at:
        return Poll(), pace  # whom it had woken did not come
    until = now + PATIENCE_S
    due_at = until if pace.is_called else pace.due_at  # a poll of the sibling answers the call too
    return Leave(freest.number, until), pace._replace(woke_at=now, is_called=False, due_at=due_at)


def _is_taken(polled_at: float, siblings: Sequence[Sibling], period_s: float, now: float) -> bool:
    """A sibling has just polled, or will soon, perhaps for work of its own: its workflow's next step is not stolen."""
    has_polled = polled_at > now - max(CROWDED * period_s, PATIENCE_S + CLOSE_S)  # it may have been woken to
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


def share(pace: Pace, load: int, siblings: Callable[[], Sequence[Sibling]], wanted: int, now: float) -> int:
    """The part of `wanted` activities that a process may ask for, beside siblings that could start them too.

    `siblings` is called only if it matters how busy they are: seldom, and it takes long for an idle process.
    """
    asked = min(wanted, pace.ramp)
    if pace.is_filling(load):
        least = min((one.load for one in _takers(siblings(), now)), default=None)
        if least is not None:
            asked = min(asked, max(1, least - load + max(1, load // 4)))
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
