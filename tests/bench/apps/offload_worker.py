"""An unchanged stock worker whose activities compute or wait; where they run is for the settings file to say."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program

NUMBERS = np.random.default_rng(7).random(1_000_000)


@activity()
async def numbers(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Some 50 ms of C code that gives the GIL up."""
    found = np.empty_like(NUMBERS)
    for _ in range(4):
        np.sin(NUMBERS, out=found)
    return ActivityResult.value("result", float(found[0]))


@activity()
async def python(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """50 ms of pure Python, for so much CPU of its own thread."""
    total, stop_at = 0, time.thread_time() + 0.05
    while time.thread_time() < stop_at:
        total += sum(number * number for number in range(500))
    return ActivityResult.value("result", total)


@activity()
async def wait(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Waits half a second, as a call to another service does."""
    await asyncio.sleep(0.5)
    return ActivityResult.value("result", 0)


main = program(numbers, python, wait)

if __name__ == "__main__":
    asyncio.run(main())
