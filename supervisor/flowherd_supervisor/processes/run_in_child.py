"""Runs a function in a process of its own, so that what it imports stays out of this one."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from flowherd_supervisor.processes.after_fork import leave_with

if TYPE_CHECKING:
    from collections.abc import Callable


def run_in_child(work: Callable[[], bytes | int], meanwhile: Callable[[], object]) -> bytes:
    """Forks a process that runs `work`, calls `meanwhile` in this one, and returns the bytes that `work` returns.

    Raises:
        SystemExit: it returns an exit code instead, or its process is killed: with 128 + the signal, as in shells.

    """
    assert threading.active_count() == 1, "forking with threads copies locked locks (faults.md P20)"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        leave_with(lambda: _send(work(), write))
    os.close(write)
    meanwhile()
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        code = os.waitstatus_to_exitcode(status)
        sys.exit(code if code >= 0 else 128 - code)
    return answer


def _send(answer: bytes | int, fd: int) -> int:
    """Writes bytes; returns the exit code."""
    if isinstance(answer, int):
        return answer
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(answer)
    return 0
