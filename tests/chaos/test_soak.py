"""The chaos soak in small, for every build, and in full with --soak (scorecard M1, M2)."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from chaos.kill_storm import KillStorm
from chaos.storm import CALM, HARASSED, HARASSED_SHORT, LONG, SHORT, SUSPICIOUS, Profile, storm
from chaos.world import World

if TYPE_CHECKING:
    from pathlib import Path

FIXED_SEED = 20261124
pytestmark = pytest.mark.fork


def _seed() -> int:
    return FIXED_SEED if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("profile", [SHORT, HARASSED_SHORT], ids=["killed", "killed-and-frozen"])
def test_nothing_is_lost_doubled_or_repeated_without_a_fault_in_a_short_storm(
    tmp_path: Path, profile: Profile
) -> None:
    """M1, I1 to I8: kills, freezes, engine restarts, resets; the engine and the handlers are the witnesses."""
    seed = _seed()
    judgement = storm(tmp_path, profile, seed)
    assert judgement.is_good, f"seed {seed}\n{judgement}"
    struck = judgement.counts["kills"] + judgement.counts["freezes"]
    assert struck >= 2, f"seed {seed}: a storm that strikes nobody proves nothing"


SUSPICIOUS_SEEDS = range(FIXED_SEED, FIXED_SEED + 20)


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SUSPICIOUS_SEEDS)
def test_among_killers_and_kills_no_healthy_activity_ends_as_poison_and_every_killer_does(
    tmp_path: Path, seed: int
) -> None:
    """Activities beside a crash run in an isolate once and are cleared then; they lose one attempt at most."""
    judgement = storm(tmp_path, SUSPICIOUS, seed)
    assert judgement.is_good, f"seed {seed}\n{judgement}"
    assert judgement.counts["kills"] >= 3 + 2, f"seed {seed}: a storm that strikes nobody proves nothing"


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("profile", [LONG, HARASSED, CALM], ids=["killed", "killed-and-frozen", "calm"])
def test_nothing_is_lost_doubled_or_repeated_without_a_fault_in_a_long_storm(
    tmp_path: Path, profile: Profile
) -> None:
    """M1, M2 in full."""
    seed = _seed()
    judgement = storm(tmp_path, profile, seed)
    assert judgement.is_good, f"seed {seed}\n{judgement}"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_activities_are_each_begun_once_whoever_is_killed(tmp_path: Path) -> None:
    """C3: workers, keepers and supervisors die, at random times and at stores; only what had begun is requeued."""
    seed = _seed()
    with World(tmp_path, seed=seed, lease_s=5.0) as world:
        tally = KillStorm(world).run(10_000, within_s=1500)
    assert tally.is_good, f"seed {seed}: {tally}"
    assert tally.counts["adopted"] > 100
    assert tally.counts["worker kills"] > 50
