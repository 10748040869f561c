"""Activities for chaos tests: light work with verifiable outputs, noted by the handlers themselves."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import signal
import time
from typing import TYPE_CHECKING

from flowherd import ActivityContext, Registry, SyncActivityContext
from flowherd.ledger import Cell, RecordWriter
from flowherd.worker.attempt import Attempt

if TYPE_CHECKING:
    from flowherd.sdk.context import BaseContext

registry = Registry()


def note(event: str, ctx: BaseContext, digest: str = "-") -> None:
    """Writes one line with one write: time, event, activity, process, digest.

    For the oracle an activity in an isolate runs in its worker, which has claimed it; another file has the isolate of
    each activity and its worker.
    """
    worker = worker_of(ctx)
    if event == "start" and worker != os.getpid():
        write(".isolates", f"{ctx.activity_id} {os.getpid()} {worker}")
    write("", f"{time.time():.6f} {event} {ctx.activity_id} {worker} {digest}")


def write(suffix: str, line: str) -> None:
    """Writes one line with one atomic write."""
    fd = os.open(os.environ["CHAOS_NOTES"] + suffix, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def digest_of(activity_id: str, number: int) -> str:
    """Returns an activity's output, a digest of its id and its input."""
    return hashlib.sha256(f"{activity_id}:{number}".encode()).hexdigest()


@registry.activity
async def work(ctx: ActivityContext, number: int, seconds: float) -> dict[str, str]:
    """Waits as I/O does."""
    note("start", ctx)
    digest = "-"
    try:
        await asyncio.sleep(seconds)
        digest = digest_of(ctx.activity_id, number)
        return {"digest": digest}
    finally:
        note("end", ctx, digest)


@registry.activity
def work_in_thread(ctx: SyncActivityContext, number: int, seconds: float) -> dict[str, str]:
    """Waits as blocking I/O does."""
    note("start", ctx)
    time.sleep(seconds)
    digest = digest_of(ctx.activity_id, number)
    note("end", ctx, digest)
    return {"digest": digest}


@registry.activity(offload="process")
def work_in_isolate(ctx: SyncActivityContext, number: int, seconds: float) -> dict[str, str]:
    """Waits in an isolate."""
    note("start", ctx)
    digest = "-"
    try:
        time.sleep(seconds)
        digest = digest_of(ctx.activity_id, number)
        return {"digest": digest}
    finally:
        note("end", ctx, digest)


def worker_of(ctx: BaseContext) -> int:
    """Returns the pid of the process that runs the attempt; for one in an isolate, of the process that claimed it.

    A worker_id is `<id>-<pid>-<nonce>-<n>`; an adopted claim keeps that of the process that died.
    """
    if isinstance(ctx._state, Attempt):
        return os.getpid()
    return int(ctx._state.activity.worker_id.rsplit("-", 3)[1])


@registry.activity
async def noop() -> None:
    """Does nothing."""


@registry.activity
async def block_loop(ctx: ActivityContext, seconds: float) -> None:
    """Blocks its event loop, as CPU-bound code does."""
    note("start", ctx)
    time.sleep(seconds)  # noqa: ASYNC251 - blocks the loop on purpose
    note("end", ctx)


@registry.activity
async def hold_gil(ctx: ActivityContext, seconds: int) -> None:
    """Holds the GIL in C code, as a badly written extension does."""
    note("start", ctx)
    ctypes.PyDLL(None).sleep(seconds)
    note("end", ctx)


@registry.activity
async def scribble(ctx: ActivityContext) -> None:
    """Writes into its worker's shared memory, as a badly written extension may."""
    note("start", ctx)
    for found in gc.get_objects():
        if isinstance(found, RecordWriter):
            found.segment.put(Cell.PROCESS, 2**63)
            found.segment.put(Cell.HIGH_WATER, 2**63)
    await asyncio.sleep(20)  # its process is ended for the damage long before


@registry.activity
async def kill_self(ctx: ActivityContext) -> None:
    """Takes its process down."""
    note("start", ctx)
    os.kill(os.getpid(), signal.SIGKILL)
