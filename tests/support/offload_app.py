"""Handlers that return where they run: each way to choose that by decorator, ours and the stock SDK's."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from kruxiaflow.worker import ActivityContext as StockContext
from kruxiaflow.worker import ActivityResult as StockResult
from kruxiaflow.worker import activity as stock_activity

from flowherd import Registry

registry = Registry()


def place() -> dict[str, Any]:
    """Returns process, thread, and True if a loop runs in it."""
    try:
        loop = id(asyncio.get_running_loop())
    except RuntimeError:
        loop = 0
    return {"pid": os.getpid(), "thread": threading.get_ident(), "loop": loop}


async def an_async_def() -> dict[str, Any]:
    """Returns where it runs, after a wait on its loop."""
    await asyncio.sleep(0)
    return place()


def a_def() -> dict[str, Any]:
    """Returns where it runs."""
    return place()


for name, handler, options in (
    ("async", an_async_def, {}),
    ("async on the loop", an_async_def, {"offload": "loop"}),
    ("async in a thread", an_async_def, {"offload": "thread"}),
    ("async in a thread, as others spell it", an_async_def, {"offload_to_thread": True}),
    ("async in a process", an_async_def, {"offload": "process"}),
    ("def", a_def, {}),
    ("def in a thread", a_def, {"offload": "thread"}),
    ("def in a process", a_def, {"offload": "process"}),
):
    registry.activity(name=name, **options)(handler)


@stock_activity(name="stock")
async def stock(params: dict[str, Any], ctx: StockContext) -> StockResult:
    """Returns where it runs, as a handler of the stock SDK."""
    await asyncio.sleep(0)
    return StockResult.value("place", place())


registry.register(stock)
