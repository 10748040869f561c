"""The supervisor's children: fork, kill, abort and reap."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit
from flowherd.link.link import Link
from flowherd.process.worker_process import ignore_signals
from flowherd.procfs import stat_fields
from flowherd.wait_status import OURS
from flowherd_supervisor.processes.after_fork import begin, close_all_but, leave_with, own_group
from flowherd_supervisor.processes.contain_defects import contained
from flowherd_supervisor.processes.oom import OomCounter
from flowherd_supervisor.processes.stack_dumps import shortened, standing_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd.ledger import Segment

_STACKS_BYTES = 1 << 20
_FLAGS, _PF_EXITING = 6, 0x4  # in `stat_fields`


@dataclass(frozen=True, slots=True)
class Birth:
    """The recipe for one process.

    Attributes:
        title: title in `ps`.
        keep: descriptors that stay open besides 0-2 and the link.
        main: runs in the new process and returns the exit code.
        expendable: the kernel should kill it first when memory runs out.
        boot_within_s: seconds for the import of the app, None for a process without one.

    """

    title: str
    keep: Sequence[int]
    main: Callable[[Link], int]
    expendable: bool
    boot_within_s: float | None = None


@dataclass(frozen=True, slots=True)
class IsolateBirth:
    """The recipe for an isolate that is forked directly.

    Attributes:
        title: title in `ps`.
        ends: descriptors of its channel, stdout, stderr and lifeline.
        main: runs in the isolate and returns the exit code.

    """

    title: str
    ends: Sequence[int]
    main: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Handle:
    """A child as its parent sees it, from fork to reaping."""

    index: int
    incarnation: int
    pid: int
    pidfd: int  # -1 if it was reaped before the zygote's message arrived
    link: Link
    segments: tuple[Segment, ...]  # one for each worker in it; none for the keeper and a zygote
    stacks: int  # memory file for the stacks of a crash

    def last_words(self) -> list[str]:
        """Returns the stacks that a fatal signal has left; empty without one."""
        return _last_words(self.stacks)

    @property
    def standing_at(self) -> str:
        """The user's line at which a slow import stood, "" if the import was not slow."""
        return standing_at(_left_in(self.stacks))

    def forget_words(self) -> None:
        """Empties the file after the import; the child shares its offset."""
        os.ftruncate(self.stacks, 0)
        os.lseek(self.stacks, 0, os.SEEK_SET)

    def close(self) -> None:
        """Closes what belongs to a reaped child."""
        self.link.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        os.close(self.stacks)


@dataclass(frozen=True, slots=True)
class IsolateHandle:
    """An isolate as its parent sees it; `index` and `incarnation` are its worker's, which calls it `key`."""

    index: int
    incarnation: int
    key: int
    pid: int
    stacks: int

    def last_words(self) -> list[str]:
        """Returns the stacks that a fatal signal has left; empty without one."""
        return _last_words(self.stacks)

    def close(self) -> None:
        """Closes what belongs to a reaped isolate."""
        os.close(self.stacks)


Child = Handle | IsolateHandle


def _last_words(stacks: int) -> list[str]:
    return shortened(_left_in(stacks))


def _left_in(stacks: int) -> str:
    return os.pread(stacks, _STACKS_BYTES, 0).decode(errors="replace")


