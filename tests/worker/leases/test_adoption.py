"""What a dead process had not begun goes to another one, exactly once, whoever dies at whatever store."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from adoption_world import World

BLOCKS = 4


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_claim_is_begun_at_most_once_and_never_lost_whoever_dies_at_whatever_store(
    block: int, request: pytest.FixtureRequest
) -> None:
    """Random histories of processes and keepers that die and go on between any two stores; a failure names its seed."""
    each = 1_000 if request.config.getoption("--soak") else 60
    counts: Counter[str] = Counter()
    for seed in range(block * each, (block + 1) * each):
        world = World(seed)
        try:
            asyncio.run(world.run())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        counts += world.counts
    assert counts["adopted"] > 100
    assert counts["keepers killed"] > 100
    assert counts["not begun"] > 10
