"""The number of times this host has claimed an activity, counted over all its processes."""

from __future__ import annotations

import random
from collections import Counter

from flowherd.ledger import Ledger
from flowherd.ledger.earlier_attempts import PLACES, SeenCounts, SeenRow, area_bytes


def table(rows: int = 3) -> SeenCounts:
    return SeenCounts(memoryview(bytearray(area_bytes(rows))))


def test_every_process_reads_what_the_others_and_the_keeper_have_counted() -> None:
    """A retry goes to the first process that polls."""
    ledger = Ledger(processes=2, records=8)
    ledger.seen.of(0).add("a-1")
    ledger.seen.of(0).add("a-1")
    ledger.seen.of(len(ledger.segments) - 1).add("a-1")
    ledger.seen.keeper.add("a-1")
    assert [ledger.seen.of(row).earlier("a-1") for row in (0, 1)] == [4, 4]
    assert ledger.seen.earlier("a-2") == 0


def test_it_survives_the_process_that_has_counted() -> None:
    """Its successor has the same row, or another one."""
    ledger = Ledger(processes=1, records=8)
    segment = ledger.segments[0]
    ledger.seen.of(0).add("a-1")
    segment.open(index=0, incarnation=1, now=0.0)
    assert ledger.seen.earlier("a-1") == 1


def test_it_never_counts_too_much_and_forgets_the_oldest_first() -> None:
    """Where two activities share a place the newer one has it."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    row, counts = table(1).of(0), Counter[str]()
    for _ in range(4 * PLACES):
        name = f"a-{rng.randrange(2 * PLACES)}"
        row.add(name)
        counts[name] += 1
        assert row.earlier(name) >= 1
    assert all(row.earlier(name) <= count for name, count in counts.items()), seed


def test_a_count_ends_where_its_cell_does() -> None:
    """It must not run into the mark of its activity."""
    row = SeenRow.alone()
    for _ in range(70_000):
        row.add("a-1")
    assert row.earlier("a-1") == 65_535
