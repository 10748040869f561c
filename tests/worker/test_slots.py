"""Slots: the resizable permits of one worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.working.slots import Slots


class Changes:
    def __init__(self) -> None:
        self.seen = 0

    def __call__(self) -> None:
        self.seen += 1


def test_take_gives_what_is_free_and_never_more() -> None:
    slots = Slots(4, Changes())
    assert [slots.take(3), slots.take(3), slots.take(3)] == [3, 1, 0]
    assert repr(slots) == "<Slots [4 held of 4]>"


def test_a_shrunken_limit_takes_permits_away_as_they_are_given_back() -> None:
    """Shares move between processes while activities run; none of those is stopped for it."""
    slots = Slots(4, Changes())
    slots.take(4)
    slots.resize(2)
    assert (slots.held, slots.free) == (4, 0)
    slots.give_back(2)
    assert slots.take(1) == 0
    slots.give_back()
    assert slots.take(5) == 1


def test_only_a_change_is_told() -> None:
    """Whoever is told looks again: telling nothing new would make it spin."""
    changes = Changes()
    slots = Slots(1, changes)
    slots.take(1)
    slots.take(1)
    slots.give_back(0)
    assert changes.seen == 1
    slots.give_back()
    slots.resize(3)
    assert changes.seen == 3


def test_more_is_never_given_back_than_was_taken() -> None:
    slots = Slots(4, Changes())
    slots.take(2)
    with pytest.raises(AssertionError):
        slots.give_back(3)
    assert slots.held == 2


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(0, 9)),
            st.tuples(st.just("give back"), st.integers(0, 9)),
            st.tuples(st.just("resize"), st.integers(0, 9)),
        )
    )
)
def test_counts_stay_right_over_any_history(steps: list[tuple[str, int]]) -> None:
    slots, held = Slots(4, Changes()), 0
    for step, n in steps:
        match step:
            case "take":
                taken = slots.take(n)
                assert taken <= n
                assert not taken or held + taken <= slots.limit
                held += taken
            case "give back":
                slots.give_back(min(n, held))
                held -= min(n, held)
            case _:
                slots.resize(n)
        assert slots.held == held
        assert slots.free == max(0, slots.limit - held)
