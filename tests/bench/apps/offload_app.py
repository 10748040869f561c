"""The same handlers on the loop and in isolates, for what an offload costs."""

from __future__ import annotations

import time

from flowherd import Registry

registry = Registry()


def five_ms() -> int:
    """Pure Python for 5 ms of CPU, however the process is interrupted."""
    total, stop_at = 0, time.thread_time() + 0.005
    while time.thread_time() < stop_at:
        total += sum(number * number for number in range(100))
    return total


def size_of(params: dict) -> int:
    """How large a large parameter is."""
    return len(params["text"])


@registry.activity(name="five_ms_on_loop")
async def five_ms_on_loop() -> int:
    return five_ms()


@registry.activity(name="five_ms_isolated", offload="process")
def five_ms_isolated() -> int:
    return five_ms()


@registry.activity(name="size_isolated", offload="process")
def size_isolated(params: dict) -> int:
    return size_of(params)
