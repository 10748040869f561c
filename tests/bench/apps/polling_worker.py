"""An unchanged stock worker for the polling bench; runs under `python` and under `flowherd run … :main`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program


@activity()
async def stamp(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Says when it began, on the clock that all processes of a machine share."""
    return ActivityResult.value("started_at", time.monotonic())


@activity()
async def spin(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Pure-Python CPU for as many seconds as it is told."""
    begun_at, stop_at = time.monotonic(), time.process_time() + params["seconds"]
    while time.process_time() < stop_at:
        sum(number * number for number in range(2000))
    return ActivityResult.value("started_at", begun_at)


@activity()
async def wait(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Waits for as many seconds as it is told."""
    await asyncio.sleep(params["seconds"])
    return ActivityResult.value("result", 0)


main = program(stamp, spin, wait)

if __name__ == "__main__":
    asyncio.run(main())
