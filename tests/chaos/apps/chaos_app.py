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


def note(event: str, activity_id: str, digest: str = "-", pid: int = 0) -> None:
    """One line with one write: time, event, activity, process, digest."""
    write("", f"{time.time():.6f} {event} {activity_id} {pid or os.getpid()} {digest}")


def note_isolate(activity_id: str, worker: int) -> None:
    """Which isolate runs what, for which worker."""
    write(".isolates", f"{activity_id} {os.getpid()} {worker}")


def write(suffix: str, line: str) -> None:
    """One line with one write, which nothing can tear."""
    fd = os.open(os.environ["CHAOS_NOTES"] + suffix, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
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


@registry.activity(offload="process")
def work_in_isolate(ctx: SyncActivityContext, number: int, seconds: float) -> dict[str, str]:
    """Waits in a process of its own; to the oracle it runs in its worker, which is the one that has claimed it."""
    worker = worker_of(ctx)
    note_isolate(ctx.activity_id, worker)
    note("start", ctx.activity_id, pid=worker)
    digest = "-"
    try:
        time.sleep(seconds)
        digest = digest_of(ctx.activity_id, number)
        return {"digest": digest}
    finally:
        note("end", ctx.activity_id, digest, pid=worker)


def worker_of(ctx: SyncActivityContext) -> int:
    """The process that speaks under the attempt's worker_id, `<id>-<pid>-<nonce>-<n>`."""
    return int(ctx._state.activity.worker_id.rsplit("-", 3)[1])


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
