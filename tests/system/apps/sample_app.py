"""Activities that system tests run; each execution leaves a line in a journal of the handlers' own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time

from flowherd import ActivityContext, Registry, SyncActivityContext

registry = Registry()


def note(path: str, event: str, ctx: ActivityContext | SyncActivityContext) -> None:
    """Appends one line with a single write."""
    if path:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{event} {ctx.activity_id} {os.getpid()}\n".encode())
        os.close(fd)


@registry.activity
async def noop() -> None:
    """Does nothing."""


@registry.activity
async def hello(name: str) -> dict[str, str]:
    """Greets."""
    return {"greeting": f"hello {name}"}


@registry.activity
async def wait(ctx: ActivityContext, seconds: float, journal: str = "") -> float:
    """Waits as I/O does."""
    note(journal, "start", ctx)
    await asyncio.sleep(seconds)
    note(journal, "end", ctx)
    return seconds


@registry.activity
def wait_in_thread(ctx: SyncActivityContext, seconds: float, journal: str = "") -> float:
    """Waits as blocking I/O does."""
    note(journal, "start", ctx)
    time.sleep(seconds)
    note(journal, "end", ctx)
    return seconds


@registry.activity
async def block_loop(ctx: ActivityContext, seconds: float, journal: str = "") -> float:
    """Blocks its event loop, as CPU-bound code does."""
    note(journal, "start", ctx)
    time.sleep(seconds)  # noqa: ASYNC251 - blocks the loop on purpose
    note(journal, "end", ctx)
    return seconds


@registry.activity
async def kill_self(ctx: ActivityContext, number: int = signal.SIGKILL, journal: str = "") -> None:
    """Takes its process down."""
    note(journal, "start", ctx)
    os.kill(os.getpid(), number)


@registry.activity
async def exit_quietly() -> None:
    """Exits its process with code 0."""
    os._exit(0)


@registry.activity(timeout_s=1.0)
async def hangs(ctx: ActivityContext, seconds: float, journal: str = "") -> float:
    """Blocks its loop far beyond its own limit."""
    note(journal, "start", ctx)
    time.sleep(seconds)  # noqa: ASYNC251 - blocks the loop on purpose
    note(journal, "end", ctx)
    return seconds


@registry.activity
async def hold_gil(ctx: ActivityContext, seconds: int, journal: str = "") -> int:
    """Holds the GIL in C code, as a badly written extension does."""
    note(journal, "start", ctx)
    ctypes.PyDLL(None).sleep(seconds)
    note(journal, "end", ctx)
    return seconds


@registry.activity
async def grow(megabytes: int) -> int:
    """Leaks memory."""
    kept.append(bytearray(b"x" * (megabytes << 20)))
    return len(kept)


kept: list[bytearray] = []
