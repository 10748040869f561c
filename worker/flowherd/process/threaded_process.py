"""A process whose workers are threads, after its fork: link, app, a loop for each worker, exit code.

Each worker has a loop, slots, a client and a segment of its own, as if it were a process. The main thread starts them,
lets all begin when each is ready, and exits when each has ended; a worker that raises ends the process. The environment
is shared: FLOWHERD_PROCESS_INDEX and FLOWHERD_PROCESSES describe the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import queue
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from flowherd import end_forked_copies, logs
from flowherd.background import start_thread
from flowherd.errors import LifespanFailed
from flowherd.event_loop import new_loop, run_to_the_end
from flowherd.execution.lifespan import LEAVE_S, enter
from flowherd.exit_codes import Exit
from flowherd.free_threading import gil_watched
from flowherd.ledger.host_permits import RecordLocks
from flowherd.link.bounded_messages import boot_failed, stopped
from flowherd.link.messages import BootFailed, Downward, Stopped
from flowherd.link.split_over_threads import keys_of, orders_of
from flowherd.process.build_worker import WorkerPlace
from flowherd.process.load_app_or_report import load
from flowherd.process.printed_lines import log_what_is_printed
from flowherd.process.supervisor_commands import CommandReader, execute, leave
from flowherd.process.worker_process import (
    ChildSetup,
    build_worker,
    ignore_signals,
    ready_of,
    refuse,
    send_last,
    serves_of,
)
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.execution.run_environment import Tracing
    from flowherd.link.link import Link
    from flowherd.sdk.registry import Registry
    from flowherd.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class _Up:
    """A worker is ready, and waits for the others."""

    number: int
    worker: Worker
    loop: asyncio.AbstractEventLoop
    context: Context
    may_begin: asyncio.Event


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker has stopped on command."""

    last_word: Stopped


@dataclass(frozen=True, slots=True)
class _Raised:
    """A worker has ended with an exception."""

    error: BaseException


def main(setups: Sequence[ChildSetup], link: Link) -> int:
    """Loads the app, sends Ready or BootFailed once, runs until stopped, and returns the exit code.

    Args:
        setups: one for each worker.
        link: the link to the supervisor.

    """
    first = setups[0]
    logs.name_process(process=first.index)
    os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"] = "0", "1"
    orders = CommandReader(link, first.ledger, [setup.segment for setup in setups])
    orders.start()
    with gil_watched():
        loaded = first.loaded or load(first.app, first.app_dir, first.worker_type, first.activities)
    if isinstance(loaded, BootFailed):
        return refuse(link, loaded)
    ignore_signals(again=True)  # the app may have installed handlers of its own
    log_what_is_printed(first.config)
    tracing = begin_tracing(first.config, first.index, is_loud=True)
    gc.freeze()  # the app's objects stay: no collection need visit them again
    crew = _Crew(setups, loaded.registry, link, tracing)
    try:
        last_words = crew.work(orders)
    except LifespanFailed as error:
        return refuse(link, boot_failed(Exit.BOOT_FAILED, str(error), error.report))
    end_tracing(tracing, crew.left_s)
    released = sum(one.released for one in last_words)
    send_last(link, stopped(released, chain.from_iterable(one.undelivered for one in last_words)))
    leave(Exit.CLEAN)
    return Exit.CLEAN


class _Crew:
    """The workers of this process.

    Attributes:
        left_s: seconds left of the time to stop when the last worker ended.

    """

    def __init__(
        self, setups: Sequence[ChildSetup], registry: Registry, link: Link, tracing: Tracing | None
    ) -> None:
        self.left_s = 0.0
        self._tracing = tracing
        self._setups = setups
        self._registry = registry
        self._link = link
        self._locks = RecordLocks(setups[0].wakeups.permits)
        self._heard: queue.SimpleQueue[_Up | _Ended | _Raised] = queue.SimpleQueue()
        self._up: dict[int, _Up] = {}

    def work(self, orders: CommandReader) -> list[Stopped]:
        """Runs all workers to their end and returns their Stopped messages; raises the exception of any of them."""
        for number, setup in enumerate(self._setups):
            start_thread(f"worker-{setup.index}", partial(self._live, number))
        last_words: list[Stopped] = []
        while len(last_words) < len(self._setups):
            match self._heard.get():
                case _Up() as one:
                    self._up[one.number] = one
                    if len(self._up) == len(self._setups):
                        self._begin(orders)
                case _Ended(last_word):
                    last_words.append(last_word)
                case _Raised(error):
                    raise error
        return last_words

    def _begin(self, orders: CommandReader) -> None:
        """Lets all workers begin, once all are ready: a failed start-up must not strand claimed activities."""
        orders.serve(self._deliver)
        self._link.send(ready_of(self._registry, self._setups[0]))
        if self._setups[0].loaded is None:
            self._link.send(serves_of(self._registry, self._setups[0]))
        for one in self._up.values():
            one.loop.call_soon_threadsafe(one.may_begin.set)

    def _deliver(self, message: Downward) -> None:
        for number, order in orders_of(message, len(self._setups)):
            one = self._up[number]
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker has ended
                one.loop.call_soon_threadsafe(execute, one.worker, order, context=one.context)

    def _live(self, number: int) -> None:
        """Runs a worker's thread."""
        setup = self._setups[number]
        logs.name_thread(process=setup.index)
        try:
            loop = new_loop(setup.config.loop)()
            asyncio.set_event_loop(loop)
            end_forked_copies.guard(loop, self._link)
            last_word = run_to_the_end(loop, self._work(number, setup), lambda: leave(Exit.INTERNAL))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it and ends the process
            self._heard.put(_Raised(error))
        else:
            self._heard.put(_Ended(last_word))

    async def _work(self, number: int, setup: ChildSetup) -> Stopped:
        """Runs a worker on its loop, from the app's lifespan to the end."""
        lifespan = await enter(self._registry)
        place = WorkerPlace(
            setup.index, lifespan.state, self._link, keys_of(number), self._locks, self._tracing
        )
        built = build_worker(setup, self._registry, place)
        may_begin = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._heard.put(_Up(number, built.worker, loop, copy_context(), may_begin))
        await may_begin.wait()
        try:
            return await built.worker.run()
        finally:
            await lifespan.leave(built.worker.left_s + LEAVE_S)
            await built.aclose()
            self.left_s = built.worker.left_s
