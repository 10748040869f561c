"""A keeper for one process: beats, settles and holds the token in a thread; it never runs user code."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.client.kruxia import connect
from flowherd.client.token_refresh import TokenKeeping
from flowherd.client.tokens import HostTokens
from flowherd.leases import heartbeats, settlement
from flowherd.leases.lease_keeper import LeaseKeeper
from flowherd.process.loops import new_loop
from flowherd.transport.transport import new_client
from flowherd.worker.tasks import Tasks, start_thread

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from flowherd.config import WorkerConfig
    from flowherd.ledger import Ledger
    from flowherd.ledger.wakeups import Wakeups

log = structlog.stdlib.get_logger(__name__)


class LeaseThread:
    """Beats are late while a handler holds the interpreter lock: `flowherd run` has a process for this.

    Args:
        refused: called from the thread when the credentials have been refused for `auth_grace_s`.
        failed: called from the thread when it cannot go on.

    """

    def __init__(
        self,
        config: WorkerConfig,
        ledger: Ledger,
        wakeups: Wakeups,
        *,
        auth_grace_s: float,
        refused: Callable[[str], None],
        failed: Callable[[], None],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._wakeups = wakeups
        self._auth_grace_s = auth_grace_s
        self._refused = refused
        self._failed = failed
        self._loop = new_loop(config.loop)()
        self._finishing: asyncio.Future[float] = self._loop.create_future()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to keep."""
        self._thread = start_thread("leases", self._run, self._failed)

    def finish(self, within_s: float) -> None:
        """Settles what ended segments owe within `within_s` seconds; returns when the thread has ended."""
        self._loop.call_soon_threadsafe(self._finishing.set_result, within_s)
        if self._thread is not None:
            self._thread.join(within_s + 1.0)

    def _run(self) -> None:
        self._loop.run_until_complete(self._keep())

    async def _keep(self) -> None:
        config, loop = self._config, self._loop
        http = new_client(config.api_url, None, connections=2)
        tokens = HostTokens(config, self._ledger, http) if config.client_id else None
        beating = connect(config, tokens, connections=heartbeats.PLACES)
        settling = connect(config, tokens, connections=settlement.PLACES)
        leases = LeaseKeeper(beating, settling, self._ledger, config, self._wakeups.wake)
        tasks = Tasks()
        work = [tasks.spawn(leases.run())]
        keeping = None
        if tokens is not None:
            keeping = TokenKeeping(tokens, grace_s=self._auth_grace_s, give_up=self._refused)
            work.append(tasks.spawn(keeping.run()))

        def heed_wakeup() -> None:
            self._wakeups.clear(self._wakeups.keeper)
            leases.woken.set()
            if keeping is not None:
                keeping.woken.set()

        loop.add_reader(self._wakeups.keeper, heed_wakeup)
        try:
            waited_for: set[asyncio.Future[Any]] = {*work, self._finishing}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                if task.done():
                    task.result()  # neither ends by itself: this raises what ended it
            await self._settle_rest(leases, self._finishing.result())
        finally:
            loop.remove_reader(self._wakeups.keeper)
            for task in work:
                task.cancel()
            await beating.aclose()
            await settling.aclose()
            await http.aclose()

    async def _settle_rest(self, leases: LeaseKeeper, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await leases.all_settled()
        except TimeoutError:
            note = "these activities wait for the end of their leases"
            log.error("settlement_incomplete", note=note)
