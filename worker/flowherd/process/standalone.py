"""A complete worker in one process: signals, worker, leases and exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Literal

import structlog

from flowherd import logs
from flowherd.background import start_thread
from flowherd.event_loop import new_loop, run_to_the_end
from flowherd.execution.lifespan import LEAVE_S, enter
from flowherd.execution.load_app import choose_worker_type, load_app
from flowherd.exit_codes import Exit
from flowherd.leases.keep_leases_and_token import KeeperTasks
from flowherd.ledger import Cause, Ledger, records_needed
from flowherd.ledger.wakeups import Wakeups
from flowherd.process.build_worker import BuiltWorker, WorkerPlace
from flowherd.process.printed_lines import log_what_is_printed
from flowherd.settings.sizes_and_warnings import cautions, choose_sizes
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing
from flowherd.telemetry.destination import destination_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.execution.run_environment import Tracing
    from flowherd.link.messages import Stopped
    from flowherd.sdk.registry import Registry
    from flowherd.settings.model import Settings
    from flowherd.settings.worker_config import WorkerConfig

RELEASE_S = 0.5  # after a second signal (faults.md P4)
SETTLE_S = 1.0  # for results that the worker could not deliver

log = structlog.stdlib.get_logger(__name__)


def run(app_name: str, app_dir: str, settings: Settings) -> int:
    """Loads the app, runs until stopped, and returns the exit code.

    Raises:
        ConfigurationError: the secret cannot be read, or the app or the worker type cannot be found.
        AppImportError: the app raised an exception.

    """
    logs.name_process(process=0)
    _, concurrency = choose_sizes(1, settings.concurrency, 1)
    config = settings.worker_config(concurrency)
    os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"] = "0", "1"
    app = load_app(app_name, app_dir)
    worker_type = choose_worker_type(app, settings.worker)
    registry = app.for_type(worker_type).configured(settings.activity_options())
    registry.check_alone()
    config = config.model_copy(update={"worker_type": worker_type})
    for text in (*cautions(settings, 1), *destination_of(os.environ).obstacles):
        log.warning("unwise_setting", note=text)
    log_what_is_printed(config)
    tracing = begin_tracing(config, 0, is_loud=True)
    gc.freeze()  # the app's objects stay: no collection need visit them again
    loop = new_loop(config.loop)()
    asyncio.set_event_loop(loop)
    solo = _Solo(config, registry, tracing, settings.auth_grace)
    return run_to_the_end(
        loop, solo.run(), lambda: _tell(loop, solo.end, Exit.INTERNAL, "cancels do not stop")
    )


class _Solo:
    """A worker with a segment that it opens itself."""

    def __init__(
        self, config: WorkerConfig, registry: Registry, tracing: Tracing | None, auth_grace_s: float
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._registry = registry
        self._auth_grace_s = auth_grace_s
        self._built: BuiltWorker | None = None
        self._code = Exit.CLEAN
        self._signals = 0

    async def run(self) -> int:
        """Runs the process until a signal, refused credentials or a failure of the lease thread ends it."""
        config, loop = self._config, asyncio.get_running_loop()
        lifespan = await enter(self._registry)
        ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
        wakeups = Wakeups(len(ledger.segments))
        segment = ledger.segments[0]
        segment.open(index=0, incarnation=1, now=time.monotonic())
        built = self._built = BuiltWorker(
            config,
            self._registry,
            ledger=ledger,
            segment=segment,
            wakeups=wakeups,
            place=WorkerPlace(0, lifespan.state, tracing=self._tracing),
            most_slots=config.concurrency,
        )
        built.start_threads()
        leases = _LeaseThread(
            config.loop,
            lambda: KeeperTasks(
                config,
                ledger,
                wakeups,
                auth_grace_s=self._auth_grace_s,
                refused=lambda reason: _tell(loop, self.end, Exit.CREDENTIALS_REFUSED, reason),
            ),
            lambda: _tell(loop, self.end, Exit.INTERNAL, "nobody keeps the leases any more"),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heed_signal, number)
        log.info(
            "ready",
            engine=config.api_url,
            worker=config.worker_type,
            concurrency=config.concurrency,
            activities=list(self._registry.names()),
        )
        stopped = await built.worker.run()
        segment.end(Cause.STOPPED)
        await loop.run_in_executor(None, leases.finish, SETTLE_S)
        await lifespan.leave(built.worker.left_s + LEAVE_S)
        await built.aclose()
        end_tracing(self._tracing, built.worker.left_s)
        return self._exit_code(stopped)

    def _heed_signal(self, number: int) -> None:
        """Drains on the first signal, requeues on the second, exits at once on the third."""
        assert self._built is not None
        self._signals += 1
        log.info("signal_received", signal=signal.Signals(number).name, count=self._signals)
        if self._signals == 1:
            self._built.worker.drain(self._config.graceful_timeout_s)
        elif self._signals == 2:
            self._built.worker.release(RELEASE_S)
        else:
            os._exit(Exit.RELEASED)

    def end(self, code: Exit, reason: str) -> None:
        """Requeues all activities, because going on is useless."""
        if self._code is Exit.CLEAN and self._built is not None:
            self._code = code
            log.error("giving_up", reason=reason, exit_code=int(code))
            self._built.worker.release(RELEASE_S)

    def _exit_code(self, stopped: Stopped) -> int:
        log.info("stopped", released=stopped.released, undelivered=len(stopped.undelivered))
        if self._code is not Exit.CLEAN:
            return self._code
        return Exit.RELEASED if stopped.released or stopped.undelivered else Exit.CLEAN


class _LeaseThread:
    """Runs `KeeperTasks` in a thread; unlike in a keeper process, beats are late while a handler holds the GIL.

    Args:
        loop: the kind of loop for the thread.
        make: creates the tasks, on that loop.
        failed: called from the thread when it cannot go on.

    """

    def __init__(
        self,
        loop: Literal["auto", "uvloop", "asyncio"],
        make: Callable[[], KeeperTasks],
        failed: Callable[[], None],
    ) -> None:
        self._make = make
        self._loop = new_loop(loop)()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._within_s = 0.0
        self._thread = start_thread("leases", lambda: self._loop.run_until_complete(self._keep()), failed)

    def finish(self, within_s: float) -> None:
        """Settles ended segments within `within_s` seconds; returns when the thread has ended."""
        self._within_s = within_s
        self._loop.call_soon_threadsafe(self._ended.set_result, None)
        self._thread.join(within_s + 1.0)

    async def _keep(self) -> None:
        keep = self._make()
        try:
            if not await keep.run_until(self._ended):
                raise RuntimeError("the leases are kept no more")
            await keep.settle_rest(self._within_s)
        finally:
            await keep.aclose()


def _tell(loop: asyncio.AbstractEventLoop, what: object, *arguments: object) -> None:
    loop.call_soon_threadsafe(what, *arguments)  # type: ignore[arg-type]  # checked where it is called
