"""Prints what the ledger costs an activity in CPU time; run it as a program. It asserts nothing."""

from __future__ import annotations

import time

from flowherd.ledger import Ledger, RecordBook

ROUNDS, ACTIVITIES = 7, 20_000
IDS = [f"0193a1b2-0000-7000-8000-{number:012x}" for number in range(64)]
WORKER_ID = "a-host-name-3121-9f2c01-1234"
COMPLETION = b'{"worker_id":"a-host-name-3121-9f2c01-1234","output":{"result":42}}'


def one_life_us(completion: bytes | None) -> float:
    """Microseconds of CPU for claim + running + reporting + clear, the best of some rounds."""
    ledger = Ledger(seats=1, records=110)
    berth = ledger.berths[0]
    berth.open(seat=0, incarnation=1, now=0.0)
    book = RecordBook(berth)
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for number in range(ACTIVITIES):
            index, _ = book.claim(IDS[number & 63], WORKER_ID, "resize_image", now=1.0, lease_s=60.0)
            book.running(index, now=1.0, limit_s=300.0)
            book.reporting(index, completion)
            book.clear(index)
        best = min(best, time.process_time() - begun)
    return best / ACTIVITIES * 1e6


def scan_us(held: int) -> float:
    """Microseconds of CPU for a keeper's look at a berth with `held` records."""
    ledger = Ledger(seats=1, records=500)
    berth = ledger.berths[0]
    berth.open(seat=0, incarnation=1, now=0.0)
    book = RecordBook(berth)
    for number in range(held):
        book.claim(IDS[number & 63], WORKER_ID, "resize_image", now=1.0, lease_s=60.0)
    begun = time.process_time()
    for _ in range(100):
        assert sum(1 for _ in berth.records()) == held
    return (time.process_time() - begun) / 100 * 1e6


if __name__ == "__main__":
    print(f"claim + running + reporting + clear, result kept: {one_life_us(COMPLETION):.2f} us")
    print(f"claim + running + reporting + clear, nothing kept: {one_life_us(None):.2f} us")
    print(f"keeper's scan of 100 records: {scan_us(100):.0f} us")
