"""The zygote: imports the app once and then only forks; it has one thread.

It forks twice, so that the supervisor becomes the parent: the zygote forks an intermediate process, which forks the
child, sends its pid to the supervisor, lets the child begin, and ends. A child whose pid was not sent never begins.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd import logs
from flowherd.exit_codes import Exit
from flowherd.link.bounded_messages import ready, serves
from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import BootFailed, DumpStacks, Fork, Forked, ForkFailed, decode_downward
from flowherd.process import worker_process
from flowherd.process.log_stacks import dump_threads
from flowherd.process.rehearsal import LIVES, rehearse, warm_up
from flowherd_supervisor.processes import fork_safety
from flowherd_supervisor.processes.after_fork import begin, leave_with, own_group
from flowherd_supervisor.processes.prctl import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.execution.load_app import LoadedApp
    from flowherd_supervisor.processes.child_specs import Setups

ADOPTED_WITHIN_S = 1.0  # from the last step of the intermediate process to its end

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ZygoteSetup:
    """The settings and descriptors a zygote inherits at its fork."""

    setups: Setups
    supervisor_pid: int
    processes: int


def main(setup: ZygoteSetup, link: Link) -> int:
    """Imports the app, reports the result, and forks on order until the supervisor closes the link."""
    logs.name_process(process="preload")
    die_with_parent()
    if os.getppid() != setup.supervisor_pid:
        return Exit.RELEASED
    os.environ["FLOWHERD_PROCESSES"] = str(setup.processes)
    sockets = fork_safety.open_sockets()
    loaded = setup.setups.load()
    if isinstance(loaded, BootFailed):
        return worker_process.refuse(link, loaded)
    _prepare(setup, loaded)
    _fork_and_end()
    found = list(fork_safety.found(sockets))
    sys.stdout.flush()  # else each child would print the import's output again
    sys.stderr.flush()
    worker_type = loaded.registry.worker_type or ""
    activities = {definition.name: definition.mode.value for definition in loaded.registry}
    try:
        link.send(ready(worker_type, activities, found))
        served = worker_type or setup.setups.config.worker_type
        link.send(serves(served, worker_process.taken_by(loaded.registry)))
        return _Zygote(setup, link, loaded).serve()
    except LinkClosed:
        return Exit.CLEAN


def _prepare(setup: ZygoteSetup, loaded: LoadedApp) -> None:
    """Writes to memory before the forks that each child would otherwise write to, and copy, itself."""
    rehearse(setup.setups.config)
    for _ in range(LIVES):
        _rehearse_birth(setup, loaded)
    warm_up()


def _rehearse_birth(setup: ZygoteSetup, loaded: LoadedApp) -> None:
    """Does the first steps of a child here, as far as possible."""
    worker_process.ignore_signals(again=True)  # also for all children: the app may have installed handlers
    _part_ways()
    setup.setups.rehearse(setup.processes, loaded)


def _fork_and_end() -> None:
    """Forks once, at which fork-aware libraries stop their threads."""
    pid = os.fork()
    if not pid:
        os._exit(Exit.CLEAN)
    _reap(pid)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # the app has made the kernel reap children
        os.waitpid(pid, 0)


class _Zygote:
    def __init__(self, setup: ZygoteSetup, link: Link, loaded: LoadedApp) -> None:
        self._setup = setup
        self._link = link
        self._loaded = loaded

    def serve(self) -> int:
        """Forks on order.

        Raises:
            LinkClosed: the supervisor has closed the link.

        """
        while True:
            received = self._link.receive()
            assert received is not None, "the link blocks"
            data, fds = received
            match decode_downward(data):
                case Fork() as order:
                    self._fork(order, fds)
                case DumpStacks():
                    dump_threads(log)
                case message:
                    log.warning("order_not_understood", order=type(message).__name__)
            for fd in fds:
                os.close(fd)

    def _fork(self, order: Fork, fds: Sequence[int]) -> None:
        may_begin, let_begin = os.pipe()
        try:
            pid = os.fork()
            if not pid:
                leave_with(lambda: self._go_between(order, fds, may_begin, let_begin))
            _reap(pid)
        except OSError as error:
            self._link.send(_failure(order, error))
        finally:
            os.close(may_begin)
            os.close(let_begin)

    def _go_between(self, order: Fork, fds: Sequence[int], may_begin: int, let_begin: int) -> int:
        """Forks the child and reports its pid; the end of this process makes the supervisor the child's parent."""
        try:
            self_fd = os.pidfd_open(os.getpid())
            pid = os.fork()
        except OSError as error:
            self._link.send(_failure(order, error))
            return Exit.INTERNAL
        if not pid:
            os.close(let_begin)
            leave_with(lambda: self._be_born(order, fds, may_begin, self_fd))
        own_group(pid)
        with contextlib.suppress(LinkClosed):  # the supervisor has closed the link: the child must not begin
            self._link.send(Forked(order.index, order.incarnation, pid, order.key))
            os.write(let_begin, b"!")
        return Exit.CLEAN

    def _be_born(self, order: Fork, fds: Sequence[int], may_begin: int, go_between: int) -> int:
        self._link.close()
        *ends, stacks = fds
        setups = self._setup.setups
        if order.key:
            worker_process.obey_signal(signal.SIGTERM)  # the zygote ignores it, and so would its children
        begin(setups.title_of(order.index, order.key), stacks, expendable=True)
        if not self._is_adopted(may_begin, go_between):
            return Exit.RELEASED
        _part_ways()
        if order.key:
            return setups.isolate(order, order.processes, ends, self._loaded)
        segments = tuple(setups.ledger.segments[number] for number in order.segments)
        return setups.work(order, segments, order.processes, Link.of(*ends), self._loaded)

    def _is_adopted(self, may_begin: int, go_between: int) -> bool:
        """Waits until the supervisor has the pid and is the parent."""
        if not os.read(may_begin, 1):
            return False
        ended = select.poll()
        ended.register(go_between, select.POLLIN)
        ended.poll(ADOPTED_WITHIN_S * 1000)
        os.close(may_begin)
        os.close(go_between)
        return os.getppid() == self._setup.supervisor_pid


def _failure(order: Fork, error: OSError) -> ForkFailed:
    return ForkFailed(order.index, order.incarnation, str(error), order.key)


def _part_ways() -> None:
    """Seeds random generators anew, which children of one zygote must not share."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4)))  # without a seed numpy copies 100 KB more
