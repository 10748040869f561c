"""Tasks and threads that are not awaited: keeps them alive and logs their errors; only this file starts any (law test).

Without some of them a process would look alive but do nothing, so `failed` defines what follows their end.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.own_tasks import OwnTask

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_END_S = 1.0  # for a task to end after it was cancelled

log = structlog.stdlib.get_logger(__name__)


class Tasks:
    """Owns tasks until they end: the event loop keeps only weak references, and other code may cancel them.

    Each runs in a copy of the context in which this object is made, so that none holds what a handler has set.
    """

    def __init__(self) -> None:
        self._tasks: set[OwnTask[None]] = set()
        self._context = copy_context()

    def spawn(
        self, work: Coroutine[Any, Any, None], failed: Callable[[BaseException], None] | None = None
    ) -> OwnTask[None]:
        """Starts a task; logs its exception.

        Args:
            work: the coroutine to run.
            failed: called with the exception of the task.

        """
        task = self._context.copy().run(OwnTask, work)
        self._tasks.add(task)
        task.add_done_callback(self._done if failed is None else lambda task: self._done(task, failed))
        return task

    async def end(self, within_s: float = 0.0) -> None:
        """Waits for all tasks at most `within_s` seconds, cancels the rest, and waits for their end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        for task in list(self._tasks):
            task.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_S)

    def _done(self, task: OwnTask[None], failed: Callable[[BaseException], None] | None = None) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal_error", exc_info=error)
            if failed is not None:
                failed(error)


class Changes:
    """Wakes waiters at each change; `note` costs next to nothing without any."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Event] = set()

    def note(self) -> None:
        """Notes a change."""
        for waiter in self._waiters:
            waiter.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns when `is_so()` is True; checked at once, and after each change."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while not is_so():
                waiter.clear()
                await waiter.wait()
        finally:
            self._waiters.discard(waiter)


class OwnThread(threading.Thread):
    """A thread that works for no activity alone."""


def start_thread(
    name: str, work: Callable[[], object], failed: Callable[[], None] | None = None
) -> threading.Thread:
    """Starts a daemon thread, which never delays the end of its process; logs its exception.

    Args:
        name: the name of the thread.
        work: the function to run.
        failed: called in the thread after an exception.

    """

    def run() -> None:
        try:
            work()
        except BaseException as error:  # also SystemExit, which Python would not print
            log.error("internal_error", thread=name, exc_info=error)
            if failed is not None:
                failed()

    thread = OwnThread(target=run, name=name, daemon=True)
    thread.start()
    return thread
