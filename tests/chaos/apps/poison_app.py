"""One killer among many that wait, and neighbours that belong into isolates; the app needs CHAOS_NOTES."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_app import note, registry, worker_of

if TYPE_CHECKING:
    from flowherd import ActivityContext, SyncActivityContext


def begun() -> list[str]:
    """The activity of each attempt so far."""
    lines = [line.split() for line in Path(os.environ["CHAOS_NOTES"]).read_text().splitlines()]
    return [activity_id for _, event, activity_id, *_ in lines if event == "start"]


@registry.activity
async def neighbour(ctx: ActivityContext, seconds: float) -> None:
    """Waits for its process's death in its first attempt, and then for so long."""
    note("start", ctx)
    if os.getpid() == worker_of(ctx) and begun().count(ctx.activity_id) == 1:
        await asyncio.Event().wait()
    await asyncio.sleep(seconds)
    note("end", ctx)


@registry.activity
async def kill(ctx: ActivityContext, neighbours: int) -> None:
    """Takes its process down whenever it runs, though not before so many neighbours run in it."""
    while len(set(begun())) < neighbours:
        await asyncio.sleep(0.05)
    note("start", ctx)
    os.kill(os.getpid(), signal.SIGKILL)


@registry.activity(offload="process")
def apart(ctx: SyncActivityContext, seconds: float) -> None:
    """Waits in an isolate by itself."""
    note("start", ctx)
    time.sleep(seconds)
    note("end", ctx)
