"""Contact with the engine: the retries of heartbeats while it does not answer, and the log lines about it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import structlog

from flowherd.backoff import Backoff
from flowherd.errors import EngineDisconnected, EngineMisconfigured, EngineUnauthorized, ForeignReply

if TYPE_CHECKING:
    from flowherd.errors import EngineError

_LONGEST_PROBE_S = 2.0

log = structlog.stdlib.get_logger(__name__)


class Contact:
    """Tracks whether the engine answers: silent from the first unanswered call after its latest answer, to the next.

    A silence may be an outage, or locked rows in the engine's database. So each beat is tried once on its schedule, and
    then single beats are retried after growing pauses, even while the previous retry is under way.

    Attributes:
        silent: True while the engine does not answer.
        heard_since: the end of the latest silence.

    """

    def __init__(self) -> None:
        self._rng = random.Random()
        self._answered_at = -1.0
        self._probes = 0
        self._next_probe_at = 0.0
        self.silent = False
        self.heard_since = 0.0

    def __repr__(self) -> str:
        return f"<Contact [{f'silent, {self._probes} probes' if self.silent else 'answered'}]>"

    def answered(self, now: float) -> None:
        """Notes an answer of the engine."""
        self._answered_at = now
        if self.silent:
            self.silent, self.heard_since, self._probes = False, now, 0

    def ended_unanswered(self, began_at: float, now: float) -> None:
        """Notes a call that ended without an answer; the first one since the latest answer begins a silence."""
        if not self.silent and began_at > self._answered_at:
            self.silent = True
            self._next_probe_at = now

    def may_try_again(self, now: float, shortest_lease_s: float) -> bool:
        """True when an unanswered beat may be sent again; during a silence, each True counts as a probe.

        Probes find the end of an outage within a sixth of the shortest lease that is held.
        """
        if not self.silent:
            return True
        if now < self._next_probe_at:
            return False
        self._probes += 1
        backoff = Backoff(cap_s=min(_LONGEST_PROBE_S, shortest_lease_s / 6))
        self._next_probe_at = now + backoff.delay_s(self._probes, self._rng)
        return True


class Trouble:
    """Logs once why heartbeats fail, and once that they succeed again (faults.md E1)."""

    def __init__(self) -> None:
        self._logged: set[str] = set()
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._logged)

    def met(self, error: EngineError, now: float, failures: int) -> None:
        """Notes a beat that failed, with the number of consecutive failures."""
        if failures == 1 and isinstance(error, EngineDisconnected):
            return  # the connection may only have been idle for too long (faults.md E4)
        kind = _kind(error)
        if kind in self._logged:
            return
        if not self._logged:
            self._since = now
        self._logged.add(kind)
        _say(kind, str(error))

    def over(self, now: float) -> None:
        """Logs that all beats succeed again."""
        self._logged.clear()
        log.info("engine_reachable_again", after_s=round(now - self._since, 1))


def _kind(error: EngineError) -> str:
    if isinstance(error, EngineMisconfigured | ForeignReply):
        return "misconfigured"
    if isinstance(error, EngineUnauthorized):
        return "token"
    return "failing" if error.is_engines else "unreachable"


def _say(kind: str, reason: str) -> None:
    match kind:
        case "misconfigured":
            log.error("engine_misconfigured", reason=reason)
        case "token":
            log.warning("engine_refuses_our_token", reason=reason)
        case "unreachable":
            log.warning("engine_unreachable", reason=reason)
        case _:
            log.warning("heartbeats_fail", reason=reason)
