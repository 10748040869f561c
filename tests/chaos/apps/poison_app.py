"""A killer among many waiting activities, and some that run in isolates; the app needs CHAOS_NOTES."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
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


@registry.activity
async def kill(ctx: ActivityContext, neighbours: int) -> None:
    """Kills its process whenever it runs, once the given number of neighbours run in it."""
    while len(set(begun())) < neighbours:  # noqa: ASYNC110 - other attempts write to a file
        await asyncio.sleep(0.05)
    note("start", ctx)
    os.kill(os.getpid(), signal.SIGKILL)


@registry.activity(offload="process")
def apart(ctx: SyncActivityContext, seconds: float) -> None:
    """Waits in an isolate by itself."""
    with noted_apart(ctx):
        time.sleep(seconds)
