"""The bench's application: one activity that waits and computes as long as it is told; it measures nothing.

`flowherd run flowherd_supervisor.bench.activities:registry` hosts it on any engine.
"""

from __future__ import annotations

import asyncio
import time

from flowherd import Registry

registry = Registry()


@registry.activity(name="step")
async def step(wait_s: float, rounds: int) -> dict[str, int]:
    """Wait without the CPU, then compute in pure Python, which holds the loop and the GIL."""
    if wait_s > 0:
        await asyncio.sleep(wait_s)
    return {"result": compute(rounds)}


def compute(rounds: int) -> int:
    """The same work on every machine: a number goes through a linear congruence `rounds` times."""
    number = 1
    for _ in range(rounds):
        number = (number * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return number


def rounds_a_ms(probe: int = 200_000, tries: int = 5) -> float:
    """How many rounds take a millisecond of this machine's CPU; the best of some tries, noise only slows."""
    best_s = float("inf")
    for _ in range(tries):
        begun_s = time.process_time()
        compute(probe)
        best_s = min(best_s, time.process_time() - begun_s)
    return probe / best_s / 1e3
