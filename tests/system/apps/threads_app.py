"""An app whose handlers return where they run, for workers that are threads of one process."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from flowherd import ActivityContext, Registry, SyncActivityContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def lifespan() -> AsyncIterator[int]:
    """Yields a state for each worker's loop, by which they differ."""
    yield threading.get_ident()


registry = Registry(lifespan=lifespan)


@registry.activity
async def where(ctx: ActivityContext) -> dict[str, Any]:
    """Runs on the loop of its worker."""
    return {
        "process": ctx.process_index,
        "is_own_state": ctx.state == threading.get_ident(),
        "pid": os.getpid(),
        "variables": [os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"]],
    }


@registry.activity(offload="process")
def where_apart(ctx: SyncActivityContext) -> dict[str, Any]:
    """Runs in an isolate of its worker."""
    return {
        "process": ctx.process_index,
        "pid": os.getpid(),
        "variables": [os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"]],
    }
