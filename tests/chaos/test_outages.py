"""Outages longer than a lease: activities still held must not be claimed by another process (faults.md N6)."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from chaos.world import World
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIXED_SEED = 20261128
AT_WORK, SECONDS = 16, 2.0
REAL_SWEEP_S = 30.0  # protocol.md fact 6: a poll takes what has lapsed long before


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An engine with leases of 3 s, and two processes that hold 16 activities between them."""
    with World(tmp_path, seed=_seed(), sweep_s=REAL_SWEEP_S) as world:
        world.start_host(processes=2, slots=AT_WORK, past_the_proxy=True)
        yield world


def _seed() -> int:
    return FIXED_SEED if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)


def repeated(
    world: World, repetitions: int, longest_s: float = 10.0, *, frozen: bool = False
) -> Counter[str]:
    """Repeats outages while all are at work; returns the claims of activities that ran twice."""
    assert world.host is not None
    for number in range(1, repetitions + 1):
        world.submit_work(AT_WORK, (SECONDS, SECONDS), in_thread=0.0)
        eventually(lambda: len(world.notes("start")) >= len(world.submitted), "16 at work")
        threading.Event().wait(world.rng.uniform(0.0, 1.5))
        if frozen:
            world.host.freeze(1)
        world.restart_engine(away_s=world.rng.uniform(5.0, longest_s))
        if frozen:
            _polls_go_on(world)
            world.host.thaw(1)
        world.until_done(30)
        again = _again(world)
        print(f"outage {number}: {sum(again.values())} ran again so far", flush=True)
    return _again(world)


def _again(world: World) -> Counter[str]:
    claims = world.engine.claims_per_activity()
    return Counter({activity_id: count - 1 for activity_id, count in claims.items() if count > 1})


def _polls_go_on(world: World) -> None:
    """Asserts that the process that is not frozen gets work and completes it."""
    [workflow] = world.engine.submit("work", 1, number=0, seconds=0.01)
    world.submitted.add(workflow)
    world.engine.ended(workflow, within_s=30)


@pytest.mark.timeout(90)
def test_n6_after_an_outage_nothing_runs_twice(world: World) -> None:
    """N6: the engine is away for 5 s under leases of 3 s; each process finds out by itself when it is back."""
    assert not repeated(world, 1, 5.0)
    assert world.ended() == len(world.submitted)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("frozen", [False, True], ids=["all-awake", "one-frozen"])
def test_n6_after_fifty_outages_nothing_has_run_twice(world: World, *, frozen: bool) -> None:
    """N6: also while one of the two processes is frozen: it blocks nobody, and keeps its leases."""
    again = repeated(world, int(os.environ.get("FLOWHERD_OUTAGES", "50")), frozen=frozen)
    assert not again, f"{sum(again.values())} of {len(world.submitted)} ran again"
    assert world.ended() == len(world.submitted)
