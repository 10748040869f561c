"""Activities for chaos: light work with an output that can be checked, noted by the handlers themselves."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import signal
import time

from flowherd import ActivityContext, Registry, SyncActivityContext

registry = Registry()


def note(event: str, activity_id: str, digest: str = "-") -> None:
    """One line with one write: time, event, activity, process, digest."""
    fd = os.open(os.environ["CHAOS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{time.time():.6f} {event} {activity_id} {os.getpid()} {digest}\n".encode())
    os.close(fd)


def digest_of(activity_id: str, number: int) -> str:
    """What an activity returns: of its id and its input."""
    return hashlib.sha256(f"{activity_id}:{number}".encode()).hexdigest()


@registry.activity
async def work(ctx: ActivityContext, number: int, seconds: float) -> dict[str, str]:
    """Waits as I/O does."""
    note("start", ctx.activity_id)
    digest = "-"
    try:
        await asyncio.sleep(seconds)
        digest = digest_of(ctx.activity_id, number)
        return {"digest": digest}
    finally:
        note("end", ctx.activity_id, digest)


@registry.activity
def work_in_thread(ctx: SyncActivityContext, number: int, seconds: float) -> dict[str, str]:
    """Waits as blocking I/O does."""
    note("start", ctx.activity_id)
    time.sleep(seconds)
    digest = digest_of(ctx.activity_id, number)
    note("end", ctx.activity_id, digest)
    return {"digest": digest}


@registry.activity
async def noop() -> None:
    """Does nothing."""


@registry.activity
async def block_loop(ctx: ActivityContext, seconds: float) -> None:
    """Blocks its event loop, as CPU-bound code does."""
    note("start", ctx.activity_id)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    note("end", ctx.activity_id)


@registry.activity
async def hold_gil(ctx: ActivityContext, seconds: int) -> None:
    """Holds the GIL in C code, as a badly written extension does."""
    note("start", ctx.activity_id)
    ctypes.PyDLL(None).sleep(seconds)
    note("end", ctx.activity_id)


@registry.activity
async def kill_self(ctx: ActivityContext) -> None:
    """Takes its process down."""
    note("start", ctx.activity_id)
    os.kill(os.getpid(), signal.SIGKILL)
