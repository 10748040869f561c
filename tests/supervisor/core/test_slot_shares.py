"""The number of processes, and the split of the host's slots over them (faults.md P18)."""

from __future__ import annotations

import pytest
from brain import Brain
from hypothesis import given
from hypothesis import strategies as st

from flowherd.settings.sizes_and_warnings import choose_sizes
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import SetSlots
from flowherd_supervisor.core.plan import Plan, split


@pytest.mark.parametrize(
    ("total", "processes", "shares"),
    [(10, 4, (3, 3, 2, 2)), (2, 2, (1, 1)), (4, 1, (4,)), (16, 4, (4, 4, 4, 4)), (5, 3, (2, 2, 1))],
)
def test_p18_the_larger_shares_come_first(total: int, processes: int, shares: tuple[int, ...]) -> None:
    """Faults P18."""
    assert split(total, processes) == shares
    assert Plan(processes=processes, concurrency=total).shares == shares


@given(st.data())
def test_p18_shares_add_up_and_differ_by_one_at_most(data: st.DataObject) -> None:
    """No slot is lost or added, and no process is favoured."""
    total = data.draw(st.integers(1, 10_000))
    shares = split(total, data.draw(st.integers(1, min(total, 1024))))
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert list(shares) == sorted(shares, reverse=True)


@pytest.mark.parametrize(("total", "processes"), [(2, 4), (0, 1), (3, 0), (1, -1)])
def test_p18_a_process_without_a_slot_is_refused(total: int, processes: int) -> None:
    """Fewer processes must start instead."""
    with pytest.raises(ValueError, match="cannot be split"):
        split(total, processes)


@pytest.mark.parametrize(
    ("processes", "concurrency", "cpus", "sizes"),
    [
        (None, None, 2, (2, 16)),
        (None, None, 8, (8, 32)),
        (None, None, 512, (256, 1024)),
        (6, None, 2, (6, 24)),
        (1, None, 64, (1, 16)),
        (None, 2, 8, (2, 2)),
        (None, 100, 8, (8, 100)),
        (3, 3, 8, (3, 3)),
    ],
)
def test_when_only_one_size_is_explicit_the_other_follows_it(
    processes: int | None, concurrency: int | None, cpus: int, sizes: tuple[int, int]
) -> None:
    """max(16, 4 x processes); with 2 slots 2 processes start."""
    assert choose_sizes(processes, concurrency, cpus) == sizes


def test_two_explicit_sizes_that_contradict_are_refused_with_both_remedies() -> None:
    """It is unknown which of the two was meant."""
    with pytest.raises(ValueError, match=r"--concurrency 4 or more, or --processes 2 or fewer"):
        choose_sizes(4, 2, 8)


@given(st.none() | st.integers(1, 64), st.none() | st.integers(1, 500), st.integers(1, 128))
def test_every_choice_that_is_not_refused_can_be_split(
    processes: int | None, concurrency: int | None, cpus: int
) -> None:
    """Whatever is left to us must fit."""
    if processes is None or concurrency is None or concurrency >= processes:
        chosen_processes, chosen_concurrency = choose_sizes(processes, concurrency, cpus)
        assert len(split(chosen_concurrency, chosen_processes)) == chosen_processes


def test_slots_that_a_process_may_still_use_are_given_back_to_it_at_once() -> None:
    """One process more, then one fewer before a process has applied the first order: no other got its slots."""
    brain = Brain(1).serve()
    assert SetSlots(0, 1, 3, 1) in brain.hears(events.ScaleRequested(2))
    assert SetSlots(0, 1, 5, 2) in brain.hears(events.ScaleRequested(1))
