"""Delays after failures."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.backoff import Backoff


@given(st.integers(-5, 10_000), st.integers())
def test_a_delay_is_never_below_a_tenth_of_its_ceiling_or_above_it(failures: int, seed: int) -> None:
    """Full jitter (protocol.md R14), but a lucky draw must not become a busy loop."""
    ceiling = min(10.0, 0.1 * 2.0 ** min(max(failures - 1, 0), 32))
    delay = Backoff().delay_s(failures, random.Random(seed))
    assert ceiling / 10 <= delay <= ceiling


def test_delays_grow_from_a_tenth_of_a_second_to_ten() -> None:
    class Longest:
        def uniform(self, _: float, b: float, /) -> float:
            return b

    delays = [Backoff().delay_s(failures, Longest()) for failures in range(1, 10)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.mark.parametrize(
    ("asked_s", "least_s"), [(5.0, 5.0), (60.0, 60.0), (61.0, 60.0), (1e9, 60.0), (-3.0, 0.0), (0.0, 0.0)]
)
def test_the_engines_wish_is_a_floor_of_at_most_a_minute(asked_s: float, least_s: float) -> None:
    """Faults E7."""
    delay = Backoff().delay_s(1, random.Random(1), asked_s=asked_s)
    assert max(least_s, 0.01) <= delay <= max(least_s, 0.1)
