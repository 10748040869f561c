"""The keeper after its fork: heartbeats in this thread's loop, HTTP in another's; it never runs user code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd import logs
from flowherd.background import Tasks
from flowherd.event_loop import new_loop
from flowherd.exit_codes import Exit
from flowherd.leases.keep_leases_and_token import KeeperTasks
from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import (
    CredentialsRefused,
    DumpStacks,
    Finish,
    IsolateReaped,
    Noted,
    Ready,
    Serves,
    SupervisorState,
    WatchChild,
    WatchIsolate,
    decode_downward,
)
from flowherd.process.log_stacks import dump_tasks, dump_threads
from flowherd_supervisor.keeper.event_stream import EventLog, OwnLog
from flowherd_supervisor.keeper.http_server import HttpThread
from flowherd_supervisor.keeper.orphans import SETTLED_WITHIN_S, Orphans, limit_the_keeper
from flowherd_supervisor.keeper.routes import Routes
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from flowherd.ledger import Ledger
    from flowherd.ledger.wakeups import Wakeups
    from flowherd.link.messages import Downward, Message
    from flowherd.settings.worker_config import WorkerConfig

_SHOWN = 200  # characters of a message
_ANSWERED_WITHIN_S = 0.5  # a reply takes a millisecond, unless its thread waits for a CPU

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeeperSetup:
    """The keeper's settings, sockets and descriptors, which it inherits at its fork."""

    config: WorkerConfig
    ledger: Ledger
    wakeups: Wakeups
    sockets: Sequence[socket.socket]
    version: str
    supervisor_pid: int
    started_at: float
    auth_grace_s: float
    app: str = ""
    folder: str = ""


def main(setup: KeeperSetup, link: Link) -> int:
    """Runs the keeper until Finish, or until the supervisor and all workers are gone; returns the exit code."""
    logs.name_process(process="keeper")
    code = Exit.INTERNAL
    try:
        code = asyncio.Runner(loop_factory=new_loop(setup.config.loop)).run(_Keeper(setup, link).run())
    except BaseException:
        log.exception("internal_error")
    finally:
        os._exit(code)  # neither a request nor a call under way may delay it


class _Keeper:
    def __init__(self, setup: KeeperSetup, link: Link) -> None:
        self._setup = setup
        self._link = link
        self._tasks = Tasks()
        self._finish_by: float | None = None
        self._outliving: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._events = EventLog()
        logging.getLogger().addHandler(OwnLog(self._events))
        self._board = StatusBoard(
            setup.ledger,
            setup.config.api_url,
            setup.version,
            setup.supervisor_pid,
            setup.started_at,
            app=setup.app,
            folder=setup.folder,
        )

    async def run(self) -> Exit:
        """Runs until the end and returns the exit code."""
        setup = self._setup
        loop = asyncio.get_running_loop()
        keep = KeeperTasks(
            setup.config,
            setup.ledger,
            setup.wakeups,
            auth_grace_s=setup.auth_grace_s,
            refused=self._credentials_refused,
        )
        self._orphans = Orphans(setup.ledger, keep.woken.set)
        self._link.set_blocking(blocking=False)
        loop.add_reader(self._link.fileno(), self._read_link)

        async def cancel(activity_id: str, *, requeue: bool) -> str:
            """Runs a cancel on this loop; called from the HTTP thread's loop."""
            work = keep.cancel(activity_id, requeue=requeue)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

        routes = Routes(setup.ledger, self._board, self._events, self._link.send, cancel)
        pages = HttpThread(routes, setup.sockets)
        pages.start()
        self._say(Ready())
        await keep.run_until(self._tasks.spawn(self._until_ended()))
        if self._outliving is not None:
            await asyncio.wait({self._outliving})
        if not keep.is_running:
            return Exit.INTERNAL
        await keep.settle_rest(self._left_s)
        await pages.answered(min(self._left_s, _ANSWERED_WITHIN_S))  # the order to drain leads here
        self._say_advice()
        return Exit.CLEAN

    async def _until_ended(self) -> None:
        await self._ended.wait()

    def _say_advice(self) -> None:
        """Logs a line for each activity that should run elsewhere; `flowherd advise` has the evidence."""
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
        """Handles all waiting messages; a closed link means that the supervisor is gone."""
        try:
            while (received := self._link.receive()) is not None:
                self._heed(*received)
        except LinkClosed:
            limit_the_keeper()
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            log.warning("supervisor_gone", note="settling its workers' activities")
            self._outliving = self._tasks.spawn(self._outlive_the_supervisor())

    def _heed(self, data: bytes, fds: Sequence[int]) -> None:
        """Handles a message; an invalid one must not block later ones or the end of the link."""
        try:
            self._obey(decode_downward(data), fds)
        except Exception:
            log.exception("internal_error", order=data[:_SHOWN].decode(errors="replace"))

    def _obey(self, message: Downward, fds: Sequence[int]) -> None:
        match message:
            case WatchChild(segment):
                self._orphans.watch_worker(segment, fds[0])
            case WatchIsolate(pid):
                self._orphans.watch_isolate(pid, fds[0])
            case IsolateReaped(pid):
                self._orphans.forget_isolate(pid)
            case SupervisorState() as state:
                self._board.supervisor = state
            case Serves() as served:
                self._board.serves = served
            case Noted(at, level, event, fields):
                self._events.add(at, level, event, fields)
            case Finish(within_s):
                self._finish_by = time.monotonic() + within_s
                self._ended.set()
            case DumpStacks():
                dump_threads(log)
                dump_tasks(log)
            case _:
                log.warning("order_not_for_keepers", order=type(message).__name__)

    def _say(self, message: Message) -> None:
        """Sends a message; a closed link is ignored here and handled by `_read_link`."""
        with contextlib.suppress(LinkClosed):
            self._link.send(message)

    def _credentials_refused(self, reason: str) -> None:
        """Reports refused credentials to the supervisor, which ends the host (exit code 4)."""
        self._say(CredentialsRefused(reason))

    # The end

    async def _outlive_the_supervisor(self) -> None:
        """Ends orphans and lets `run` settle the rest, whatever goes wrong."""
        try:
            await self._orphans.end()
        finally:
            self._finish_by = time.monotonic() + SETTLED_WITHIN_S
            self._ended.set()

    @property
    def _left_s(self) -> float:
        assert self._finish_by is not None
        return max(0.0, self._finish_by - time.monotonic())
