"""Tasks and threads that nobody awaits: kept alive, and their errors said; a law lets no other file start any.

Without some of them a process would look alive and do nothing: their starter says what follows their end.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = structlog.stdlib.get_logger(__name__)


class Tasks:
    """Holds its tasks until they end: the event loop itself keeps only weak references."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self, work: Coroutine[Any, Any, None], failed: Callable[[BaseException], None] | None = None
    ) -> asyncio.Task[None]:
        """Starts a task; what it raises goes to the log.

        Args:
            work: what to do.
            failed: is told what it has raised, and decides what follows.

        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done if failed is None else lambda task: self._done(task, failed))
        return task

    async def end(self, within_s: float) -> None:
        """Waits so long for all of them, and cancels the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        for task in list(self._tasks):
            task.cancel()

    def _done(self, task: asyncio.Task[None], failed: Callable[[BaseException], None] | None = None) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal_error", exc_info=error)
            if failed is not None:
                failed(error)


class Changes:
    """Wakes those that wait, at each change; saying that there was one costs next to nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Event] = set()

    def note(self) -> None:
        """There was a change."""
        for waiter in self._waiters:
            waiter.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns when `is_so`; asked at once, and after each change."""
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
    """Starts a thread that never delays the end of its process; what it raises goes to the log.

    Args:
        name: of the thread.
        work: what to do.
        failed: called in the thread after it has raised, and decides what follows.

    """

    def run() -> None:
        try:
            work()
        except BaseException as error:  # also SystemExit, which Python would not even print
            log.error("internal_error", thread=name, exc_info=error)
            if failed is not None:
                failed()

    thread = OwnThread(target=run, name=name, daemon=True)
    thread.start()
    return thread
