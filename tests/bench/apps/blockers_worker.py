"""An unchanged stock worker with light activities and three kinds that block the loop, none of which anybody named."""

from __future__ import annotations

import asyncio
import ctypes
import time
from typing import Any

from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from mixed_worker import heavy, light
from stock_program import program

_HOLDS_THE_GIL = ctypes.PyDLL(None).usleep


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
