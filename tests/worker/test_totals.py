"""The processes' sums when the keeper that adds them up dies, at any store it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.ledger.totals import ProcessTotals, cells_needed

SEATS, SEGMENTS, WIDTH = 2, 3, 2


class Died(Exception):
    """The keeper was killed."""


class Cells(list):
    """Shared memory that is looked at around each store, and outlives its writer, who dies when `dies_in` is 0."""

    def __init__(self, count: int) -> None:
        super().__init__([0] * count)
        self.dies_in = -1
        self.look = lambda: None

    def __setitem__(self, index: SupportsIndex | slice, value: object) -> None:
        self.look()
        if self.dies_in == 0:
            self.dies_in = -1
            raise Died
        self.dies_in -= 1
        super().__setitem__(index, value)
        self.look()


@dataclass
class Host:
    """Segments that live and end, a keeper that moves what they counted, and what the sums should be."""

    cells: Cells = field(default_factory=lambda: Cells(cells_needed(SEATS, SEGMENTS, WIDTH)))
    lives: list[int] = field(default_factory=lambda: [0] * SEGMENTS)
    ended: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    expected: dict[int, list[int]] = field(
        default_factory=lambda: {index: [0] * WIDTH for index in range(SEATS)}
    )

    def __post_init__(self) -> None:
        self.cells.look = self.check
        self.totals = ProcessTotals(self.cells, SEGMENTS, WIDTH)

    def end(self, segment: int, index: int, counted: list[int]) -> None:
        """An incarnation ends; its segment must be settled before it is used again."""
        if segment in self.ended:
            self.settle(segment)
        self.lives[segment] += 1
        self.ended[segment] = (index, counted)
        self.expected[index] = [a + b for a, b in zip(self.expected[index], counted, strict=True)]

    def settle(self, segment: int) -> None:
        """The keeper moves and frees; one that has died is followed by another, which begins anew."""
        process, counted = self.ended[segment]
        while True:
            try:
                self.totals.move(segment, self.lives[segment], process, counted)
            except Died:
                self.totals = ProcessTotals(self.cells, SEGMENTS, WIDTH)
                return
            del self.ended[segment]
            return

    def check(self) -> None:
        """What a reader adds up, at this instant."""
        for process, sums in self.expected.items():
            found = [self.totals.total(process, counter) for counter in range(WIDTH)]
            for segment, (of, counted) in self.ended.items():
                if of == process and not self.totals.has(segment, self.lives[segment]):
                    found = [a + b for a, b in zip(found, counted, strict=True)]
            assert found == sums, (process, self.cells)


_segments, _counts = st.integers(0, SEGMENTS - 1), st.lists(st.integers(0, 9), min_size=WIDTH, max_size=WIDTH)
_ends = st.tuples(st.just("end"), _segments, st.integers(0, SEATS - 1), _counts)
_settles = st.tuples(st.just("settle"), _segments, st.integers(-1, 2 * WIDTH + 6))


@given(st.lists(_ends | _settles, max_size=30))
def test_a_keeper_that_dies_at_any_store_counts_nothing_twice_and_loses_nothing(steps: list) -> None:
    """Not at the end, and not for a reader that looks between two stores."""
    host = Host()
    for kind, segment, *rest in steps:
        if kind == "end":
            host.end(segment, *rest)
        elif segment in host.ended:
            host.cells.dies_in = rest[0]
            host.settle(segment)
            host.cells.dies_in = -1
        host.check()
    for segment in sorted(host.ended):
        host.settle(segment)
    assert not host.ended
    host.check()


@pytest.mark.parametrize("store", range(2 * WIDTH + 6))
def test_each_store_of_a_move_is_one_the_keeper_may_die_at(store: int) -> None:
    """So many stores there are, and the successor may begin with another segment."""
    host = Host()
    host.end(0, 1, [3, 4])
    host.end(1, 1, [50, 60])
    host.cells.dies_in = store
    host.settle(0)
    assert host.cells.dies_in == -1
    assert 0 in host.ended
    host.settle(1)
    host.settle(0)
    assert [host.totals.total(1, counter) for counter in range(WIDTH)] == [53, 64]


def test_a_move_changes_the_mark_and_a_look_does_not() -> None:
    """A reader in another thread looks again when something moved while it added up."""
    host = Host()
    host.end(0, 0, [1, 1])
    before = host.totals.mark
    host.check()
    assert host.totals.mark == before
    host.settle(0)
    assert host.totals.mark != before
