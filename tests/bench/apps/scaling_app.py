"""The handler with a fixed amount of pure Python, written for flowherd."""

from __future__ import annotations

from rounds import work

from flowherd import Registry

registry = Registry()


@registry.activity(name="work")
async def work_on_loop(rounds: int) -> int:
    return work(rounds)
