"""What a worker process does after its fork: link, app, loop, worker, exit code; it never forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from flowherd import logs
from flowherd.core.messages import (
    BootFailed,
    Downward,
    Drain,
    DumpStacks,
    IsolateEnded,
    IsolateStarted,
    Message,
    Quiet,
    Release,
    Resume,
    SetSlots,
    Stopped,
    boot_failed,
    decode_downward,
    ready,
)
from flowherd.errors import LifespanFailed
from flowherd.exits import Exit
from flowherd.ledger import Cell
from flowherd.process import forks
from flowherd.process.assembly import Assembly, Place
from flowherd.process.boot import load
from flowherd.process.isolate_link import LinkedHost
from flowherd.process.lifespan import LEAVE_S, enter
from flowherd.process.link import Link, LinkClosed
from flowherd.process.loops import new_loop, run_to_the_end
from flowherd.process.memory import resident_bytes
from flowherd.process.stacks import dump_tasks, dump_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from flowherd.config import WorkerConfig
    from flowherd.ledger import Berth, Ledger
    from flowherd.sdk.loading import LoadedApp
    from flowherd.sdk.registry import Registry
    from flowherd.shared.bells import Bells
    from flowherd.working.worker import Worker

ORPHAN_RELEASE_S = 2.0  # the supervisor is gone: give everything back (faults.md P1)
ORPHAN_EXIT_S = 3.0  # ... and end, even with a blocked loop, well before the keeper kills at 4 s
DEAF_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1,
)  # fmt: skip

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSetup:
    """What a worker process is born with."""

    app: str
    app_dir: str
    worker_type: str | None
    config: WorkerConfig
    slots: int
    most_slots: int
    activities: Mapping[str, Mapping[str, Any]]
    seat: int
    processes: int
    ledger: Ledger
    berth: Berth
    bells: Bells
    loaded: LoadedApp | None = None  # where the process it was forked from has imported the app


def ignore_signals(*, but: Collection[signal.Signals] = ()) -> None:
    """Leaves every decision to the link; handlers that do nothing, since programs would inherit SIG_IGN.

    Args:
        but: these do what they do by default.

    """
    signal.set_wakeup_fd(-1)
    for number in DEAF_SIGNALS:
        signal.signal(number, signal.SIG_DFL if number in but else lambda *_: None)


def main(setup: ChildSetup, link: Link) -> int:
    """Loads the app, says Ready or BootFailed, works until told to stop, and returns the exit code."""
    logs.name_process(process=setup.seat)
    os.environ["FLOWHERD_SEAT"] = str(setup.seat)
    os.environ["FLOWHERD_PROCESSES"] = str(setup.processes)
    orders = _Orders(link)
    orders.start()
    loaded = setup.loaded or load(setup.app, setup.app_dir, setup.worker_type, setup.activities)
    if isinstance(loaded, BootFailed):
        return refuse(link, loaded)
    ignore_signals()  # again: the app may have installed handlers of its own
    gc.freeze()  # what the app has loaded stays: no collection need look at it again
    loop = new_loop(setup.config.loop)()
    asyncio.set_event_loop(loop)
    forks.guard(loop, link)
    try:
        stopped = run_to_the_end(loop, _work(setup, loaded.registry, link, orders))
    except LifespanFailed as error:
        return refuse(link, boot_failed(Exit.BOOT_FAILED, str(error), error.report))
    _send_last(link, stopped)
    _leave(Exit.CLEAN)
    return Exit.CLEAN


def refuse(link: Link, reason: BootFailed) -> int:
    """Says why this process cannot start; returns the exit code."""
    _send_last(link, reason)
    return reason.code


def _send_last(link: Link, message: Message) -> None:
    try:
        link.send(message)
    except LinkClosed:
        log.warning("supervisor_gone", unsaid=type(message).__name__)


def _leave(code: int) -> None:
    """Ends without waiting for threads that user code left behind (faults.md A16, C16)."""
    os._exit(code)


async def _work(setup: ChildSetup, registry: Registry, link: Link, orders: _Orders) -> Stopped:
    """The worker's whole life on its loop."""
    worker_type = registry.worker_type or setup.config.worker_type
    lifespan = await enter(registry)
    assembly = Assembly(
        setup.config.model_copy(update={"worker_type": worker_type}),
        registry,
        ledger=setup.ledger,
        berth=setup.berth,
        bells=setup.bells,
        place=Place(setup.seat, lifespan.state, LinkedHost(link)),
        most_slots=setup.most_slots,
    )
    assembly.worker.set_slots(setup.slots, 0)
    orders.serve(assembly.worker, asyncio.get_running_loop())
    setup.berth.put(Cell.FRESH_BYTES, resident_bytes())
    link.send(ready(worker_type, {definition.name: definition.mode.value for definition in registry}))
    try:
        return await assembly.worker.run()
    finally:
        await lifespan.leave(assembly.worker.left_s + LEAVE_S)
        await assembly.aclose()


class _Orders:
    """Reads the link in a thread of its own, so that a blocked loop cannot miss the end of the supervisor."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._early: list[Downward] = []
        self._deliver: Callable[[Downward], None] | None = None

    def start(self) -> None:
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def serve(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        """From now on orders reach `worker`; what came before is delivered first."""

        def deliver(message: Downward) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has just closed: the worker has ended
                loop.call_soon_threadsafe(obey, worker, message)

        with self._lock:
            self._deliver = deliver
            for message in self._early:
                deliver(message)

    def _order(self, message: Downward) -> None:
        if isinstance(message, DumpStacks):
            dump_threads(log)  # from this thread: a blocked loop is what one wants to see
        with self._lock:
            if self._deliver is None:
                self._early.append(message)
            else:
                self._deliver(message)

    def _read(self) -> None:
        try:
            while (received := self._link.receive()) is not None:
                self._order(decode_downward(received[0]))
        except LinkClosed:
            log.warning("supervisor_gone", note="giving the work back")
            self._order(Release(ORPHAN_RELEASE_S))
            threading.Event().wait(ORPHAN_EXIT_S)
            _leave(Exit.RELEASED)


def obey(worker: Worker, message: Downward) -> None:
    """Carries out one order of the supervisor."""
    match message:
        case SetSlots(limit, n):
            worker.set_slots(limit, n)
        case Quiet():
            worker.quiet()
        case Resume():
            worker.resume()
        case Drain(within_s):
            worker.drain(within_s)
        case Release(within_s):
            worker.release(within_s)
        case DumpStacks():
            dump_tasks(log)
        case IsolateStarted(key, pid) if worker.isolates is not None:
            worker.isolates.started(key, pid)
        case IsolateEnded(key, status, reason) if worker.isolates is not None:
            worker.isolates.ended(key, status, reason)
        case _:
            log.warning("order_not_for_workers", order=type(message).__name__)
