"""Maintains the leases and the token of a host on the running loop, for the keeper and `python -m flowherd`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flowherd.background import Tasks
from flowherd.client.bearer_tokens import BearerAuth, HostTokens
from flowherd.client.kruxia import connect
from flowherd.client.token_schedule import TokenSchedule
from flowherd.leases import heartbeats, settlement
from flowherd.leases.cancellation import ANSWERED_WITHIN_S, Canceller
from flowherd.leases.engine_watch import EngineWatch
from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.transport.transport import new_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.ledger import Ledger
    from flowherd.ledger.wakeups import Wakeups
    from flowherd.settings.worker_config import WorkerConfig

log = structlog.stdlib.get_logger(__name__)


class KeeperTasks:
    """The tasks for heartbeats, settlements and the token, with connections of their own.

    Args:
        config: the host's settings.
        ledger: the ledger whose leases are maintained.
        wakeups: the eventfds that wake these tasks, and the workers after a verdict.
        auth_grace_s: seconds of refused credentials before `refused` is called, if no token was ever granted.
        refused: called with the reason; requests go on.

    Attributes:
        woken: set it to have the ledger scanned now.

    """

    def __init__(
        self,
        config: WorkerConfig,
        ledger: Ledger,
        wakeups: Wakeups,
        *,
        auth_grace_s: float,
        refused: Callable[[str], None],
    ) -> None:
        self._wakeups = wakeups
        self._http = new_client(config.api_url, None, connections=2)
        tokens = HostTokens(config, ledger, self._http) if config.client_id else None
        self._token = (
            TokenSchedule(tokens, grace_s=auth_grace_s, give_up=refused) if tokens is not None else None
        )
        self._beating = connect(config, tokens, connections=heartbeats.PLACES)
        self._settling = connect(config, tokens, connections=settlement.PLACES)
        self._leases = LeaseKeeper(self._beating, self._settling, ledger, config, wakeups.wake)
        deadline_s = min(config.call_deadline_s, ANSWERED_WITHIN_S)
        self._canceller = Canceller(self._settling, ledger, wakeups.wake, deadline_s=deadline_s)
        auth = BearerAuth(tokens, config.api_url) if tokens is not None else None
        self._watching = new_client(config.api_url, auth, connections=1)
        self._watch = EngineWatch(self._watching, ledger)
        self._tasks = Tasks()
        self._work: list[asyncio.Task[None]] = []
        self.woken = self._leases.woken

    async def run_until(self, ended: asyncio.Future[None]) -> bool:
        """Starts the tasks and waits until `ended` is done; returns False when a task failed, with its cause logged."""
        asyncio.get_running_loop().add_reader(self._wakeups.keeper, self._heed_wakeup)
        self._work = [self._tasks.spawn(self._leases.run()), self._tasks.spawn(self._watch.run())]
        if self._token is not None:
            self._work.append(self._tasks.spawn(self._token.run()))
        await asyncio.wait({*self._work, ended}, return_when=asyncio.FIRST_COMPLETED)
        return self.is_running

    @property
    def is_running(self) -> bool:
        """True while all tasks run; none ends by itself."""
        return not any(task.done() for task in self._work)

    def _heed_wakeup(self) -> None:
        self._wakeups.clear(self._wakeups.keeper)
        self.woken.set()
        if self._token is not None:
            self._token.woken.set()

    async def cancel(self, activity_id: str, *, requeue: bool) -> str:
        """See `Canceller.cancel`."""
        return await self._canceller.cancel(activity_id, requeue=requeue)

    async def settle_rest(self, within_s: float) -> None:
        """Waits until all ended segments are settled, at most `within_s` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._leases.all_settled()
        except TimeoutError:
            log.error("settlement_incomplete", note="what is left waits for the end of its leases")

    async def aclose(self) -> None:
        """Cancels all tasks and closes all connections."""
        asyncio.get_running_loop().remove_reader(self._wakeups.keeper)
        await self._tasks.end()
        await self._beating.aclose()
        await self._settling.aclose()
        await self._watching.aclose()
        await self._http.aclose()
        await self._leases.aclose()
