"""One complete worker in one process: signals, worker, leases, exit code; it never forks."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd.exits import Exit
from flowherd.ledger import Cause, Ledger, records_needed
from flowherd.ledger.wakeups import Wakeups
from flowherd.process.build import BuiltWorker, WorkerPlace
from flowherd.process.lease_thread import LeaseThread
from flowherd.process.lifespan import LEAVE_S, enter
from flowherd.process.loops import new_loop, run_to_the_end
from flowherd.sdk.loading import choose_worker_type, load_app
from flowherd.telemetry.start import begin_tracing, end_tracing
from flowherd.telemetry.wanted import wanted

if TYPE_CHECKING:
    from flowherd.config import WorkerConfig
    from flowherd.execution.environment import Tracing
    from flowherd.link.messages import Stopped
    from flowherd.sdk.registry import Registry

RELEASE_S = 0.5  # after a second signal (faults.md P4)
SETTLE_S = 1.0  # for results the worker could not deliver

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SoloSetup:
    """What `python -m flowherd` was told; `worker_type` None is inferred from the app."""

    app: str
    app_dir: str
    worker_type: str | None
    config: WorkerConfig
    auth_grace_s: float = 30.0


def run(setup: SoloSetup) -> int:
    """Loads the app, works until told to stop, and returns the exit code.

    Raises:
        ConfigurationError: the app or the worker type cannot be found.
        AppImportError: the app raised.

    """
    os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"] = "0", "1"
    app = load_app(setup.app, setup.app_dir)
    worker_type = choose_worker_type(app, setup.worker_type)
    registry = app.for_type(worker_type)
    registry.check_alone()
    config = setup.config.model_copy(update={"worker_type": worker_type})
    for text in wanted(os.environ).obstacles:
        log.warning("unwise_setting", note=text)
    tracing = begin_tracing(config, 0, is_loud=True)
    gc.freeze()  # what the app has loaded stays: no collection need look at it again
    loop = new_loop(config.loop)()
    asyncio.set_event_loop(loop)
    return run_to_the_end(loop, _Solo(config, registry, tracing, setup.auth_grace_s).run())


class _Solo:
    """One segment, opened by the process that works in it."""

    def __init__(
        self, config: WorkerConfig, registry: Registry, tracing: Tracing | None, auth_grace_s: float
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._registry = registry
        self._auth_grace_s = auth_grace_s
        self._code = Exit.CLEAN
        self._signals = 0

    async def run(self) -> int:
        """The process's whole life; a signal, refused credentials or a broken keeper end it."""
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
        leases = LeaseThread(
            config,
            ledger,
            wakeups,
            auth_grace_s=self._auth_grace_s,
            refused=lambda reason: _tell(loop, self._end, Exit.CREDENTIALS_REFUSED, reason),
            failed=lambda: _tell(loop, self._end, Exit.INTERNAL, "nobody keeps the leases any more"),
        )
        leases.start()
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
        """The first drains, the second gives back, the third ends at once."""
        self._signals += 1
        log.info("signal_received", signal=signal.Signals(number).name, count=self._signals)
        if self._signals == 1:
            self._built.worker.drain(self._config.graceful_timeout_s)
        elif self._signals == 2:
            self._built.worker.release(RELEASE_S)
        else:
            os._exit(Exit.RELEASED)

    def _end(self, code: Exit, reason: str) -> None:
        """There is no use in going on: gives everything back."""
        if self._code is Exit.CLEAN:
            self._code = code
            log.error("giving_up", reason=reason, exit_code=int(code))
            self._built.worker.release(RELEASE_S)

    def _exit_code(self, stopped: Stopped) -> int:
        log.info("stopped", released=stopped.released, undelivered=len(stopped.undelivered))
        if self._code is not Exit.CLEAN:
            return self._code
        return Exit.RELEASED if stopped.released or stopped.undelivered else Exit.CLEAN


def _tell(loop: asyncio.AbstractEventLoop, what: object, *arguments: object) -> None:
    loop.call_soon_threadsafe(what, *arguments)  # type: ignore[arg-type]  # checked where it is called
