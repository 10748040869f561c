"""A handler that should run in a process, and a light one beside it, for tests of `advise`."""

from __future__ import annotations

import asyncio
import time

from flowherd import Registry

registry = Registry()


@registry.activity
async def python(cpu_s: float) -> None:
    """Pure Python on the loop."""
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        sum(range(500))


@registry.activity
async def light() -> None:
    """Waits, as a short call to another service does."""
    await asyncio.sleep(0.01)  # the workload itself
