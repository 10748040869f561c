"""The lag of a loop, which is not measured while it is idle."""

from __future__ import annotations

import asyncio

from virtual_time import virtual_time

from flowherd.execution.loop_lag import LagProbe


class Readings:
    """Stores the readings."""

    def __init__(self) -> None:
        self.began = 0
        self.seen: list[float] = []

    def begins(self) -> None:
        self.began += 1

    def reads(self, late_s: float, elapsed_s: float, smoothed_s: float) -> None:
        assert elapsed_s == 0.25 + late_s
        self.seen.append(smoothed_s)


@virtual_time
async def test_a_loop_on_time_has_no_lag_and_an_idle_one_no_timer() -> None:
    """Idle is free: the probe ends with the last handler."""
    busy, readings = [True], Readings()
    probe = LagProbe(lambda: busy[0], readings)
    probe.start()
    probe.start()
    await asyncio.sleep(1.0)
    seen = readings.seen
    count = len(seen)
    assert 3 <= count <= 5
    assert max(seen) < 0.05
    busy[0] = False
    await asyncio.sleep(1.0)
    assert len(seen) == count + 1
    assert seen[-1] == 0.0
    assert readings.began == 1
