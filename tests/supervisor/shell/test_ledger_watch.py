"""Events that the supervisor finds in a ledger, with a real ledger and this process as the worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from brain import Brain
from worker_kit import claim, open_segment

from flowherd.ledger import Cause, Cell, Ledger, RecordWriter
from flowherd.link.link import Link
from flowherd.worker.attempt import DETACHED
from flowherd_supervisor.core.events import KeeperLate, LimitOverdue
from flowherd_supervisor.core.hangs import HANG_MARGIN_S
from flowherd_supervisor.processes.process_table import Handle
from flowherd_supervisor.shell.ledger_watch import LedgerWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd_supervisor.core.events import Event

NOW = 1000.0


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(processes=1, records=4)


@pytest.fixture
def writer(ledger: Ledger) -> RecordWriter:
    """The record writer of a worker that holds a lease of 60 s."""
    made = RecordWriter(open_segment(ledger))
    claim(made)
    made.segment.put(Cell.HELD, 1)
    return made


@pytest.fixture
def worker(writer: RecordWriter) -> Iterator[Handle]:
    """The supervisor's handle of that worker."""
    ours, theirs = Link.pair()
    yield Handle(0, 1, os.getpid(), -1, ours, (writer.segment,), os.memfd_create("stacks"))
    ours.close()
    theirs.close()


FREEZE_S = 30.0


class Looks:
    """A supervisor's ledger watch on a manual clock, and the events it finds."""

    def __init__(self, ledger: Ledger, worker: Handle) -> None:
        self.ledger = ledger
        self.workers = [worker]
        self.watch = LedgerWatch(ledger)
        self.state = Brain().serve().state
        self.now = self.awake_s = NOW

    def at(self, seconds: float, *, frozen_s: float = 0.0) -> list[Event]:
        """Returns the events of this many awake seconds, after a freeze."""
        self.now += frozen_s
        found: list[Event] = []
        while self.awake_s < NOW + seconds:
            step_s = min(self.watch.patience_s(self.state), NOW + seconds - self.awake_s)
            self.now, self.awake_s = self.now + step_s, self.awake_s + step_s
            looked = self.watch.scan(self.state, self.workers, self.now, self.awake_s)
            found += [fact for fact in looked if isinstance(fact, KeeperLate | LimitOverdue)]
        return found


@pytest.fixture
def looks(ledger: Ledger, worker: Handle) -> Looks:
    return Looks(ledger, worker)


def test_a_keeper_that_has_not_looked_for_two_seconds_is_late_once_something_is_held(looks: Looks) -> None:
    """It is frozen or blocked while a lease needs it."""
    looks.ledger.tick(NOW)
    assert looks.at(2.0) == []
    late, *_ = looks.at(2.6)
    assert isinstance(late, KeeperLate)
    assert 2.0 < late.late_s < 2.5


def test_a_keeper_that_has_not_looked_is_late_too_when_the_process_that_held_something_is_gone(
    looks: Looks, writer: RecordWriter
) -> None:
    """What that had not begun waits for the keeper's word, with nobody else to notice that none comes."""
    looks.ledger.tick(NOW)
    writer.segment.end(Cause.SIGNAL, 9)
    looks.workers.clear()
    assert looks.at(2.0) == []
    assert looks.at(2.6)


def test_a_keeper_that_does_not_run_is_replaced_on_an_idle_host_too(
    looks: Looks, writer: RecordWriter
) -> None:
    """Pages and orders wait for it, and so would the end of the host."""
    looks.ledger.tick(NOW)
    writer.clear(0)
    writer.segment.put(Cell.HELD, 0)
    assert looks.at(10.0) == []
    [late] = looks.at(15.1)[:1]
    assert isinstance(late, KeeperLate)
    assert 10.0 < late.late_s < 10.5


def test_a_keeper_that_is_being_woken_from_its_rest_is_not_late(looks: Looks) -> None:
    """A new claim has just woken it; if it does not run, it is late shortly after."""
    looks.ledger.tick(NOW + 2.0)
    assert looks.at(4.0) == []
    assert looks.at(4.1)


def test_n4_a_keeper_that_was_frozen_along_is_not_late_when_the_supervisor_goes_on(looks: Looks) -> None:
    """N4: the supervisor was frozen itself; a keeper that stays frozen is late after the full time."""
    looks.ledger.tick(NOW)
    assert looks.at(0.5) == []
    assert looks.at(2.2, frozen_s=FREEZE_S) == []
    assert looks.at(3.0)


def test_n4_a_keeper_that_goes_on_between_two_freezes_is_never_late(looks: Looks) -> None:
    for count in range(1, 20):
        looks.ledger.tick(looks.now)
        assert looks.at(0.4 * count, frozen_s=2.5) == []


def test_n4_an_activity_is_not_taken_for_hung_because_of_a_freeze(looks: Looks, writer: RecordWriter) -> None:
    """N4: its limit has passed by the clock, but its worker had no time to report it."""
    looks.ledger.tick(NOW + 3600.0)
    writer.running(0, now=NOW, limit_s=1.0)
    patience_s = looks.state.plan.cancel_grace_s + HANG_MARGIN_S
    assert looks.at(0.5) == []
    assert looks.at(0.5 + patience_s, frozen_s=FREEZE_S) == []
    assert looks.at(2.1 + patience_s)


def test_n4_a_freeze_shortens_no_limit_of_a_handler_that_blocks_its_loop(
    looks: Looks, writer: RecordWriter
) -> None:
    """N4: it cannot hear of the freeze, and still has nearly all of its time."""
    looks.ledger.tick(NOW + 3600.0)
    writer.running(0, now=NOW, limit_s=60.0)
    patience_s = looks.state.plan.cancel_grace_s + HANG_MARGIN_S
    assert looks.at(5.0) == []
    assert looks.at(60.0 + patience_s - 1.0, frozen_s=2 * FREEZE_S) == []
    assert looks.at(62.0 + patience_s)


def test_an_activity_that_hangs_is_found_within_a_look_of_limit_and_grace(
    looks: Looks, writer: RecordWriter
) -> None:
    """C11: by the ledger's times, and once the supervisor has observed it for the length of the grace."""
    looks.ledger.tick(NOW + 3600.0)
    writer.running(0, now=NOW, limit_s=1.2)
    patience_s = looks.state.plan.cancel_grace_s + HANG_MARGIN_S
    assert looks.at(1.2 + patience_s) == []
    overdue, *_ = looks.at(2.1 + patience_s)
    assert isinstance(overdue, LimitOverdue)


def test_a_detached_handler_is_hung_only_where_it_keeps_the_loop(looks: Looks, writer: RecordWriter) -> None:
    """It owes no report: in a thread it costs a slot, on the loop it stops all other handlers."""
    looks.ledger.tick(NOW + 3600.0)
    writer.running(0, now=NOW, limit_s=1.0)
    writer.stands(0, DETACHED)
    patience_s = looks.state.plan.cancel_grace_s + HANG_MARGIN_S
    late = int(10 * (3.0 + patience_s))
    assert [
        found for tenth in range(1, late) for found in looks.at(tenth / 10) if isinstance(found, LimitOverdue)
    ] == []
    writer.segment.put(Cell.ON_LOOP, 1)
    assert any(
        isinstance(found, LimitOverdue) for tenth in range(late, 2 * late) for found in looks.at(tenth / 10)
    )
