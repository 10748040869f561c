"""Contact with the engine: how often beats are tried again while nothing answers, and the lines that say so."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import structlog

from flowherd.backoff import Backoff
from flowherd.errors import EngineDisconnected, EngineMisconfigured, EngineUnauthorized

if TYPE_CHECKING:
    from flowherd.errors import EngineError

_LONGEST_PROBE_S = 2.0

log = structlog.stdlib.get_logger(__name__)


class Contact:
    """Silent once a call that began after the engine's latest answer has ended without one, until the next answer.

    A silence may be an outage, or rows that are locked: so each beat is tried once as ever, and then one of them at a
    time after growing pauses, whether the one before has ended or not.

    Attributes:
        silent: see above.
        heard_since: when the latest silence ended.

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
        """The engine has answered a call."""
        self._answered_at = now
        if self.silent:
            self.silent, self.heard_since, self._probes = False, now, 0

    def ended_unanswered(self, began_at: float, now: float) -> None:
        """A call that began at `began_at` has ended; the first one begins a silence."""
        if not self.silent and began_at > self._answered_at:
            self.silent = True
            self._next_probe_at = now

    def may_try_again(self, now: float, shortest_lease_s: float) -> bool:
        """True when a beat that nothing has answered may go out again; in a silence the answer True counts as a probe.

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
    """Says once what keeps beats from being taken, and once that it is over (faults.md E1)."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._said)

    def met(self, error: EngineError, now: float, failures: int) -> None:
        """A beat has failed for the `failures`-th time in a row."""
        if failures == 1 and isinstance(error, EngineDisconnected):
            return  # the connection may only have been idle for too long (faults.md E4)
        kind = _kind(error)
        if kind in self._said:
            return
        if not self._said:
            self._since = now
        self._said.add(kind)
        _say(kind, str(error))

    def over(self, now: float) -> None:
        """Every beat is taken again."""
        self._said.clear()
        log.info("engine_reachable_again", after_s=round(now - self._since, 1))


def _kind(error: EngineError) -> str:
    if isinstance(error, EngineMisconfigured):
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
