"""A handler with a fixed amount of pure Python: what it takes longer beside others is lost."""

from __future__ import annotations

from flowherd import Registry

registry = Registry()


def work(rounds: int) -> int:
    """So many rounds of integers and a generator."""
    total = 0
    for _ in range(rounds):
        total += sum(number * number for number in range(100))
    return total


@registry.activity(name="work")
async def work_on_loop(rounds: int) -> int:
    return work(rounds)