class Processes:
    """All children that have not been reaped."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._isolates: dict[int, IsolateHandle] = {}
        self._ended: list[tuple[Child, int]] = []
        self._unclaimed: dict[int, int] = {}  # pid → status of reaped processes that a zygote may yet report
        self._killed: set[int] = set()  # pids that were sent SIGKILL and are not reaped
        self._oom = OomCounter()
        self.strangers = 0  # number of reaped orphans of user code

    def __iter__(self) -> Iterator[Handle]:
        return iter(tuple(self._handles.values()))

    @property
    def isolates(self) -> Sequence[IsolateHandle]:
        """The isolates that have not been reaped."""
        return tuple(self._isolates.values())

    def find(self, index: int, incarnation: int) -> Handle | None:
        """Returns the child, None once it has been reaped."""
        for handle in self._handles.values():
            if (handle.index, handle.incarnation) == (index, incarnation):
                return handle
        return None

    def spawn(self, index: int, incarnation: int, segments: tuple[Segment, ...], birth: Birth) -> Handle:
        """Forks one child directly.

        Raises:
            OSError: no process, memory or descriptor is available (faults.md P12, P13).

        """
        ours, theirs = Link.pair()
        stacks = os.memfd_create("stacks")

        def be_born(parent: int) -> int:
            close_all_but((theirs.fileno(), stacks, *birth.keep))
            ignore_signals()
            begin(birth.title, stacks, expendable=birth.expendable, boot_within_s=birth.boot_within_s)
            return birth.main(theirs) if os.getppid() == parent else Exit.RELEASED

        try:
            pid = _fork(be_born)
            pidfd = _pidfd(pid)
        except OSError:
            ours.close()
            os.close(stacks)
            raise
        finally:
            theirs.close()
        ours.set_blocking(blocking=False)
        handle = Handle(index, incarnation, pid, pidfd, ours, segments, stacks)
        self.adopt(handle)
        return handle

    def spawn_isolate(self, index: int, incarnation: int, key: int, birth: IsolateBirth) -> IsolateHandle:
        """Forks one isolate directly; OSError as for `spawn`."""
        stacks = os.memfd_create("stacks")

        def be_born(parent: int) -> int:
            close_all_but((*birth.ends, stacks))
            ignore_signals(but=(signal.SIGTERM,))
            begin(birth.title, stacks, expendable=True)
            return birth.main() if os.getppid() == parent else Exit.RELEASED

        try:
            pid = _fork(be_born)
        except OSError:
            os.close(stacks)
            raise
        own_group(pid)
        isolate = IsolateHandle(index, incarnation, key, pid, stacks)
        self.adopt(isolate)
        return isolate

    def adopt(self, child: Child) -> None:
        """Adds a child to the table; one forked by a zygote may already have been reaped."""
        if child.pid in self._unclaimed:
            self._ended.append((child, self._unclaimed.pop(child.pid)))
        elif isinstance(child, Handle):
            self._handles[child.pid] = child
        else:
            self._isolates[child.pid] = child

    def find_isolate(self, index: int, incarnation: int, key: int) -> IsolateHandle | None:
        """Returns the isolate, None once it has been reaped."""
        names = (index, incarnation, key)
        return next((i for i in self._isolates.values() if (i.index, i.incarnation, i.key) == names), None)

    def kill_group(self, isolate: IsolateHandle) -> None:
        """Sends SIGKILL to the isolate and its process group."""
        assert isolate.pid in self._isolates, isolate
        self._note_kill(isolate.pid)
        _kill_with_programs(isolate.pid)

    def kill(self, handle: Handle) -> None:
        """Sends SIGKILL; a handle in the table is not reaped, so its pid is not reused (faults.md P11)."""
        assert handle.pid in self._handles, handle
        self._note_kill(handle.pid)
        os.kill(handle.pid, signal.SIGKILL)

    def abort(self, handle: Handle) -> None:
        """Sends SIGABRT: faulthandler writes all threads' stacks, even with the GIL held, and the process dies."""
        assert handle.pid in self._handles, handle
        os.kill(handle.pid, signal.SIGABRT)

    def reap(self) -> None:
        """Reaps every child that has ended (faults.md P14); `ended` returns them, once all messages have been read.

        Programs of an isolate die with it: its group is killed before the reap, while its id cannot be reused.
        """
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                pid = dead.si_pid
                if pid in self._isolates:
                    _kill_with_programs(pid)
                status = os.waitpid(pid, 0)[1]  # from here on only this table knows of it
                status = contained(partial(self._annotated, pid, status), status)
                child = self._handles.pop(pid, None) or self._isolates.pop(pid, None)
                if child is None:
                    self._unclaimed[pid] = status
                else:
                    self._ended.append((child, status))

    def _note_kill(self, pid: int) -> None:
        """Records a kill, unless the process is already exiting: its channel closes before it can be reaped."""
        if not is_exiting(pid):
            self._killed.add(pid)

    def _annotated(self, pid: int, status: int) -> int:
        """Adds to the wait status of a SIGKILL whether we sent it and whether memory ran out."""
        was_killed = pid in self._killed
        self._killed.discard(pid)
        ours = OURS if was_killed and status & 0x7F == signal.SIGKILL else 0
        return self._oom.annotate(status) | ours

    @property
    def ending(self) -> Sequence[Handle]:
        """Reaped children that `ended` has not returned yet; their last messages can still be read."""
        return [child for child, _ in self._ended if isinstance(child, Handle)]

    def ended(self) -> list[tuple[Child, int]]:
        """Returns each ended child once, with its annotated status (`flowherd.wait_status`); counts strangers."""
        ended, self._ended = self._ended, []
        self.strangers += len(self._unclaimed)
        self._unclaimed.clear()
        return ended


def _fork(be_born: Callable[[int], int]) -> int:
    """Forks a process that runs `be_born` with its parent's pid; returns the new pid."""
    assert threading.active_count() == 1, "forking with threads copies locked locks (faults.md P20)"
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        leave_with(lambda: be_born(parent))
    return pid


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # it would not be in the table
        os.waitpid(pid, 0)
        raise


def _kill_with_programs(pid: int) -> None:
    """Sends SIGKILL to an isolate that is not reaped, and to its group: a handler can have taken it to another one."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):  # what is left belongs to another user
            kill(pid, signal.SIGKILL)


def is_exiting(pid: int) -> bool:
    """True if the kernel has begun to end the process, for any reason (proc(5), `flags`)."""
    fields = stat_fields(pid)
    return bool(fields) and bool(int(fields[_FLAGS]) & _PF_EXITING)
