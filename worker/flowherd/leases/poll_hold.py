"""Holds polls back after an outage, so that none claims an activity that another process still holds (N6).

A heartbeat renews even a lapsed lease, until a poll or the engine's own sweep takes the activity. So polls wait until
the engine has answered for every lease that may have lapsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import FINAL, Clock, Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowherd.ledger import Ledger, Record, Segment

SHORTEST_LEASE_S = 2.0  # a shorter one lapses between two scans
DOUBTFUL_AFTER = 2 / 3  # fraction of a lease without an answer: two beats have failed, and one is left
STALE_AFTER_S = 1.0  # an older count is not valid: the keeper has missed several scans
_LOOKS, _BETWEEN_LOOKS_S = 20, 0.05  # 2 s for a poller that checks every 0.1 s
ANSWERED_FOR_S = 10.0  # after this long an unanswered activity is not due to an outage

_UNCONFIRMED = Host.UNCONFIRMED  # a module constant: read for each poll

log = structlog.stdlib.get_logger(__name__)


def unconfirmed(held: Iterable[tuple[float, float]], now: float) -> int:
    """Counts the leases that may have lapsed, from each lease's length and the time of its last answer."""
    return sum(
        lease_s >= SHORTEST_LEASE_S and now - answered_at > DOUBTFUL_AFTER * lease_s
        for lease_s, answered_at in held
    )


class Answers:
    """Tracks since when the engine has answered without a gap in which a lease could have lapsed."""

    def __init__(self) -> None:
        self._latest = self._since = float("-inf")

    def heard(self, at: float, shortest_lease_s: float) -> None:
        """Notes the time of an answer to any call of the host."""
        if at > self._latest:
            if at - self._latest > DOUBTFUL_AFTER * shortest_lease_s:
                self._since = at
            self._latest = at

    def for_s(self, now: float, shortest_lease_s: float) -> float:
        """Returns for how many seconds the engine has answered; 0 when it does not answer now."""
        if now - self._latest > DOUBTFUL_AFTER * shortest_lease_s:
            return 0.0
        return now - self._since


class Confirmations:
    """Counts at each scan the leases of the host that the engine has not confirmed for too long."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._answered: dict[tuple[int, int], float] = {}
        self._answers = Answers()
        self._heard_at = float("-inf")
        self._is_held = False

    def answered(self, segment: Segment, record: Record, asked_at: float) -> None:
        """Notes that the engine answered a call about this record, even with an error."""
        self._answered[segment.number, record.sequence] = asked_at
        self._heard_at = max(self._heard_at, asked_at)

    def store(self, held: Iterable[tuple[Segment, Record]], now: float) -> None:
        """Stores the count in the ledger, and logs when polls begin to wait and when they go on.

        Args:
            held: all records that the engine may still wait for, also those of ended processes.
            now: monotonic seconds.

        """
        owed = list(self._owed(held))
        shortest_s = min((lease_s for lease_s, _ in owed if lease_s >= SHORTEST_LEASE_S), default=0.0)
        count = unconfirmed(owed, now)
        for number in self._ledger.segments.living():
            polled_at = self._ledger.segments[number].clock(Clock.LAST_GOOD_POLL)
            if polled_at <= now:
                self._heard_at = max(self._heard_at, polled_at)
        self._answers.heard(self._heard_at, shortest_s)
        if count and self._answers.for_s(now, shortest_s) >= ANSWERED_FOR_S:
            count = 0
        self._ledger.put(_UNCONFIRMED, count)
        if bool(count) is not self._is_held:
            self._is_held = bool(count)
            self._say(count)

    def _owed(self, held: Iterable[tuple[Segment, Record]]) -> Iterator[tuple[float, float]]:
        """Yields the lease and the time of the latest answer of every record without a final verdict."""
        known, self._answered = self._answered, {}
        for segment, record in held:
            if segment.standing(record.index, record.sequence) in FINAL:
                continue
            key = segment.number, record.sequence
            if key in known:
                self._answered[key] = known[key]
            told_at = max(record.claimed_at, segment.last_ok(record.index, record.sequence))
            yield record.lease_s, max(told_at, known.get(key, 0.0))

    def _say(self, count: int) -> None:
        if count:
            note = "until the engine has answered for these leases, or for 10 s"
            log.warning("polls_wait", unconfirmed=count, note=note)
        else:
            log.info("polls_go_on")


class PollHold:
    """Tells one process when its polls have to wait, from the count that the keeper stores.

    Polls also wait while the count is stale: the host may have been frozen, and leases may have lapsed meanwhile. They
    wait for a late keeper during 20 checks, about 2 s; checks are counted because a frozen process makes none.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._looks = 0
        self._looked_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<PollHold [{self._ledger.get(_UNCONFIRMED)} unconfirmed, {self._looks} looks for the keeper]>"
        )

    def holds(self, now: float) -> bool:
        """True when a poll has to wait; check again after 0.1 s."""
        if self._ledger.keeper_late_s(now) < STALE_AFTER_S:
            self._looks = 0
            return self._ledger.get(_UNCONFIRMED) > 0
        if now >= self._looked_at + _BETWEEN_LOOKS_S:
            self._looked_at = now
            self._looks += 1
        return self._looks <= _LOOKS
