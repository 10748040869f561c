"""The executor of blocking handlers: daemon threads, which do not delay the end of the process.

A plain `def` runs here unless it is offloaded elsewhere (`sdk/activity_definition.py`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Failed
from flowherd.execution.invoke import ThreadLoop, deliver, invoke_sync
from flowherd.sdk.error_texts import clean_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.activities_and_outcomes import Result
    from flowherd.execution.executor import Outlet
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt

_log = logging.getLogger(__name__)


class ThreadPool:
    """Daemon threads, started on demand up to a limit and reused.

    `concurrent.futures` joins its threads at exit, so one stuck handler would keep a worker from ending
    (faults.md A16), and the loop's default executor is shared with other code (A15).

    Args:
        limit: the most threads; further work waits in order.
        name: the prefix of the thread names.

    """

    def __init__(self, limit: int, name: str = "activity") -> None:
        if limit < 1:
            raise ValueError("a thread pool needs at least one thread")
        self._limit = limit
        self._name = name
        self._work: deque[Callable[[], object]] = deque()
        self._change = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._started = 0
        self._closed = False

    def __repr__(self) -> str:
        busy = self._threads - self._idle
        return f"<ThreadPool {busy} busy, {self._idle} idle, {len(self._work)} waiting, limit {self._limit}>"

    @property
    def threads(self) -> int:
        """The number of threads that exist now."""
        return self._threads

    @property
    def idle(self) -> int:
        """The number of threads that wait for work."""
        return self._idle

    @property
    def waiting(self) -> int:
        """The number of submitted calls that no thread has begun."""
        return len(self._work)

    def submit(self, work: Callable[[], object]) -> None:
        """Runs `work` in a thread with a copy of the caller's context variables; never blocks.

        An exception of `work` is only logged. RuntimeError when there is no thread and none can be started.
        """
        context = copy_context()
        with self._change:
            if self._closed:
                raise RuntimeError("the thread pool is closed")
            self._work.append(lambda: context.run(work))
            if len(self._work) <= self._idle:
                self._change.notify()
            elif self._threads < self._limit:
                self._start_thread()

    def resize(self, limit: int) -> None:
        """Sets the limit; surplus threads end when idle."""
        if limit < 1:
            raise ValueError("a thread pool needs at least one thread")
        with self._change:
            self._limit = limit
            for _ in range(min(len(self._work) - self._idle, limit - self._threads)):
                self._start_thread()
            self._change.notify_all()

    def close(self) -> None:
        """Refuses further work and lets idle threads end, without waiting for them."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _start_thread(self) -> None:
        """Starts a thread; called with the lock held."""
        self._started += 1
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True)
        self._threads += 1
        try:
            thread.start()
        except RuntimeError:
            self._threads -= 1
            if not self._threads:
                self._work.pop()
                raise

    def _serve(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException:  # noqa: BLE001  # a thread that ended here would still be counted
                _log.exception("thread_work_raised")
            finally:
                del work  # an idle thread must not keep a handler's arguments alive

    def _next(self) -> Callable[[], object] | None:
        """Waits for work and returns it; None when this thread must end."""
        with self._change:
            self._idle += 1
            try:
                while self._threads <= self._limit:
                    if self._work:
                        return self._work.popleft()
                    if self._closed:
                        break
                    self._change.wait()
                self._threads -= 1
                self._change.notify()  # it may have been woken for work, which another thread must then take
                return None
            finally:
                self._idle -= 1


class InThread:
    """Runs handlers in threads: plain functions, and coroutine functions on a loop of their own.

    Args:
        threads: the pool.
        meter: counts the handlers in threads.
        outlet: receives the events of handlers.

    """

    def __init__(self, threads: ThreadPool, meter: LoopMeter, outlet: Outlet) -> None:
        self._threads = threads
        self._meter = meter
        self._outlet = outlet

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Starts the handler now: there are as many threads as slots."""
        attempt.is_in_thread = True
        if not self._outlet.begin(attempt):
            return
        loop, meter, name = asyncio.get_running_loop(), self._meter, attempt.activity.name
        stay = meter.enter_thread(name)
        if definition.is_async:
            attempt.handle = own_loop = ThreadLoop()
            call = partial(own_loop.run, definition, attempt)
        else:
            call = partial(invoke_sync, definition, attempt)

        def end(outcome: Result) -> None:
            meter.leave_thread(name, stay)
            self._outlet.finished(attempt, outcome)

        try:
            self._threads.submit(lambda: deliver(loop, end, stay.run(call)))
        except RuntimeError as exc:
            end(Failed("WORKER_OVERLOADED", clean_message(str(exc)), retryable=True))

    def stop(self, attempt: Attempt) -> None:
        """Cancels a coroutine; for a plain function it ends file transfers, and the function sees `ctx.cancelled`."""
        if attempt.handle is not None:
            attempt.handle.stop()
        elif attempt.files is not None:
            attempt.files.cancel()
