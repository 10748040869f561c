"""Keeps the host's token fresh: renews it before it expires, and at once after a 401."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flowherd.awake_clock import AwakeClock
from flowherd.errors import EngineError, EngineUnauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.client.bearer_tokens import HostTokens

_LONGEST_NAP_S = 60.0
_SHORTEST_NAP_S = 0.05
_TRY_S = 15.0  # the engine may take this long to answer

log = structlog.stdlib.get_logger(__name__)


class TokenSchedule:
    """Renews the token before it expires, and at once when a worker reports a refused one through `woken`.

    Args:
        grace_s: seconds of refusals, from the first request on, after which the credentials count as wrong (exit code
            4); time in which this process was frozen does not count (faults.md N4).
        give_up: called then with the reason; requests go on.

    """

    def __init__(self, tokens: HostTokens, *, grace_s: float, give_up: Callable[[str], None]) -> None:
        self._tokens = tokens
        self._grace_s = grace_s
        self._give_up = give_up
        self._refused_since: float | None = None
        self._clock = AwakeClock(0.0)
        self.woken = asyncio.Event()

    async def run(self) -> None:
        """Renews the token until cancelled."""
        failures, loop = 0, asyncio.get_running_loop()
        self._clock = AwakeClock(loop.time(), _TRY_S)
        while True:
            self.woken.clear()
            try:
                nap_s = max(min(await self._tokens.refresh_if_wanted(), _LONGEST_NAP_S), _SHORTEST_NAP_S)
            except EngineError as error:
                failures += 1
                if failures == 1:
                    log.warning("token_not_granted", reason=str(error))
                self._consider_giving_up(error)
                pause_s = max(self._tokens.pause_s, _SHORTEST_NAP_S)
                self._clock.waits(loop.time() + pause_s)
                await asyncio.sleep(pause_s)
                continue
            if failures:
                log.info("token_granted", after_failures=failures)
            failures, self._refused_since = 0, None
            try:
                async with asyncio.timeout(nap_s):
                    await self.woken.wait()
            except TimeoutError:
                continue

    def _consider_giving_up(self, error: EngineError) -> None:
        """Calls `give_up` after `grace_s` of refusals; after a first grant a 401 counts as an outage (fact 19)."""
        now = self._clock.read(asyncio.get_running_loop().time())
        if self._tokens.ever_granted or not isinstance(error, EngineUnauthorized):
            self._refused_since = None
            return
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= self._grace_s:
            self._give_up(str(error))
