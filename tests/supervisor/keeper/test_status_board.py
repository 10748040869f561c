"""Reachability of the engine and readiness of the host in the status document."""

from __future__ import annotations

import time

import pytest

from flowherd.ledger import Cell, Clock, Ledger
from flowherd_supervisor.keeper.status import GOOD_POLL_WITHIN_S, StatusBoard

GOOD, BAD = Clock.LAST_GOOD_POLL, Clock.LAST_BAD_POLL


def board(*segments: dict[Clock, float]) -> StatusBoard:
    """Builds the board of a ledger whose workers polled the given seconds ago."""
    ledger = Ledger(processes=4, records=1)
    for number, clocks in enumerate(segments):
        segment = ledger.free_segment()
        assert segment is not None
        segment.open(index=number, incarnation=1, now=0.0)
        segment.put(Cell.OPENED, segment.get(Cell.STARTED))  # as the worker does
        segment.set_clock(Clock.READY_AT, time.monotonic() - 1)
        for clock, ago_s in clocks.items():
            segment.set_clock(clock, time.monotonic() - ago_s)
        segment.set_clock(Clock.POLL_RTT_S, 0.003 if GOOD in clocks else 0.0)
    return StatusBoard(ledger, "http://127.0.0.1:8080", "0", 1, time.monotonic())


@pytest.mark.parametrize(
    ("segments", "reachable", "ready"),
    [
        ([], False, False),
        ([{}], False, False),
        ([{BAD: 1}], False, False),
        ([{GOOD: 1}], True, True),
        ([{GOOD: 60}], True, True),
        ([{GOOD: 2, BAD: 1}], False, True),
        ([{GOOD: 1, BAD: 2}], True, True),
        ([{GOOD: GOOD_POLL_WITHIN_S + 1, BAD: 1}], False, False),
        ([{GOOD: 1}, {GOOD: 60, BAD: 5}], True, True),
        ([{GOOD: 60}, {BAD: 1}], False, True),
    ],
)
def test_the_latest_news_counts_and_full_slots_are_no_outage(
    segments: list[dict[Clock, float]], reachable: object, ready: object
) -> None:
    """A host with full slots does not poll and is still ready."""
    seen = board(*segments)
    assert seen.document()["engine"]["reachable"] is reachable
    assert seen.is_ready() is ready
