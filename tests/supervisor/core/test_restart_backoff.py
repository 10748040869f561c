"""The restart policy as tables: pauses between restarts, and giving up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd_supervisor.core.restart_backoff import RestartPolicy

POLICY = RestartPolicy(max_restarts=10, window_s=60.0)


class NoJitter:
    """Random numbers that are always the middle of the range."""

    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2


@pytest.mark.parametrize(
    ("ready_at", "ended_at", "running", "short"),
    [
        (None, 100.0, 0, True),
        (None, 100.0, 3, True),
        (10.0, 10.0, 0, True),
        (10.0, 11.99, 0, True),
        (10.0, 12.0, 0, False),
        (10.0, 11.0, 1, False),
    ],
)
def test_an_end_is_short_before_ready_or_within_2_s_of_it_with_nothing_running(
    ready_at: float | None, ended_at: float, running: int, *, short: bool
) -> None:
    """A crash in an activity is the activity's fault, not the app's."""
    assert POLICY.is_short(ready_at=ready_at, ended_at=ended_at, running=running) is short


@pytest.mark.parametrize(
    ("short_in_row", "wait_s"),
    [
        (1, 0.0),
        (2, 0.5),
        (3, 1.0),
        (4, 2.0),
        (5, 4.0),
        (6, 8.0),
        (7, 16.0),
        (8, 30.0),
        (9, 30.0),
        (10**6, 30.0),
    ],
)
def test_c21_short_ends_wait_0_then_half_a_second_doubling_to_30(short_in_row: int, wait_s: float) -> None:
    """Faults C21."""
    assert POLICY.wait_s(short_in_row, since_start_s=0.1, rng=NoJitter()) == wait_s


@pytest.mark.parametrize(("since_start_s", "wait_s"), [(0.0, 1.0), (0.4, 0.6), (1.0, 0.0), (500.0, 0.0)])
def test_after_any_other_end_it_starts_at_once_but_not_twice_a_second(
    since_start_s: float, wait_s: float
) -> None:
    """A handler that kills its process at once must not cause a restart loop."""
    assert POLICY.wait_s(0, since_start_s=since_start_s, rng=NoJitter()) == pytest.approx(wait_s)


@given(st.integers(2, 1000), st.integers())
def test_waits_are_spread_by_a_fifth_so_that_processes_do_not_start_in_step(
    short_in_row: int, seed: int
) -> None:
    """Jitter, around the value of the table."""
    calm = POLICY.wait_s(short_in_row, since_start_s=0, rng=NoJitter())
    assert calm * 0.8 <= POLICY.wait_s(short_in_row, since_start_s=0, rng=Random(seed)) <= calm * 1.2


def test_waits_differ_from_one_time_to_the_next() -> None:
    """Jitter that is always the same is none."""
    rng = Random(5)
    assert len({POLICY.wait_s(5, since_start_s=0, rng=rng) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("max_restarts", "ends", "gives_up"),
    [
        (10, [100.0] * 10, False),
        (10, [100.0] * 11, True),
        (10, [40.0] * 5 + [100.0] * 10, False),
        (10, [40.1] * 5 + [100.0] * 6, True),
        (1, [99.0, 100.0], True),
        (0, [100.0] * 1000, False),
    ],
)
def test_it_gives_up_at_more_than_max_restarts_short_ends_in_the_window(
    max_restarts: int, ends: list[float], *, gives_up: bool
) -> None:
    """`--max-restarts`: 10 in 60 s; 0 is never. An end exactly one window ago does not count any more."""
    policy = RestartPolicy(max_restarts=max_restarts, window_s=60.0)
    assert policy.gives_up(tuple(ends), now=100.0) is gives_up
