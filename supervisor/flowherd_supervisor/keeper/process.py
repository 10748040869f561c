"""What the keeper does after its fork: beats in this thread's loop, pages in another's; it never runs user code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd import logs
from flowherd.client.auth import HostTokens
from flowherd.client.kruxia import connect
from flowherd.client.tokens import TokenKeeping
from flowherd.client.transport import new_client
from flowherd.core.messages import (
    CredentialsRefused,
    DumpStacks,
    Finish,
    Noted,
    Ready,
    SupervisorState,
    WatchChild,
    decode_downward,
)
from flowherd.exits import Exit
from flowherd.leases import heartbeats, settlement
from flowherd.leases.beats import LeaseKeeper
from flowherd.ledger import Cause, Ledger, Life
from flowherd.process.link import Link, LinkClosed
from flowherd.process.loops import new_loop
from flowherd.process.stacks import dump_tasks, dump_threads
from flowherd_supervisor.keeper.export import MetricsExport
from flowherd_supervisor.keeper.happenings import Happenings, OwnLog
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.pages import PagesThread
from flowherd_supervisor.keeper.routes import Routes
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from flowherd.config import WorkerConfig
    from flowherd.shared.bells import Bells

ORPHANS_KILLED_AFTER_S = 3.8  # workers end by themselves within 3 s of the supervisor (faults.md P1)
ORPHANS_SETTLED_WITHIN_S = 0.9

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeeperSetup:
    """What a keeper is born with."""

    config: WorkerConfig
    ledger: Ledger
    bells: Bells
    sockets: Sequence[socket.socket]
    version: str
    supervisor_pid: int
    started_at: float
    auth_grace_s: float


def main(setup: KeeperSetup, link: Link) -> int:
    """Keeps until told to finish, or until the supervisor and all workers are gone; returns the exit code."""
    logs.name_process(process="keeper")
    with asyncio.Runner(loop_factory=new_loop(setup.config.loop)) as runner:
        runner.run(_Keeper(setup, link).run())
        os._exit(Exit.CLEAN)


class _Keeper:
    def __init__(self, setup: KeeperSetup, link: Link) -> None:
        self._setup = setup
        self._link = link
        self._pidfds: dict[int, int] = {}
        self._finish_by: float | None = None
        self._ended = asyncio.Event()
        self._happenings = Happenings()
        logging.getLogger().addHandler(OwnLog(self._happenings))
        self._board = StatusBoard(
            setup.ledger, setup.config.api_url, setup.version, setup.supervisor_pid, setup.started_at
        )

    async def run(self) -> None:
        setup = self._setup
        loop = asyncio.get_running_loop()
        tokens = keeping = None
        if setup.config.client_id:
            client = new_client(setup.config.api_url, None, connections=2)
            tokens = HostTokens(setup.config, setup.ledger, client)
            keeping = TokenKeeping(tokens, grace_s=setup.auth_grace_s, give_up=self._credentials_refused)
        beating = connect(setup.config, tokens, connections=heartbeats.PLACES)
        settling = connect(setup.config, tokens, connections=settlement.PLACES)
        leases = LeaseKeeper(beating, settling, setup.ledger, setup.config, setup.bells.ring)

        def heed_bell() -> None:
            setup.bells.hush(setup.bells.keeper)
            leases.woken.set()
            if keeping is not None:
                keeping.rung.set()

        loop.add_reader(setup.bells.keeper, heed_bell)
        self._link.set_blocking(blocking=False)
        loop.add_reader(self._link.fileno(), self._read_link)
        routes = Routes(setup.ledger, self._board, self._happenings, self._link.send)
        PagesThread(routes, setup.sockets).start()
        export = MetricsExport(HostMetrics(setup.ledger, self._board), setup.config, setup.started_at)
        export.start()
        work = [loop.create_task(leases.run())]
        if keeping is not None:
            work.append(loop.create_task(keeping.run()))
        self._link.send(Ready())
        ended = loop.create_task(self._ended.wait())
        await asyncio.wait({*work, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done():
                task.result()  # neither ends by itself: this raises what ended it
        await self._settle_rest(leases)
        self._say_advice()
        export.finish(self._left_s)

    def _say_advice(self) -> None:
        """One line for each activity that should run elsewhere; `flowherd advise` has the evidence."""
        for row in self._board.advice()["activities"]:
            if row["change"]:
                log.info(
                    "advice",
                    name=row["activity"],
                    runs=row["runs"],
                    verdict=row["verdict"],
                    reason=row["reason"],
                )

    def _read_link(self) -> None:
        """Everything that waits on the link; its end means that the supervisor is gone."""
        loop = asyncio.get_running_loop()
        try:
            while (received := self._link.receive()) is not None:
                data, fds = received
                match decode_downward(data):
                    case WatchChild(berth):
                        self._watch(berth, fds[0])
                    case SupervisorState() as state:
                        self._board.supervisor = state
                    case Noted(at, level, event, fields):
                        self._happenings.add(at, level, event, fields)
                    case Finish(within_s):
                        self._finish_by = time.monotonic() + within_s
                        self._ended.set()
                    case DumpStacks():
                        dump_threads(log)
                        dump_tasks(log)
                    case message:
                        log.warning("order_not_for_keepers", order=type(message).__name__)
        except LinkClosed:
            loop.remove_reader(self._link.fileno())
            log.warning("supervisor_gone", note="settling its workers' activities")
            loop.create_task(self._outlive_the_supervisor())  # noqa: RUF006 - this process ends with it

    def _watch(self, berth: int, pidfd: int) -> None:
        if (old := self._pidfds.pop(berth, None)) is not None:
            os.close(old)
        self._pidfds[berth] = pidfd

    def _credentials_refused(self, reason: str) -> None:
        """The supervisor decides what follows (exit code 4)."""
        self._link.send(CredentialsRefused(reason))

    # The end

    async def _outlive_the_supervisor(self) -> None:
        """Kills what is still there after 3.8 s, marks every berth as ended, and lets `run` settle the rest."""
        deadline = time.monotonic() + ORPHANS_KILLED_AFTER_S
        for berth in self._setup.ledger.berths:
            if berth.life is Life.LIVE and (pidfd := self._pidfds.get(berth.number)) is not None:
                if not await _ended(pidfd, deadline - time.monotonic()):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    await _ended(pidfd, 1.0)
                berth.end(Cause.STOPPED)
        self._finish_by = time.monotonic() + ORPHANS_SETTLED_WITHIN_S
        self._ended.set()

    @property
    def _left_s(self) -> float:
        assert self._finish_by is not None
        return max(0.0, self._finish_by - time.monotonic())

    async def _settle_rest(self, leases: LeaseKeeper) -> None:
        """The last minute: lets the scan settle all ended berths, at most until the time that was given."""
        try:
            async with asyncio.timeout(self._left_s):
                await leases.all_settled()
        except TimeoutError:
            log.error("settlement_incomplete", note="what is left waits for the end of its leases")


async def _ended(pidfd: int, timeout_s: float) -> bool:
    """Waits for the end of a process that is not our child."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(max(timeout_s, 0.0)):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
