"""An unchanged stock worker whose activities block the loop, each in a way of its own, or only wait."""

from __future__ import annotations

import asyncio
import ctypes
import re
import time
from typing import Any

from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program

EXPONENTIAL, TEXT = re.compile("(a+)+b"), "a" * 23
libc = ctypes.PyDLL(None)  # whoever calls into it keeps the GIL


@activity()
async def python(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Pure Python, which gives the GIL up now and then, for so many seconds."""
    total, stop_at = 0, time.monotonic() + params["seconds"]
    while time.monotonic() < stop_at:
        total += sum(number * number for number in range(500))
    return ActivityResult.value("result", total)


@activity()
async def regex(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Regular expressions that keep the GIL for some tenths of a second each."""
    tries, stop_at = 0, time.monotonic() + params["seconds"]
    while time.monotonic() < stop_at:
        tries += EXPONENTIAL.match(TEXT) is None
    return ActivityResult.value("result", tries)


@activity()
async def gil(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Keeps the GIL in C code for so many whole seconds, as a badly written extension does."""
    return ActivityResult.value("result", libc.sleep(params["seconds"]))


@activity()
async def wait(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Waits."""
    await asyncio.sleep(params["seconds"])
    return ActivityResult.value("result", 0)


main = program(python, regex, gil, wait)

if __name__ == "__main__":
    asyncio.run(main())
