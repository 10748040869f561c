"""A thread with its own event loop for file transfers.

So neither a slow disk nor a long transfer delays the worker's loop, and a handler that blocks the worker's loop does
not stop transfers. Handlers on any loop or thread use it in the same way.
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
    """The thread and its loop; it starts with the first work, and as a daemon it never delays the end of the process.

    Args:
        new_loop: creates its loop.

    """

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._new_loop = new_loop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def is_used(self) -> bool:
        """True after the first work, until `close`."""
        return self._loop is not None and not self._closed

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts `work` on the loop, from any thread; RuntimeError after `close`."""
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError("the file loop is closed")
            if self._loop is None:
                self._loop = self._new_loop()
                start_thread("files", partial(self._run, self._loop))
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Refuses further work and ends the thread after its current step, without waiting for it."""
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
