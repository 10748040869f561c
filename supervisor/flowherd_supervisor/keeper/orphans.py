"""Ends what is left when the supervisor has died, and in any case the keeper itself; it settles nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import Cause, Ledger, Life

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

WORKERS_KILLED_AFTER_S = 3.8  # workers end by themselves within 3 s of the supervisor (faults.md P1)
DEAD_WITHIN_S = 0.5  # from SIGKILL to the end; a process that the kernel keeps longer is not waited for
SETTLED_WITHIN_S = 0.9
KEEPER_ENDS_AFTER_S = 5.7  # whatever goes wrong before: the kernel's own timer ends the keeper then
_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, linux/pidfd.h, since Linux 6.9
_LOOK_EVERY_S = 0.005

log = structlog.stdlib.get_logger(__name__)


class Orphans:
    """Holds a pidfd of each worker and isolate, so that no signal can reach a stranger.

    Args:
        ledger: says which workers live, and is told which have ended.
        changed: called after a worker's end was written down.

    """

    def __init__(self, ledger: Ledger, changed: Callable[[], None]) -> None:
        self._ledger = ledger
        self._changed = changed
        self._workers: dict[int, int] = {}
        self._isolates: dict[int, int] = {}

    def watch_worker(self, number: int, pidfd: int) -> None:
        """The worker in a segment: its pidfd takes the place of the one before."""
        _replace(self._workers, number, pidfd)

    def watch_isolate(self, pid: int, pidfd: int) -> None:
        """An isolate, which leads a process group of its own."""
        _replace(self._isolates, pid, pidfd)

    def forget_isolate(self, pid: int) -> None:
        """The supervisor has reaped it, and has killed its group before."""
        if (pidfd := self._isolates.pop(pid, None)) is not None:
            os.close(pidfd)

    async def end(self) -> None:
        """Kills isolates and their programs now, and workers that are left after 3.8 s: all at once, none waits."""
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
        """Writes down the end of a worker once it is certain; one that has ended long ago is as good."""
        has_ended = await _has_ended(pidfd, kill_at - time.monotonic())
        if not has_ended and _signal(pidfd, signal.SIGKILL) and not await _has_ended(pidfd, DEAD_WITHIN_S):
            log.error("process_not_killed", segment=number, note="its leases end by themselves")
            return
        segment = self._ledger.segments[number]
        if segment.life is Life.LIVE:
            segment.end(Cause.STOPPED)
            self._changed()


def limit_the_keeper() -> None:
    """From now on this process has seconds to live: no exception and no blocked loop can take that away."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, KEEPER_ENDS_AFTER_S)


async def _kill_group(pid: int, pidfd: int) -> None:
    """Kills an isolate's process group while that is certainly its own.

    The kernel finds the group by the pidfd since Linux 6.9, also after the isolate's own end. Before that only the
    group's number can be named, which may belong to a stranger once the isolate has ended. So the isolate is stopped
    first: what is stopped does not end by itself.
    """
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _PROCESS_GROUP)
    except ProcessLookupError:
        return  # nobody is left
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        await kill_stopped_group(pid, pidfd)


async def kill_stopped_group(pid: int, pidfd: int) -> None:
    """Stops the isolate, and kills its group once it stands."""
    give_up_at = time.monotonic() + DEAD_WITHIN_S
    while _signal(pidfd, signal.SIGSTOP) and time.monotonic() < give_up_at:
        if _stands(pid):
            os.killpg(pid, signal.SIGKILL)
            return
        await asyncio.sleep(_LOOK_EVERY_S)
    _signal(pidfd, signal.SIGKILL)


def _stands(pid: int) -> bool:
    """True when a process is stopped; its pidfd has just been signalled, so that the number is its own."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _signal(pidfd: int, number: signal.Signals) -> bool:
    """False when the process has ended and is reaped: a fact, no error."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


async def _has_ended(pidfd: int, timeout_s: float) -> bool:
    """Waits for the end of a process that is not our child."""
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
