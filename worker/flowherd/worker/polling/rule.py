"""The rule of the host's polls, and the pause after a receipt. Pure; the package states it in words."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from flowherd.backoff import Rng

LOAD_S = 0.005  # seconds that a full process asks after an idle one: longer than a trip
INDEX_S = 0.0003  # seconds between two processes of the same load, so that the second one sees the poll of the first
SOON_S = 0.002  # seconds: the shortest pause; an engine that schedules at once is ready by then
SHARE = 8  # a part of the slots, and of the pause: fine enough to spread work, coarse enough to ask seldom
IDLE_AFTER_S = 600.0  # seconds without work after which polls spread out, to the longest interval
STEP_MAX_S = 1.0  # seconds: a step that takes longer waits for something else than the engine's schedule

_CLOSE_S = 1e-9  # sums of times differ by their rounding
_REMEMBERED = 256  # workflows: others have ended, or go on elsewhere
_OUT = 0.0  # in the place of a receipt: its only activity is at work


class Said(NamedTuple):
    """The polling state that a process publishes; times are monotonic seconds, 0 for never.

    Attributes:
        number: the number of its segment.
        polled_at: the start of its last poll.
        pause_s: seconds from there to the host's next poll, as its answer calls for.
        worked_at: the last time it got activities, or had an outcome acknowledged.
        load: the number of running activities.
        slots: the number of its slots.
        step_s: the pause between a receipt and the next step, as it has learned it.
        learned_at: the time of its last lesson.

    """

    number: int
    polled_at: float = 0.0
    pause_s: float = 0.0
    worked_at: float = 0.0
    load: int = 0
    slots: int = 1
    step_s: float = SOON_S
    learned_at: float = 0.0

    @property
    def share(self) -> float:
        """The part of its slots that is in use, at most 1."""
        return min(self.load / max(self.slots, 1), 1.0)


def due_at(me: Said, others: Sequence[Said]) -> float:
    """The time at which this process asks for the host: after the pause of the newest poll, the freest first."""
    newest = max((me, *others), key=_polled_at)
    behind_s = LOAD_S * me.share + INDEX_S * me.number if others else 0.0
    return newest.polled_at + newest.pause_s + behind_s


def freest(me: Said, others: Iterable[Said]) -> Said | None:
    """The process to wake when the next poll has come nearer: the freest, if it is freer than this one."""
    one = min(others, key=_share, default=None)
    return one if one is not None and one.share < me.share else None


def batch_size(free: int, slots: int, ended: int, *, has_siblings: bool) -> int:
    """The number of activities to ask for: twice what has ended since the last poll, at least a share of the slots.

    A process without siblings, which leaves nothing to anybody, asks for all that is free.
    """
    return min(free, max(2 * ended, slots // SHARE, 1)) if has_siblings else free


def interval(interval_s: float, longest_s: float, idle_s: float) -> float:
    """Seconds between polls of a host without work for `idle_s`: twice as long after 10 s more than ten minutes."""
    longer_s = interval_s * (1 + max(0.0, idle_s - IDLE_AFTER_S) / 10)
    return max(interval_s, min(longest_s, longer_s))


def _polled_at(one: Said) -> float:
    return one.polled_at


def _share(one: Said) -> float:
    return one.share


class NextStep:
    """Learns how soon an engine has the next activity of a workflow after a receipt.

    An activity that was ready after the pause shortens it by a twenty-fourth. After one that was not, the pause becomes
    the middle between the two polls around it: where the engine always takes as long, it stays within a sixteenth.

    Attributes:
        pause_s: seconds between a receipt and the poll for what follows.
        learned_at: when that was last looked at.

    """

    def __init__(self) -> None:
        self._receipts: dict[str, float] = {}
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
        self.pause_s, self.learned_at = min(max(pause_s, SOON_S), STEP_MAX_S), learned_at

    def found(
        self, workflow_ids: Iterable[str], asked_at: float, emptied_at: float, taken_at: float = 0.0
    ) -> None:
        """A poll that began at `asked_at` has brought activities of these workflows, each as often as there are.

        The host's last poll before it that had left nothing began at `emptied_at`; a sibling's last one that brought
        something at `taken_at`: it may have taken the step after an earlier receipt. Activities beside each other say
        nothing, since they may have been ready long before.
        """
        receipts = self._receipts
        for workflow_id, count in Counter(workflow_ids).items():
            receipt_at = receipts.pop(workflow_id, None)
            if receipt_at and receipt_at > taken_at:
                self._learn(max(emptied_at - receipt_at, 0.0), asked_at - receipt_at)
                self.learned_at = asked_at
            if count == 1 and receipt_at != _OUT:
                receipts[workflow_id] = _OUT
                if len(receipts) > _REMEMBERED:
                    del receipts[next(iter(receipts))]

    def _learn(self, after_s: float, within_s: float) -> None:
        """An activity became ready so long after the receipt of the one before."""
        if after_s > STEP_MAX_S:
            return
        middle_s = (after_s + within_s) / 2
        shorter_s = self.pause_s * (1 - 1 / (3 * SHARE))
        was_late = after_s >= self.pause_s - _CLOSE_S
        self.pause_s = min(max(middle_s if was_late else shorter_s, SOON_S), STEP_MAX_S)


class PollRule:
    """The part of one process in its host's polling: what it remembers between polls. Times are monotonic seconds.

    Args:
        interval_s: seconds between polls of a host without work.
        longest_s: the same after long idleness.
        now: a new process polls as if work had just come.
        rng: for pauses that differ: processes forked together, and hosts started together, would poll in phase.

    """

    def __init__(self, interval_s: float, longest_s: float, now: float, rng: Rng) -> None:
        self._interval_s = interval_s
        self._longest_s = longest_s
        self._rng = rng
        self._follows: deque[float] = deque()  # when to ask for what follows receipts
        self._group_until = 0.0
        self._retry_s = interval_s
        self._jitter = 1.0
        self._began_at = self._emptied_at = 0.0
        self._asks_for_step = False
        self.worked_at = now
        self.step = NextStep()

    def __repr__(self) -> str:
        return f"<PollRule [{len(self._follows)} follow, {self.step!r}]>"

    def next_at(self, me: Said, others: Sequence[Said]) -> float:
        """The time to poll, or to look again; at once if it is past."""
        for one in others:
            if one.learned_at > self.step.learned_at:
                self.step.take(one.step_s, one.learned_at)
        polled_at = max((one.polled_at for one in others), default=0.0)
        follows = self._follows
        while follows and follows[0] <= polled_at:
            follows.popleft()
        at = due_at(me, others)
        return min(at, follows[0]) if follows else at

    def began(self, now: float, others: Sequence[Said]) -> float:
        """A poll begins; returns the pause to publish while its answer is out."""
        self._began_at, self._asks_for_step = now, False
        self._jitter = self._rng.uniform(0.8, 1.0)
        while self._follows and self._follows[0] <= now + _CLOSE_S:
            self._follows.popleft()
            self._asks_for_step = True
        return self._pause_s(now, others)

    def _pause_s(self, now: float, others: Sequence[Said]) -> float:
        worked_at = max((one.worked_at for one in others), default=0.0)
        idle_s = now - max(self.worked_at, worked_at)
        return interval(self._interval_s, self._longest_s, idle_s) * self._jitter

    def answered(
        self, asked: int, found: int, now: float, others: Sequence[Said], workflow_ids: Collection[str] = ()
    ) -> float:
        """The answer of the poll has come; returns the pause to publish: 0 from now on after a full one.

        A poll for the next step that found nothing is repeated after an eighth of the learned pause, then after twice
        as long each time, up to the interval.
        """
        if workflow_ids:
            taken_at = max((one.polled_at for one in others if one.worked_at > one.polled_at), default=0.0)
            self.step.found(workflow_ids, self._began_at, self._emptied_at, taken_at)
        if found >= asked:
            self.worked_at, self._retry_s = now, self._interval_s
            return now - self._began_at
        self._emptied_at = self._began_at
        if found:
            self.worked_at, self._retry_s = now, self._interval_s
            return self._pause_s(now, others)
        pause_s = self._pause_s(now, others)
        if self._asks_for_step:
            self._retry_s = max(self.step.pause_s / SHARE, SOON_S)
        retry_s, self._retry_s = self._retry_s, min(2 * self._retry_s, self._interval_s)
        return self._shared(retry_s if retry_s < self._interval_s else pause_s)

    def _shared(self, pause_s: float) -> float:
        """The pause until this process asks for a next step, if that is at most an eighth of that pause later."""
        until_step_s = self._follows[0] - self._began_at if self._follows else 0.0
        return until_step_s if 0.0 < until_step_s - pause_s <= self.step.pause_s / SHARE else pause_s

    def acknowledged(self, workflow_id: str, now: float) -> float:
        """The engine has taken an outcome; returns the time to ask for what follows.

        Receipts within an eighth of the pause share one poll.
        """
        self.step.acknowledged(workflow_id, now)
        self.worked_at = now
        pause_s = self.step.pause_s
        at = now + pause_s
        if self._follows and now < self._group_until:
            self._follows[-1] = at
        else:
            self._group_until = now + pause_s / SHARE
            self._follows.append(at)
        return self._follows[0]
