"""The processes' sums and the host's counters when the keeper that adds them up dies, at any store it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from worker_kit import claim, open_segment

from flowherd.ledger import Cause, Cell, Host, Ledger, Life, ProcessTotal, RecordWriter, Standing, Timing

if TYPE_CHECKING:
    from flowherd.ledger import Segment

STORES = 2 * len(Ledger(processes=1, records=1).sums(0)) + 1  # of one move: two for each counter, and the end


class Died(Exception):
    """The keeper was killed."""


class Stores:
    """Cells that are looked at around each store; their writer dies when none is left."""

    def __init__(self, keeper: Keeper, cells: Any) -> None:
        self._keeper = keeper
        self._cells = cells

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def __setitem__(self, index: Any, value: int) -> None:
        self._keeper.store()
        self._cells[index] = value
        self._keeper.look()

    def __iter__(self) -> Any:
        return iter(self._cells)


class Keeper:
    """Settles one ended segment; a reader looks after each of its stores."""

    def __init__(self) -> None:
        self.ledger = Ledger(processes=2, records=4)
        self.segment = open_segment(self.ledger)
        self.segment.add(Cell.COMPLETED, 7)
        self.segment.add(Cell.POLLS, 5)
        self.segment.count(Timing.POLL, 0.5)
        self.stores_left = -1
        self.seen = self.counted()
        self.ledger._sums = Stores(self, self.ledger._sums)  # type: ignore[assignment]
        self.segment._cells = Stores(self, self.segment._cells)  # type: ignore[assignment]
        self.segment._timings = Stores(self, self.segment._timings)  # type: ignore[assignment]

    def counted(self) -> list[int]:
        return [a + b for a, b in zip(self.ledger.sums(0), self.ledger.counts(self.segment), strict=True)]

    def store(self) -> None:
        if self.stores_left == 0:
            self.stores_left = -1
            raise Died
        self.stores_left -= 1

    def look(self) -> None:
        seen = self.counted()
        assert all(now >= before for now, before in zip(seen, self.seen, strict=True))


@pytest.mark.parametrize("store", range(STORES))
def test_a_keeper_that_dies_at_any_store_lowers_no_sum_and_repeats_one_counter_at_most(store: int) -> None:
    """A decreasing counter looks like a reset; being off by one is not worth a transaction."""
    keeper = Keeper()
    keeper.segment.end(Cause.SIGNAL)
    before = keeper.counted()
    keeper.stores_left = store
    with pytest.raises(Died):
        keeper.ledger.absorb(keeper.segment)
    keeper.ledger.absorb(keeper.segment)
    assert keeper.segment.life is Life.FREE
    repeated = [number for number, one in enumerate(keeper.counted()) if one != before[number]]
    assert len(repeated) <= 1
    assert all(keeper.counted()[number] == 2 * before[number] for number in repeated)


def test_a_process_that_garbage_names_costs_its_own_counters() -> None:
    """User code can write anything into its segment."""
    keeper = Keeper()
    keeper.segment.end(Cause.SIGNAL)
    keeper.segment.put(Cell.PROCESS, 2**63)
    keeper.ledger.absorb(keeper.segment)
    assert [keeper.ledger.process_total(index, ProcessTotal.COMPLETED) for index in (0, 1, 2**63)] == [
        0,
        0,
        0,
    ]


def _settled(
    ledger: Ledger, segment: Segment, writer: RecordWriter, counter: Host, standing: Standing
) -> None:
    index, _ = claim(writer)
    record = segment.record(index)
    assert record is not None
    for _ in range(2):
        ledger.conclude(counter, segment, record, standing)
    writer.clear(index)


def test_a_verdict_is_counted_once_however_often_it_is_asked_for() -> None:
    """The scan comes by again before the worker has read it; an activity whose lease is lost may be settled later."""
    ledger = Ledger(processes=1, records=4)
    segment = open_segment(ledger)
    writer = RecordWriter(segment)
    _settled(ledger, segment, writer, Host.LEASES_LOST, Standing.GONE)
    _settled(ledger, segment, writer, Host.SETTLED, Standing.SETTLED)
    assert (ledger.get(Host.LEASES_LOST), ledger.get(Host.SETTLED)) == (1, 1)
