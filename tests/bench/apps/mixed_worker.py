"""An unchanged stock worker with light and heavy activities; runs under `python` and under `flowherd run … :main`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program


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


main = program(light, heavy)

if __name__ == "__main__":
    asyncio.run(main())
