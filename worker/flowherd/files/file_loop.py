"""A thread with a loop of its own for files; it must not run handlers.

Neither a slow disk nor a long transfer then delays a worker's loop, and a handler that blocks that loop does not
stop transfers. Handlers of every kind, on whatever loop or thread, reach it in the same way.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flowherd.background import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class FileLoop:
    """The thread; it starts with the first work and is a daemon: it never delays the end of a process.

    Args:
        new_loop: makes its loop.

    """

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._new_loop = new_loop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def is_used(self) -> bool:
        """True when there has been any work, and may be more."""
        return self._loop is not None and not self._closed

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins `work` there, from any thread; RuntimeError after `close`."""
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError("the file loop is closed")
            if self._loop is None:
                self._loop = self._new_loop()
                start_thread("files", partial(self._run, self._loop))
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Takes no more work and ends the thread once it has ended its present step; waits for nothing."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._closed = True

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()
