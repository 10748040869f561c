"""What an activity must find in its isolate as the one before found it: put back, or a reason to replace the isolate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

REST_S = 0.02  # a thread that has not run for so long is at rest; the kernel counts each few milliseconds
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SIGNALS = signal.valid_signals() - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTERM,
}  # each activity has its SIGTERM
_LIMITS = tuple(number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
_STREAMS = ("stdin", "stdout", "stderr")  # of descriptors 0, 1, 2


class Surroundings:
    """This process as it is now; make it in the main thread, before the first activity.

    What costs nothing to put back is put back: timers, signal handlers and mask, folder, umask, environment, soft limits,
    `sys.stdout`. A descriptor that is another one now, and threads and tasks that are at work for nobody, are reasons to
    end the process. Threads at rest may stay: many libraries keep some.

    Args:
        loop: where activities run; does not run when these methods are called.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._environment = dict(os.environ)
        self._limits = {number: resource.getrlimit(number) for number in _LIMITS}
        self._files = [_identity(fd) for fd in range(3)]
        self._streams = {name: getattr(sys, name) for name in _STREAMS}
        self._threads = set(threading.enumerate())
        self._tasks = asyncio.all_tasks(loop)

    def stop_timers(self) -> None:
        """What an activity has set must not strike once it has ended."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)

    def restore(self) -> str:
        """Puts back what it can; why this process must not be used again, nothing when it may."""
        try:
            self._put_back()
            return next(self._leftovers(), "")
        except BaseException as error:  # noqa: BLE001 - of the kernel, or of user code that still runs
            return f"it cannot be put back as it was ({type(error).__name__}: {error})"

    def _put_back(self) -> None:
        self.stop_timers()
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        os.fchdir(self._folder)
        os.umask(self._umask)
        if dict(os.environ) != self._environment:
            _set_environment(self._environment)
        for number, limits in self._limits.items():
            if resource.getrlimit(number) != limits:
                resource.setrlimit(number, limits)
        for name, stream in self._streams.items():
            setattr(sys, name, stream)
        for fd in range(3):
            with contextlib.suppress(OSError):  # it is closed: `_leftovers` says so
                os.set_blocking(fd, True)  # noqa: FBT003 - the function's own signature

    def _leftovers(self) -> Iterator[str]:
        for name, stream, before, fd in zip(
            _STREAMS, self._streams.values(), self._files, range(3), strict=True
        ):
            if _identity(fd) != before or getattr(stream, "closed", False):
                yield f"its {name} is another one now"
        if self._has_tasks():
            yield "a task goes on"
        if self._has_threads_at_work():
            yield "a thread goes on"

    def _has_tasks(self) -> bool:
        """Whether a task that has come since goes on, though it has had time to end."""
        fresh = asyncio.all_tasks(self._loop) - self._tasks
        if fresh:
            self._loop.run_until_complete(asyncio.wait(fresh, timeout=REST_S))
        return any(not task.done() for task in fresh)

    def _has_threads_at_work(self) -> bool:
        """Whether a thread that has come since goes on working; one that is at rest is known from now on."""
        fresh = [thread for thread in threading.enumerate() if thread not in self._threads]
        if not fresh:
            return False
        before = {thread: _time_of(thread) for thread in fresh}
        threading.Event().wait(REST_S)
        at_work = any(thread.is_alive() and _time_of(thread) != before[thread] for thread in fresh)
        self._threads = set(threading.enumerate())
        return at_work


def _identity(fd: int) -> Any:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_rdev


def _set_environment(wanted: dict[str, str]) -> None:
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _time_of(thread: threading.Thread) -> str:
    """How long, and how often, the kernel has let it run: it grows whenever a thread does anything."""
    try:
        with open(f"/proc/self/task/{thread.native_id}/schedstat") as file:
            return file.read()
    except OSError:
        return ""  # it has ended meanwhile, or this kernel does not count
