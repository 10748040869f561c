"""A handler that belongs into a process, and a light one beside it, for what `advise` says and what that gains."""

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
    await asyncio.sleep(0.01)  # the call itself: this is the workload
