"""The first steps of every flowherd process after its fork, and its exit."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import sys
import traceback
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from flowherd.exit_codes import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_OOM_ADJUSTMENT = 500  # the kernel kills a worker before the keeper or the supervisor
_FIRST_CLOSED = 3
_LOOKED_AT = 0.9  # of the boot timeout: a stack taken then shows what delays an import


def leave_with(main: Callable[[], int]) -> NoReturn:
    """Runs `main` and exits with its code, so that nothing unwinds into the stack of the forking process."""
    code: int = Exit.INTERNAL
    try:
        code = main()
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # also when the pipes are closed (faults.md C27)
            os._exit(code)


def own_group(pid: int) -> None:
    """Puts a new process into its own group; the process does the same, since either may be first."""
    with contextlib.suppress(OSError):  # the child was first, or has ended
        os.setpgid(pid, pid)


def begin(title: str, stacks: int, *, expendable: bool, boot_within_s: float | None = None) -> None:
    """Sets up a new process: group, crash stacks, title, core limit, OOM score; signals are up to the caller.

    Args:
        title: title in `ps`.
        stacks: file for the stacks of a fatal signal.
        expendable: the kernel should kill it first when memory runs out.
        boot_within_s: seconds for the import of the app; at 90 % of them the stack is written to `stacks`.

    """
    os.setpgid(0, 0)
    faulthandler.enable(stacks)
    if boot_within_s is not None:
        faulthandler.dump_traceback_later(boot_within_s * _LOOKED_AT, file=stacks)
    setproctitle(title)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if expendable:
        with contextlib.suppress(OSError):  # forbidden in some containers, where the kernel chooses by size
            _write("/proc/self/oom_score_adj", b"%d" % _OOM_ADJUSTMENT)


def _write(path: str, data: bytes) -> None:
    """Writes without a text file, for which each child would import a codec and copy memory pages."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def close_all_but(keep: Sequence[int]) -> None:
    """Closes every descriptor but 0-2 and `keep`, and replaces stdin by /dev/null."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # inheritable: a handler's own programs need a stdin too
    first = _FIRST_CLOSED
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
