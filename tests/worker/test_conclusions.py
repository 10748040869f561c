"""Verdicts that are counted when the keeper that counts them dies, at any store it makes."""

from __future__ import annotations

import pytest
from worker_kit import claim, open_segment

from flowherd.ledger import Host, Ledger, RecordWriter, Standing
from flowherd.ledger.conclusions import Conclusions

STORES = 6  # of one conclusion, but for the verdict's own


class Died(Exception):
    """The keeper was killed."""


class Cells(list):
    """The host's cells, which outlive their writer; it dies at the store for which nothing is left."""

    def __init__(self) -> None:
        super().__init__([0] * len(Host))
        self.stores_left = -1

    def __setitem__(self, index: object, value: object) -> None:
        if self.stores_left == 0:
            self.stores_left = -1
            raise Died
        self.stores_left -= 1
        super().__setitem__(index, value)  # type: ignore[call-overload]


class Keepers:
    """One after the other on the same memory."""

    def __init__(self) -> None:
        self.ledger = Ledger(processes=1, records=4)
        self.segment = open_segment(self.ledger)
        self.writer = RecordWriter(self.segment)
        self.cells = Cells()
        self.start()

    def start(self) -> None:
        self.keeper = Conclusions(self.cells, self.ledger.segments)

    def settle(self, place: tuple[int, int]) -> None:
        """What a keeper does: it passes over what has its verdict."""
        index, sequence = place
        if self.segment.standing(index, sequence) is not Standing.SETTLED:
            record = self.segment.record(index)
            assert record is not None
            self.keeper.conclude(Host.SETTLED, self.segment, record, Standing.SETTLED)


@pytest.mark.parametrize("store", range(STORES))
@pytest.mark.parametrize("other_first", [False, True])
def test_a_keeper_that_dies_at_any_store_counts_each_activity_once(store: int, *, other_first: bool) -> None:
    """The successor may begin with another activity."""
    keepers = Keepers()
    places = [claim(keepers.writer, activity_id=f"a-{number}") for number in range(2)]
    keepers.cells.stores_left = store
    with pytest.raises(Died):
        keepers.settle(places[0])
    keepers.start()
    for place in reversed(places) if other_first else places:
        keepers.settle(place)
    assert keepers.cells[Host.SETTLED] == 2
    assert [keepers.segment.standing(*place) for place in places] == [Standing.SETTLED] * 2


def test_a_conclusion_has_no_more_stores_than_that() -> None:
    """Else the test above would leave some out."""
    keepers = Keepers()
    keepers.cells.stores_left = STORES
    keepers.settle(claim(keepers.writer))
    assert keepers.cells.stores_left == 0


def test_the_same_verdict_is_counted_once_and_another_one_for_itself() -> None:
    """An activity whose lease was lost may be settled later: two counters."""
    keepers = Keepers()
    index, _ = claim(keepers.writer)
    record = keepers.segment.record(index)
    assert record is not None
    for counter, standing in ((Host.LEASES_LOST, Standing.GONE), (Host.SETTLED, Standing.SETTLED)):
        for _ in range(2):
            keepers.keeper.conclude(counter, keepers.segment, record, standing)
    assert (keepers.cells[Host.LEASES_LOST], keepers.cells[Host.SETTLED]) == (1, 1)


def test_a_place_that_was_used_again_keeps_its_own_standing() -> None:
    """The keeper died in between, and the worker has gone on meanwhile."""
    keepers = Keepers()
    index, _ = claim(keepers.writer)
    record = keepers.segment.record(index)
    assert record is not None
    keepers.cells.stores_left = STORES - 1
    with pytest.raises(Died):
        keepers.keeper.conclude(Host.LEASES_LOST, keepers.segment, record, Standing.GONE)
    keepers.writer.clear(index)
    later = claim(keepers.writer, activity_id="a-2")
    keepers.start()
    keepers.settle(later)
    assert keepers.segment.standing(*later) is Standing.SETTLED
    assert (keepers.cells[Host.LEASES_LOST], keepers.cells[Host.SETTLED]) == (1, 1)
