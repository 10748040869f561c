"""After an outage nobody polls what another process still holds: the rule, and when the engine last answered (N6).

A heartbeat renews a lease that has lapsed as long as nobody has taken it, and only a poll or the engine's own
sweep takes it. So polls wait until the engine has answered for every lease that may have lapsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import FINAL, Clock, Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowherd.ledger import Ledger, Record, Segment

SHORTEST_LEASE_S = 2.0  # a shorter one lapses between two scans
DOUBTFUL_AFTER = 2 / 3  # of a lease without an answer: two beats have failed, and one is left
STALE_AFTER_S = 1.0  # a count that is older says nothing: the keeper has missed several scans
_LOOKS, _BETWEEN_LOOKS_S = 20, 0.05  # 2 s for a poller that looks each 0.1 s
ANSWERED_FOR_S = 10.0  # after so long it is no outage that keeps one activity from being answered

_UNCONFIRMED = Host.UNCONFIRMED  # looked at for each poll

log = structlog.stdlib.get_logger(__name__)


def unconfirmed(held: Iterable[tuple[float, float]], now: float) -> int:
    """The number of these leases, each with the time it was answered for last, that may have lapsed."""
    return sum(
        lease_s >= SHORTEST_LEASE_S and now - answered_at > DOUBTFUL_AFTER * lease_s
        for lease_s, answered_at in held
    )


class Answers:
    """Since when the engine has answered, without a pause in which a lease could have lapsed."""

    def __init__(self) -> None:
        self._latest = self._since = float("-inf")

    def heard(self, at: float, shortest_lease_s: float) -> None:
        """The engine has answered a call of the host at that time."""
        if at > self._latest:
            if at - self._latest > DOUBTFUL_AFTER * shortest_lease_s:
                self._since = at
            self._latest = at

    def for_s(self, now: float, shortest_lease_s: float) -> float:
        """For how long it has answered; 0 if it does not now."""
        if now - self._latest > DOUBTFUL_AFTER * shortest_lease_s:
            return 0.0
        return now - self._since


class Confirmations:
    """Stores at each scan for how many leases of the host the engine has not answered for too long."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._answered: dict[tuple[int, int], float] = {}
        self._answers = Answers()
        self._heard_at = float("-inf")
        self._is_held = False

    def answered(self, segment: Segment, record: Record, asked_at: float) -> None:
        """The engine has answered a call about this record, be it with an error."""
        self._answered[segment.number, record.sequence] = asked_at
        self._heard_at = max(self._heard_at, asked_at)

    def store(self, held: Iterable[tuple[Segment, Record]], now: float) -> None:
        """Stores the count, and says when polls have to wait and when not any more.

        Args:
            held: every record that the engine may still wait for, also of ended processes.
            now: monotonic seconds.

        """
        owed = list(self._owed(held))
        shortest_s = min((lease_s for lease_s, _ in owed if lease_s >= SHORTEST_LEASE_S), default=0.0)
        count = unconfirmed(owed, now)
        for segment in self._ledger.segments.living():
            polled_at = self._ledger.segments[segment].clock(Clock.LAST_GOOD_POLL)
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
        """Lease and latest answer of every record that nobody has a last word on."""
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
    """Says to one process whether its polls have to wait, by what the keeper has stored.

    While the count is stale they wait too: all may have stood still, and leases may have lapsed meanwhile. A keeper
    that stays late is waited for during 20 looks, about 2 s: looks, since who has stood still too has not looked.
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
        """True when a poll has to wait; ask again after 0.1 s."""
        if self._ledger.keeper_late_s(now) < STALE_AFTER_S:
            self._looks = 0
            return self._ledger.get(_UNCONFIRMED) > 0
        if now >= self._looked_at + _BETWEEN_LOOKS_S:
            self._looked_at = now
            self._looks += 1
        return self._looks <= _LOOKS
