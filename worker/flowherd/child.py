"""What a worker process does after its fork: link, app, loop, worker, exit code; it never forks and never reaps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from flowherd import logs
from flowherd.auth import LedgerTokens
from flowherd.bells import Bells
from flowherd.config import WorkerConfig
from flowherd.core.messages import (
    Downward,
    Drain,
    DumpStacks,
    Message,
    Quiet,
    Ready,
    Release,
    Resume,
    SetSlots,
    Stopped,
    boot_failed,
    decode_downward,
)
from flowherd.environment import RunEnvironment
from flowherd.errors import AppImportError, ConfigurationError
from flowherd.exits import Exit
from flowherd.kruxia import connect
from flowherd.ledger import Berth, Cell, Clock, Ledger, RecordBook
from flowherd.link import Link, LinkClosed
from flowherd.loading import choose_worker_type, load_app
from flowherd.loops import new_loop
from flowherd.registry import Registry
from flowherd.stacks import dump_tasks, dump_threads
from flowherd.stepping import LoopMeter
from flowherd.stock_files import SdkFiles
from flowherd.watchdog import Watchdog
from flowherd.worker import Worker

MOST_CONNECTIONS = 64
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


def ignore_signals() -> None:
    """Leaves every decision to the link; a handler that does nothing, since SIG_IGN would be inherited by programs."""
    signal.set_wakeup_fd(-1)
    for number in DEAF_SIGNALS:
        signal.signal(number, lambda *_: None)


def main(setup: ChildSetup, link: Link) -> int:
    """Loads the app, says Ready or BootFailed, works until told to stop, and returns the exit code."""
    logs.name_process(process=setup.seat)
    os.environ["FLOWHERD_SEAT"] = str(setup.seat)
    os.environ["FLOWHERD_PROCESSES"] = str(setup.processes)
    orders = _Orders(link)
    orders.start()
    try:
        app = load_app(setup.app, setup.app_dir)
        worker_type = choose_worker_type(app, setup.worker_type)
        registry = app.for_type(worker_type).configured(setup.activities)
    except ConfigurationError as error:
        return _refuse(link, Exit.USAGE, str(error))
    except AppImportError as error:
        return _refuse(link, Exit.BOOT_FAILED, str(error), error.report)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises at import is a boot failure
        return _refuse(link, Exit.BOOT_FAILED, f"{type(error).__name__}: {error}", traceback.format_exc())
    ignore_signals()  # again: the app may have installed handlers of its own
    loop = new_loop(setup.config.loop)()
    asyncio.set_event_loop(loop)
    _send_last(link, _run_to_the_end(loop, _work(setup, registry, worker_type, link, orders)))
    _leave(Exit.CLEAN)
    return Exit.CLEAN


def _run_to_the_end(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Stopped]) -> Stopped:
    """Runs the loop until `work` has ended, also when a handler's own task calls `sys.exit` (faults.md C9)."""
    task = loop.create_task(work)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            log.error("task_tried_to_exit", exception=repr(error), note="the process goes on")


def _refuse(link: Link, code: Exit, message: str, report: str = "") -> int:
    _send_last(link, boot_failed(code, message, report))
    return code


def _send_last(link: Link, message: Message) -> None:
    try:
        link.send(message)
    except LinkClosed:
        log.warning("supervisor_gone", unsaid=type(message).__name__)


def _leave(code: int) -> None:
    """Ends without waiting for threads that user code left behind (faults.md A16, C16)."""
    os._exit(code)


async def _work(setup: ChildSetup, registry: Registry, worker_type: str, link: Link, orders: _Orders) -> Stopped:
    """The worker's whole life on its loop."""
    config = setup.config.model_copy(update={"worker_type": worker_type})
    berth, bells = setup.berth, setup.bells
    loop = asyncio.get_running_loop()
    tokens = LedgerTokens(setup.ledger, berth, bells.ring_keeper) if config.client_id else None
    engine = connect(config, tokens, connections=min(setup.most_slots, MOST_CONNECTIONS) + 2)
    files = SdkFiles(config.api_url, tokens)
    secret = config.client_secret.get_secret_value() if config.client_secret else ""
    meter = LoopMeter(lambda tag: berth.put(Cell.ON_LOOP, tag))
    environment = RunEnvironment(
        seat=setup.seat, secrets=(secret,) if secret else (), stock_files=files, meter=meter
    )
    Watchdog(meter, threading.get_ident(), lambda: berth.add(Cell.BLOCKS)).start()
    worker = Worker(config, registry, engine, RecordBook(berth), environment)

    def heed_bell() -> None:
        bells.hush(bells.of(berth.number))
        worker.heed_verdicts()

    worker.set_slots(setup.slots, 0)
    loop.add_reader(bells.of(berth.number), heed_bell)
    orders.serve(worker, loop)
    berth.set_clock(Clock.READY_AT, time.monotonic())
    link.send(Ready(worker_type, {definition.name: definition.mode.value for definition in registry}))
    try:
        return await worker.run()
    finally:
        loop.remove_reader(bells.of(berth.number))
        await files.aclose()
        await engine.aclose()


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
        case _:
            log.warning("order_not_for_workers", order=type(message).__name__)
