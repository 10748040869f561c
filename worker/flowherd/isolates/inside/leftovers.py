"""Puts an isolate back as its activity has found it, or says why that cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import os
import resource
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowherd.background import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REST_S = 0.02  # what has not run for so long is at rest; the kernel counts every few milliseconds
_LOOKS = 5  # at what may be about to come to rest
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_OTHER_SIGNALS = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM}  # the last one is taken for each activity
_SIGNALS = signal.valid_signals() - _OTHER_SIGNALS
_LIMITS = tuple(number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
_STREAMS = ("stdin", "stdout", "stderr")  # of descriptors 0, 1, 2
_MOST_ENDED = 100  # programs whose end nobody has waited for: the kernel keeps a place for each
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Leftovers:
    """The remains of an activity, by comparison with the process as it was before the first one.

    To be made, and asked, in the main thread.

    What costs nothing to put back is put back: timers, signal handlers and mask, folder, umask, environment, soft
    limits, priority, garbage collection, the recursion limit, the current event loop with its task factory,
    `sys.stdout`. Another user, a descriptor that is another one now, a closed event loop, and threads, tasks and
    programs that go on, are reasons to end the process. Threads at rest may stay, since many libraries keep some. A
    program whose parent has ended becomes a child of this process.

    Args:
        loop: where activities run; does not run when these methods are called.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        _adopt_orphans()
        os.umask(umask := os.umask(0))
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._limits = [partial(resource.setrlimit, n, resource.getrlimit(n)) for n in _LIMITS]
        self._put_back_each: tuple[Callable[[], object], ...] = (
            *(partial(signal.signal, n, handler) for n, handler in _handlers()),
            partial(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            partial(os.fchdir, folder),
            partial(os.umask, umask),
            partial(_set_environment, dict(os.environ)),
            partial(os.setpriority, os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0)),
            gc.enable if gc.isenabled() else gc.disable,
            partial(asyncio.set_event_loop, loop),
            partial(loop.set_task_factory, loop.get_task_factory()),
            partial(loop.set_exception_handler, loop.get_exception_handler()),
            partial(sys.setrecursionlimit, sys.getrecursionlimit()),
            *self._limits,
        )
        self._streams = {name: (getattr(sys, name), _identity(fd)) for fd, name in enumerate(_STREAMS)}
        self._user = _user()
        self._known = set(self._others())
        self._most_programs = len(_programs(self._known)) + _MOST_ENDED
        self._tasks = asyncio.all_tasks(loop)

    def disarm(self) -> None:
        """Takes away what an activity has set and what must not strike once it has ended: timers and soft limits."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for set_limit in self._limits:
            with contextlib.suppress(ValueError):  # the hard one is lower, too: `put_back` will say so
                set_limit()

    def put_back(self, mark: bytes) -> str:
        """Puts back what it can, and ends the output with this mark.

        Returns:
            Why this process must not be used again, nothing when it may; then there is no mark.

        """
        try:
            self._flush()
            self._put_back()
            reason = next(self._leftovers(), "")
            for fd in () if reason else (1, 2):
                os.write(fd, mark)  # at most a page: as a whole
        except BaseException as error:  # noqa: BLE001 - of the kernel, or of user code that still runs
            return f"it cannot be put back as it was ({type(error).__name__}: {error})"
        else:
            return reason

    def _flush(self) -> None:
        """Writes out what was printed, whatever has taken the place of the streams."""
        for stream in (sys.stdout, sys.stderr, *(stream for stream, _ in self._streams.values())):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no stream at all
                stream.flush()

    def _put_back(self) -> None:
        self.disarm()
        for put_back in self._put_back_each:
            put_back()
        for fd, name in enumerate(_STREAMS):
            setattr(sys, name, self._streams[name][0])
            with contextlib.suppress(OSError):  # it is closed: `_leftovers` says so
                os.set_blocking(fd, True)

    def _leftovers(self) -> Iterator[str]:
        for fd, (name, (stream, before)) in enumerate(self._streams.items()):
            if _identity(fd) != before or getattr(stream, "closed", False):
                yield f"its {name} is another one now"
        if _user() != self._user:
            yield "its user is another one now"
        if self._loop.is_closed():
            yield "its event loop is closed"
        elif self._has_tasks():
            yield "a task goes on"
        if self._has_others_at_work():
            yield "a thread or a program goes on"
        if len(_programs(self._known)) > self._most_programs:
            yield "many programs have ended, and nobody has waited for them"

    def _has_tasks(self) -> bool:
        """A task that has come since goes on, though it has had time to end."""
        fresh = asyncio.all_tasks(self._loop) - self._tasks
        if fresh:
            self._loop.run_until_complete(asyncio.wait(fresh, timeout=REST_S))
        return any(not task.done() for task in fresh)

    def _has_others_at_work(self) -> bool:
        """A program that has come since is there, or a thread goes on; one at rest is known from now on."""
        fresh = set(self._others()) - self._known
        for _ in range(_LOOKS):
            if not fresh:
                break
            before = {one: _time_of(one) for one in fresh}
            threading.Event().wait(REST_S)
            fresh = {one for one in fresh if _goes_on(one, before[one])}
        self._known = set(self._others())
        return bool(fresh)

    def _others(self) -> Iterator[str]:
        """Folders below /proc: of the threads that run Python, but ours and the calling one, and of all programs."""
        own = threading.get_native_id()  # the main thread's attribute is of the process it was forked from
        listed = threading.enumerate()
        ours = [t for t in listed if isinstance(t, OwnThread) or t is threading.current_thread()]
        others = {thread.native_id or 0 for thread in listed if thread not in ours}
        running = set(sys._current_frames())  # noqa: SLF001 - no other place says so
        if running - {thread.ident for thread in listed}:  # some made by `_thread`: any of all
            every = {int(task.name) for task in Path("/proc/self/task").iterdir()}
            others = every - {own, *(thread.native_id for thread in ours)}
        yield from (f"self/task/{number}" for number in others)
        for number in (own, *others):
            with contextlib.suppress(OSError):  # the thread has ended
                yield from Path(f"/proc/self/task/{number}/children").read_text().split()


def _programs(folders: set[str]) -> list[str]:
    return [folder for folder in folders if folder.isdecimal()]


def _adopt_orphans() -> None:
    """Makes this process the parent of what a shell puts into the background: it is seen when the shell has ended."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def _user() -> Any:
    return os.getresuid(), os.getresgid(), sorted(os.getgroups())


def _identity(fd: int) -> Any:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_rdev


def _handlers() -> Iterator[tuple[int, Any]]:
    for number in _SIGNALS:
        if (handler := signal.getsignal(number)) is not None:  # else it is not Python's
            yield number, handler


def _set_environment(wanted: dict[str, str]) -> None:
    if dict(os.environ) != wanted:
        for name in set(os.environ) - set(wanted):
            del os.environ[name]
        os.environ.update(wanted)


def _time_of(folder: str) -> str:
    """The kernel's count of how long and how often it ran: another one after whatever it does."""
    try:
        return Path("/proc", folder, "schedstat").read_text()
    except OSError:
        return ""  # it has ended meanwhile, or this kernel does not count


def _goes_on(folder: str, time_before: str) -> bool:
    """A thread does something, or would on a machine that is less busy; a program has not ended."""
    try:
        state = Path("/proc", folder, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    if not folder.startswith("self"):
        return state != "Z"
    return state != "S" or _time_of(folder) not in {"", time_before}
