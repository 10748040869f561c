"""Makes, reaches, kills and reaps the supervisor's children; the only file that forks, and it decides nothing."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from flowherd.exits import Exit
from flowherd.process.child import ignore_signals
from flowherd.process.link import Link
from flowherd_supervisor.oom import OomCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd.ledger import Berth

_OOM_ADJUSTMENT = 500  # the kernel takes a worker before the keeper or the supervisor
_FIRST_CLOSED = 3
_STACKS_BYTES, _STACK_LINES = 64 * 1024, 60


@dataclass(frozen=True, slots=True)
class Birth:
    """How to make one process.

    Attributes:
        title: what `ps` shows.
        keep: descriptors that stay open besides 0-2 and the link.
        main: what the new process does; its result is the exit code.
        expendable: whether the kernel shall take it first when memory ends.

    """

    title: str
    keep: Sequence[int]
    main: Callable[[Link], int]
    expendable: bool


@dataclass(frozen=True, slots=True)
class Handle:
    """A child as its parent sees it, from fork to reaping."""

    seat: int
    incarnation: int
    pid: int
    pidfd: int
    link: Link
    berth: Berth | None
    stacks: int  # a file in memory, where a crash leaves its stacks

    def last_words(self) -> list[str]:
        """The stacks that a fatal signal has left; empty for a calm end."""
        text = os.pread(self.stacks, _STACKS_BYTES, 0).decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()][:_STACK_LINES]

    def close(self) -> None:
        """Closes what belongs to a reaped child."""
        self.link.close()
        os.close(self.pidfd)
        os.close(self.stacks)


class Processes:
    """All children that have not been reaped."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._oom = OomCounter()
        self.strangers = 0  # reaped, but never ours: orphans of user code

    def __iter__(self) -> Iterator[Handle]:
        return iter(tuple(self._handles.values()))

    def find(self, seat: int, incarnation: int) -> Handle | None:
        """The child, or None once it has been reaped."""
        for handle in self._handles.values():
            if (handle.seat, handle.incarnation) == (seat, incarnation):
                return handle
        return None

    def spawn(self, seat: int, incarnation: int, berth: Berth | None, birth: Birth) -> Handle:
        """Forks one child.

        Raises:
            OSError: no process, memory or descriptor is to be had (faults.md P12, P13).

        """
        assert threading.active_count() == 1, "forking with threads copies locked locks (faults.md P20)"
        ours, theirs = Link.pair()
        stacks = os.memfd_create("stacks")
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            os.close(stacks)
            raise
        if pid == 0:
            _be_born(birth, theirs, stacks, parent)
        theirs.close()
        ours.set_blocking(blocking=False)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # nobody would know of it
            os.waitpid(pid, 0)
            ours.close()
            os.close(stacks)
            raise
        handle = self._handles[pid] = Handle(seat, incarnation, pid, pidfd, ours, berth, stacks)
        return handle

    def kill(self, handle: Handle) -> None:
        """SIGKILL; the handle is in the table only while its process has not been reaped (faults.md P11)."""
        assert handle.pid in self._handles, handle
        os.kill(handle.pid, signal.SIGKILL)

    def abort(self, handle: Handle) -> None:
        """SIGABRT: faulthandler writes the stacks of all threads, also with the GIL held, and the process dies."""
        assert handle.pid in self._handles, handle
        os.kill(handle.pid, signal.SIGABRT)

    def reap(self) -> list[tuple[Handle, int]]:
        """Collects every child that has ended, with its annotated wait status (faults.md P14; statuses.py)."""
        ended: list[tuple[Handle, int]] = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                handle = self._handles.pop(pid, None)
                if handle is None:
                    self.strangers += 1
                else:
                    ended.append((handle, self._oom.annotate(status)))
        return ended


def _be_born(birth: Birth, link: Link, stacks: int, parent: int) -> None:
    """The first moments of a child; never returns."""
    code: int = Exit.INTERNAL
    try:
        os.setpgid(0, 0)
        ignore_signals()
        _close_all_but((link.fileno(), stacks, *birth.keep))
        faulthandler.enable(stacks)
        if os.getppid() != parent:
            os._exit(Exit.RELEASED)
        setproctitle(birth.title)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if birth.expendable:
            _volunteer_for_the_oom_killer()
        code = birth.main(link)
    except BaseException:  # noqa: BLE001 - nothing may unwind into the parent's stack
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # also when nobody reads them any more (faults.md C27)
            os._exit(code)


def _close_all_but(keep: Sequence[int]) -> None:
    """Closes every descriptor but 0-2 and `keep`, and puts /dev/null in the place of stdin."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # inheritable: a handler's own programs need a stdin too
    first = _FIRST_CLOSED
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _volunteer_for_the_oom_killer() -> None:
    with contextlib.suppress(OSError):  # not permitted in some containers: then the kernel chooses by size
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_ADJUSTMENT), encoding="ascii")
