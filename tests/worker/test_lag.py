"""How late a loop is, and that nobody measures an idle one."""

from __future__ import annotations

import asyncio

from virtual_time import virtual_time

from flowherd.running.lag import LagProbe


@virtual_time
async def test_a_loop_on_time_has_no_lag_and_an_idle_one_no_timer() -> None:
    """Idle is free: the probe ends with the last handler."""
    busy, seen = [True], []
    probe = LagProbe(lambda: busy[0], seen.append)
    probe.start()
    probe.start()
    await asyncio.sleep(1.0)
    readings = len(seen)
    assert 3 <= readings <= 5
    assert max(seen) < 0.05
    busy[0] = False
    await asyncio.sleep(1.0)
    assert len(seen) == readings + 1
    assert seen[-1] == 0.0
