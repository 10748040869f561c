"""Activities that misuse their process in the ways of faults.md C10 to C17; they need CHAOS_NOTES."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from chaos_app import note, registry

if TYPE_CHECKING:
    from flowherd import ActivityContext, SyncActivityContext

never = threading.Event()
kept: list[object] = []


@registry.activity
def exhaust_memory(ctx: SyncActivityContext) -> None:
    """Asks for more memory than its process may have."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), before[1]))
    try:
        kept.append(bytearray(1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@registry.activity(timeout_s=0.5)
def never_end(ctx: SyncActivityContext) -> None:
    """Blocks its thread forever."""
    note("start", ctx)
    never.wait()


@registry.activity
async def leave_a_program(ctx: ActivityContext, seconds: int) -> int:
    """Leaves a program running without waiting for it."""
    program = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])  # noqa: ASYNC220 - as users do
    kept.append(program)
    note("start", ctx, str(program.pid))
    return program.pid


@registry.activity
async def leave_threads(count: int) -> int:
    """Leaves threads behind that even block the end of an interpreter."""
    for _ in range(count):
        threading.Thread(target=never.wait, daemon=False).start()
    return threading.active_count()


@registry.activity
async def leak_descriptors(room: int) -> int:
    """Leaks descriptors up to the limit."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + room, 4096))
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    return len(kept)


@registry.activity
async def fork_and_return(ctx: ActivityContext) -> str:
    """Forks on the loop, and lets the grandchild return into it."""
    pid = os.fork()
    note("start", ctx, str(pid or os.getpid()))
    return "parent" if pid else "grandchild"


@registry.activity
def fork_in_thread_and_return(ctx: SyncActivityContext) -> str:
    """Forks in a thread, and lets the grandchild return into it."""
    pid = os.fork()
    note("start", ctx, str(pid or os.getpid()))
    return "parent" if pid else "grandchild"


@registry.activity
async def fork_and_exit(ctx: ActivityContext) -> str:
    """Forks, as multiprocessing does: the grandchild does its part and leaves by itself."""
    pid = os.fork()
    if pid == 0:
        note("end", ctx, "grandchild")
        os._exit(7)
    _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - as users do
    return f"exit {os.waitstatus_to_exitcode(status)}"
