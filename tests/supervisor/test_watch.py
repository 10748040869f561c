"""What the supervisor finds in a ledger between two events: a real one, and this process as the worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from brain import Brain
from worker_kit import claim, open_berth

from flowherd.ledger import Ledger, RecordBook
from flowherd.process.link import Link
from flowherd_supervisor.core.events import KeeperLate
from flowherd_supervisor.forking.processes import Handle
from flowherd_supervisor.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1000.0


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(seats=1, records=4)


@pytest.fixture
def worker(ledger: Ledger) -> Iterator[Handle]:
    """A worker that holds a lease of 60 s."""
    ours, theirs = Link.pair()
    berth = open_berth(ledger)
    claim(RecordBook(berth))
    yield Handle(0, 1, os.getpid(), -1, ours, (berth,), os.memfd_create("stacks"))
    ours.close()
    theirs.close()


def late(ledger: Ledger, worker: Handle, *, at: float) -> list[float]:
    """By how much the keeper is found late at a look."""
    watch = Watch(ledger, at - 0.5)
    state = Brain().serve().state
    return [fact.late_s for fact in watch.look(state, [worker], at) if isinstance(fact, KeeperLate)]


def test_a_keeper_that_has_not_looked_for_two_seconds_is_late_once_something_is_held(
    ledger: Ledger, worker: Handle
) -> None:
    """It is frozen or blocked, and a lease needs it."""
    ledger.tick(NOW)
    assert late(ledger, worker, at=NOW + 1.9) == []
    assert late(ledger, worker, at=NOW + 2.1) == [pytest.approx(2.1)]


def test_a_keeper_that_is_being_woken_from_its_rest_is_not_late(ledger: Ledger, worker: Handle) -> None:
    """What was claimed in this moment has rung; a keeper that does not come is late soon after its rest."""
    ledger.tick(NOW + 2.0)
    assert late(ledger, worker, at=NOW + 0.001) == []
    assert late(ledger, worker, at=NOW + 3.9) == []
    assert late(ledger, worker, at=NOW + 4.1) == [pytest.approx(2.1)]
