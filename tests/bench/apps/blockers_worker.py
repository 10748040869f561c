"""An unchanged stock worker with light activities and three kinds that block the loop, none of which anybody named."""

from __future__ import annotations

import asyncio
import ctypes
import time
from typing import Any

from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program

_HOLDS_THE_GIL = ctypes.PyDLL(None).usleep


@activity()
async def light(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Waits 30 ms, as a short call to another service does."""
    await asyncio.sleep(0.03)
    return ActivityResult.value("result", 0)


@activity()
async def heavy(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Pure-Python CPU for as many seconds as it is told."""
    total, stop_at = 0, time.process_time() + params["seconds"]
    while time.process_time() < stop_at:
        total += sum(number * number for number in range(2000))
    return ActivityResult.value("result", total)


@activity()
async def sleeper(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Waits without giving the loop up, as `requests` does in an `async def`."""
    time.sleep(params["seconds"])  # noqa: ASYNC251 - that is the mistake
    return ActivityResult.value("result", 0)


@activity()
async def holder(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """A C function that keeps the GIL."""
    left_s = params["seconds"]
    while left_s > 0:
        _HOLDS_THE_GIL(int(min(left_s, 0.9) * 1e6))
        left_s -= 0.9
    return ActivityResult.value("result", 0)


main = program(light, heavy, sleeper, holder)

if __name__ == "__main__":
    asyncio.run(main())
