"""Chooses the event loop, which stops only when its work has ended, and runs it to the end."""

from __future__ import annotations

import asyncio
import ctypes
import resource
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog

from flowherd.errors import ConfigurationError
from flowherd.own_tasks import by_whom, watched_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

_PAGE_BYTES = resource.getpagesize()
_ZEROS = bytes(_PAGE_BYTES)
_MADV_DONTNEED = 4
_libc = ctypes.CDLL(None)

log = structlog.stdlib.get_logger(__name__)


def new_loop(kind: Literal["auto", "uvloop", "asyncio"]) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns a factory of loops; `auto` is uvloop where it is installed."""
    if kind == "asyncio":
        return _stopping_at_the_end(asyncio.SelectorEventLoop)
    try:
        import uvloop  # noqa: PLC0415 - optional on this platform
    except ImportError:
        if kind == "uvloop":
            raise ConfigurationError("--loop uvloop: uvloop is not installed here; use --loop auto") from None
        return _stopping_at_the_end(asyncio.SelectorEventLoop)
    loop_class = _stopping_at_the_end(uvloop.Loop)
    return lambda: _lean(loop_class())


@cache
def _stopping_at_the_end(kind: type[asyncio.AbstractEventLoop]) -> type[asyncio.AbstractEventLoop]:
    """Returns a class of loops that ignore `stop` until what they run has ended (faults.md A21)."""

    class Loop(kind):  # type: ignore[misc, valid-type]
        _work: asyncio.Future[Any] | None = None

        def run_until_complete(self, future: Awaitable[T]) -> T:
            before, self._work = self._work, (work := asyncio.ensure_future(future, loop=self))
            try:
                return super().run_until_complete(work)  # type: ignore[no-any-return]
            finally:
                self._work = before

        def stop(self) -> None:
            if self.is_running() and (self._work is None or self._work.done()):
                super().stop()
            else:
                log.warning("loop_stop_ignored", note="the loop goes on", **by_whom())

    return Loop


def _lean(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Returns the loop, after releasing its zeroed receive buffer of 256 KB, which may never be used."""
    forget_zeros(loop, type(loop).__basicsize__)
    return loop


def forget_zeros(holder: object, size: int) -> int:
    """Releases the first run of pages of a new object that hold only zeros; they would read as zeros again.

    Args:
        holder: an object that no other thread uses yet.
        size: its size in bytes.

    Returns:
        The number of bytes released.

    """
    first = -(-id(holder) // _PAGE_BYTES) * _PAGE_BYTES
    end = (id(holder) + size) // _PAGE_BYTES * _PAGE_BYTES
    while first < end and ctypes.string_at(first, _PAGE_BYTES) != _ZEROS:
        first += _PAGE_BYTES
    last = first
    while last < end and ctypes.string_at(last, _PAGE_BYTES) == _ZEROS:
        last += _PAGE_BYTES
    if last == first or _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED):
        return 0
    return last - first


def run_to_the_end(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], give_up: Callable[[], None]
) -> T:
    """Runs the loop until `work` has ended, even when a handler's own task calls `sys.exit` (C9).

    Args:
        loop: the loop.
        work: what no other code cancels.
        give_up: called when handlers do not stop to cancel all tasks (A23).

    """
    task = watched_task(work, loop, give_up)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            log.error("task_tried_to_exit", exception=repr(error), note="the process goes on")
