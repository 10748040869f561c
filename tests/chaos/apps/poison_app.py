"""A killer among many waiting activities, and some that run in isolates; the app needs CHAOS_NOTES."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_app import note, registry, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd import ActivityContext, SyncActivityContext
    from flowherd.sdk.context import BaseContext


def begun() -> list[str]:
    """Returns the activity of each attempt so far."""
    notes = Path(os.environ["CHAOS_NOTES"])
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    return [activity_id for _, event, activity_id, *_ in lines if event == "start"]


@contextlib.contextmanager
def noted_apart(ctx: BaseContext) -> Iterator[None]:
    """Notes the begin and end of an attempt in an isolate."""
    is_apart = os.getpid() != worker_of(ctx)
    note("in" if is_apart else "start", ctx)
    yield
    note("out" if is_apart else "end", ctx)


@registry.activity
async def neighbour(ctx: ActivityContext, seconds: float) -> None:
    """Waits for its process's crash in its first attempt, later for the given seconds."""
    is_first = ctx.activity_id not in begun()
    note("start", ctx)
    if is_first:
        await asyncio.Event().wait()
    with noted_apart(ctx):
        await asyncio.sleep(seconds)


async def beside(ctx: ActivityContext, neighbours: int) -> None:
    """Waits until the given number of neighbours has begun once."""
    while len(set(begun())) < neighbours:  # noqa: ASYNC110 - other attempts write to a file
        await asyncio.sleep(0.05)
    note("start", ctx)


@registry.activity
async def kill(ctx: ActivityContext, neighbours: int) -> None:
    """Kills its process whenever it runs, once the given number of neighbours run in it."""
    await beside(ctx, neighbours)
    os.kill(os.getpid(), signal.SIGKILL)


@registry.activity
async def leave_a_task_that_kills(ctx: ActivityContext, neighbours: int) -> None:
    """Waits, while a task of its own kills the process."""
    await beside(ctx, neighbours)

    async def kill_soon() -> None:
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    task = asyncio.create_task(kill_soon())
    await asyncio.Event().wait()
    await task


@registry.activity
async def leave_a_thread_that_crashes(ctx: ActivityContext, neighbours: int) -> None:
    """Waits, while C code crashes in a thread of its own."""
    await beside(ctx, neighbours)
    threading.Timer(0.05, ctypes.string_at, [0]).start()
    await asyncio.Event().wait()


@registry.activity
async def sleep(ctx: ActivityContext, seconds: float) -> None:
    """Waits, and notes where."""
    with noted_apart(ctx):
        await asyncio.sleep(seconds)


@registry.activity(offload="process")
async def sleep_apart(ctx: ActivityContext, seconds: float) -> None:
    """Waits in an isolate by itself in its first attempt, and then completes."""
    is_first = ctx.activity_id not in begun()
    note("start", ctx)
    await asyncio.sleep(seconds if is_first else 0.0)


@registry.activity(offload="process")
def apart(ctx: SyncActivityContext, seconds: float) -> None:
    """Waits in an isolate by itself."""
    with noted_apart(ctx):
        time.sleep(seconds)
