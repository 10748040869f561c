"""Runs a function in a process of its own, so that what it imports stays out of this one."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from flowherd_supervisor.processes.after_fork import leave_with
from flowherd_supervisor.processes.prctl import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable


def run_in_child(work: Callable[[], bytes], meanwhile: Callable[[], object]) -> bytes:
    """Forks a process that runs `work`, calls `meanwhile` in this one, and returns what `work` returns.

    If that process fails or is killed, it is nothing or only a part. Where none can be forked, `work` runs in this one:
    beside threads, whose locks it would copy (faults.md P20), or at a limit.
    """
    if threading.active_count() > 1:
        return work()
    read, write = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        return work()
    if child == 0:
        os.close(read)
        leave_with(lambda: _send(work, write))
    os.close(write)
    meanwhile()
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    with contextlib.suppress(ChildProcessError):  # it is reaped already where SIGCHLD is ignored
        os.waitpid(child, 0)
    return answer


def _send(work: Callable[[], bytes], fd: int) -> int:
    die_with_parent()
    with os.fdopen(fd, "wb") as pipe, contextlib.suppress(KeyboardInterrupt, SystemExit):  # Ctrl-C ends both
        pipe.write(work())
    return 0
