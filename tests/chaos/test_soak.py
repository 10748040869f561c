"""The chaos soak in small, for every build, and in full with --soak (scorecard M1, M2)."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from chaos.storm import CALM, HARASSED, HARASSED_SHORT, LONG, SHORT, SUSPICIOUS, Profile, storm

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
