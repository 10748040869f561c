"""An app that says where its handlers run, for workers that are threads of one process."""

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
    """Each worker's loop has its own: what it yields tells them apart."""
    yield threading.get_ident()


registry = Registry(lifespan=lifespan)


@registry.activity
async def where(ctx: ActivityContext) -> dict[str, Any]:
    """On the loop of its worker."""
    return {
        "process": ctx.process_index,
        "is_own_state": ctx.state == threading.get_ident(),
        "pid": os.getpid(),
        "variables": [os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"]],
    }


@registry.activity(offload="process")
def where_apart(ctx: SyncActivityContext) -> dict[str, Any]:
    """In an isolate of its worker."""
    return {
        "process": ctx.process_index,
        "pid": os.getpid(),
        "variables": [os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"]],
    }
