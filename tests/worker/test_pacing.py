"""When to poll next, simulated without a clock."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from flowherd.core.pacing import IDLE_AFTER_S, SOON_S, Pace, delay_s


def simulate(
    pace: Pace, begun: float, until: float, *, interval_s: float = 0.1, seed: int = 1
) -> list[float]:
    """The times of polls that find nothing, each taking 1 ms."""
    rng, now, polls = random.Random(seed), begun, []
    while now < until:
        pace = pace.after_poll(0, now)
        now += 0.001 + delay_s(pace, interval_s=interval_s, interval_max_s=2.0, now=now, rng=rng)
        polls.append(now)
    return polls


def test_after_work_the_next_poll_comes_at_once() -> None:
    """A full queue is emptied as fast as slots get free."""
    pace = Pace(empty=9, last_work_at=0.0).after_poll(3, now=50.0)
    assert delay_s(pace, interval_s=0.1, interval_max_s=2.0, now=50.0, rng=random.Random(1)) == SOON_S


def test_after_a_completion_the_next_poll_comes_at_once() -> None:
    """It usually makes the next step of the workflow ready."""
    pace = Pace(empty=500, last_work_at=0.0).after_completion(now=50.0)
    assert delay_s(pace, interval_s=0.1, interval_max_s=2.0, now=50.0, rng=random.Random(1)) == SOON_S


def test_without_work_polls_slow_down_to_the_interval_and_later_to_the_longest_one() -> None:
    polls = simulate(Pace(last_work_at=0.0), 0.0, 300.0)
    in_the_first_second = sum(at < 1.0 for at in polls)
    per_second_soon = sum(1.0 <= at < IDLE_AFTER_S for at in polls) / (IDLE_AFTER_S - 1.0)
    per_second_at_last = sum(at >= 200.0 for at in polls) / 100.0
    assert 10 <= in_the_first_second <= 20
    assert 8 <= per_second_soon <= 12
    assert 0.4 <= per_second_at_last <= 0.65


def test_children_forked_together_do_not_stay_in_phase() -> None:
    """Forked children begin together; without jitter they would poll together for ever."""
    ninth = {round(simulate(Pace(), 0.0, 3.0, seed=seed)[8], 3) for seed in range(8)}
    assert len(ninth) == 8


@given(
    st.integers(0, 10**9),
    st.floats(0, 1e9),
    st.floats(0.001, 100.0),
    st.floats(0.001, 100.0),
    st.integers(),
)
def test_a_delay_is_positive_and_bounded_whatever_happened(
    empty: int, idle_s: float, interval_s: float, longest_s: float, seed: int
) -> None:
    delay = delay_s(
        Pace(empty, 0.0), interval_s=interval_s, interval_max_s=longest_s, now=idle_s, rng=random.Random(seed)
    )
    assert 0 < delay <= 1.2 * max(interval_s, longest_s, SOON_S)
