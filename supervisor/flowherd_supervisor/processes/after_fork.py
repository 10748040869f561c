"""The first moments of every process of ours after its fork, and its last one; it forks nothing itself."""

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

_OOM_ADJUSTMENT = 500  # the kernel takes a worker before the keeper or the supervisor
_FIRST_CLOSED = 3
_LOOKED_AT = 0.9  # of the time to boot: what an import does then is what has kept it


def leave_with(main: Callable[[], int]) -> NoReturn:
    """Runs `main` and leaves with its code: nothing may unwind into the stack of the process that forked."""
    code: int = Exit.INTERNAL
    try:
        code = main()
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # also when nobody reads them any more (faults.md C27)
            os._exit(code)


def own_group(pid: int) -> None:
    """Gives a new process its group, as it does itself: whoever is first."""
    with contextlib.suppress(OSError):  # it was, or has ended
        os.setpgid(pid, pid)


def begin(title: str, stacks: int, *, expendable: bool, boot_within_s: float | None = None) -> None:
    """Makes this process one of ours; what it does with signals is for its own first steps.

    Args:
        title: what `ps` shows.
        stacks: the file for its last words.
        expendable: whether the kernel shall take it first when memory ends.
        boot_within_s: seconds for the import of the app; shortly before they are over its stack is left in `stacks`.

    """
    os.setpgid(0, 0)
    faulthandler.enable(stacks)
    if boot_within_s is not None:
        faulthandler.dump_traceback_later(boot_within_s * _LOOKED_AT, file=stacks)
    setproctitle(title)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if expendable:
        with contextlib.suppress(OSError):  # forbidden in some containers: then the kernel chooses by size
            _write("/proc/self/oom_score_adj", b"%d" % _OOM_ADJUSTMENT)


def _write(path: str, data: bytes) -> None:
    """A text file would have each child import its codec, and copy the pages of all that takes part."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def close_all_but(keep: Sequence[int]) -> None:
    """Closes every descriptor but 0-2 and `keep`, and puts /dev/null in the place of stdin."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # inheritable: a handler's own programs need a stdin too
    first = _FIRST_CLOSED
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
