"""Ends workers and isolates that outlive the supervisor, and in any case the keeper itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import Cause, Ledger, Life
from flowherd.procfs import stat_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

WORKERS_KILLED_AFTER_S = 3.8  # workers end by themselves within 3 s of the supervisor (faults.md P1)
DEAD_WITHIN_S = 0.5  # from SIGKILL to the exit; longer ones are not waited for
SETTLED_WITHIN_S = 0.9
KEEPER_ENDS_AFTER_S = 5.7  # by a kernel timer, whatever goes wrong before
_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, linux/pidfd.h, since Linux 6.9
_LOOK_EVERY_S = 0.005

log = structlog.stdlib.get_logger(__name__)


class Orphans:
    """Holds a pidfd of each worker and isolate, so that no signal can reach a reused pid.

    Args:
        ledger: the ledger with the live workers, in which exits are recorded.
        changed: called after a worker's exit was recorded.

    """

    def __init__(self, ledger: Ledger, changed: Callable[[], None]) -> None:
        self._ledger = ledger
        self._changed = changed
        self._workers: dict[int, int] = {}
        self._isolates: dict[int, int] = {}

    def watch_worker(self, number: int, pidfd: int) -> None:
        """Stores the pidfd of the worker in a segment, in place of its predecessor's."""
        _replace(self._workers, number, pidfd)

    def watch_isolate(self, pid: int, pidfd: int) -> None:
        """Stores the pidfd of an isolate, which leads its own process group."""
        _replace(self._isolates, pid, pidfd)

    def forget_isolate(self, pid: int) -> None:
        """Closes the pidfd of an isolate that the supervisor has reaped, after killing its group."""
        if (pidfd := self._isolates.pop(pid, None)) is not None:
            os.close(pidfd)

    async def end(self) -> None:
        """Kills isolates and their programs now, and remaining workers after 3.8 s, all concurrently."""
        ends = await asyncio.gather(*self._ends(), return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException):
                log.error("internal_error", exc_info=error)

    def _ends(self) -> Iterator[Coroutine[None, None, None]]:
        for pid, pidfd in self._isolates.items():
            yield _kill_group(pid, pidfd)
        kill_at = time.monotonic() + WORKERS_KILLED_AFTER_S
        for number, pidfd in self._workers.items():
            if self._ledger.segments[number].life is Life.LIVE:
                yield self._end_worker(number, pidfd, kill_at)

    async def _end_worker(self, number: int, pidfd: int, kill_at: float) -> None:
        """Records the exit of a worker once it is certain, killing it at `kill_at`."""
        has_ended = await _has_ended(pidfd, kill_at - time.monotonic())
        if not has_ended and _signal(pidfd, signal.SIGKILL) and not await _has_ended(pidfd, DEAD_WITHIN_S):
            log.error("process_not_killed", segment=number, note="its leases end by themselves")
            return
        segment = self._ledger.segments[number]
        if segment.life is Life.LIVE:
            segment.end(Cause.STOP)
            self._changed()


def limit_the_keeper() -> None:
    """Starts a kernel timer that ends this process in 5.7 s, whatever exceptions or blocked loops occur."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, KEEPER_ENDS_AFTER_S)


async def _kill_group(pid: int, pidfd: int) -> None:
    """Kills an isolate and its process group while its id cannot have been reused.

    Since Linux 6.9 the kernel finds the group by the pidfd, even after the isolate's exit. Before that the group's id
    is needed, which may be reused after the exit. So the isolate is stopped first: a stopped process does not exit by
    itself. A handler can have taken it to another group.
    """
    try:
        with contextlib.suppress(ProcessLookupError):  # the group is empty
            signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _PROCESS_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        await kill_stopped_group(pid, pidfd)
    _signal(pidfd, signal.SIGKILL)


async def kill_stopped_group(pid: int, pidfd: int) -> None:
    """Stops the isolate, and kills its group once it is stopped."""
    give_up_at = time.monotonic() + DEAD_WITHIN_S
    while _signal(pidfd, signal.SIGSTOP) and time.monotonic() < give_up_at:
        if _stands(pid):
            with contextlib.suppress(ProcessLookupError):  # it has left its group
                os.killpg(pid, signal.SIGKILL)
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    _signal(pidfd, signal.SIGKILL)


def _stands(pid: int) -> bool:
    """True if a process is stopped; its pidfd has just been signalled, so the pid is not reused."""
    return stat_fields(pid)[:1] == ["T"]


def _signal(pidfd: int, number: signal.Signals) -> bool:
    """Sends a signal; False if the process has ended and is reaped."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


async def _has_ended(pidfd: int, timeout_s: float) -> bool:
    """Waits for the exit of a process that is not our child; False after the timeout."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(max(timeout_s, 0.0)):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def _replace(pidfds: dict[int, int], key: int, pidfd: int) -> None:
    if (old := pidfds.pop(key, None)) is not None:
        os.close(old)
    pidfds[key] = pidfd
