"""Workers that are threads of one process: for `decide` there is one process with all slots."""

from __future__ import annotations

import pytest
from brain import EXITED_1, KEEPER, Brain, exited, forked, may_poll, ready

from flowherd.ledger import Cause
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Drain, SetSlots, Spawn
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.state import Phase


def threads(count: int) -> Brain:
    return Brain(1, threads=count)


def test_one_process_gets_all_slots_and_a_worker_for_each_thread() -> None:
    orders = threads(3).hears(events.Started())
    assert orders == [Spawn(KEEPER, 1, 0), Spawn(0, 1, 5, workers=3)]


def test_another_number_of_threads_is_a_successor_that_is_ready_before_the_old_one_drains() -> None:
    """TTIN: running work is not disturbed, and slots move as the old process frees them."""
    brain = threads(2).serve()
    assert brain.hears(events.ScaleRequested(3)) == [Spawn(0, 2, 0, workers=3)]
    orders = brain.hears(forked(0, 2), ready(0, 2))
    assert orders == [may_poll(0, 2), SetSlots(0, 1, 0, 1), Drain(0, 1, 30.0, others_go_on=True)]
    assert brain.hears(events.SlotsSeen(0, 1, 1, 2)) == [SetSlots(0, 2, 3, 1)]
    assert brain.hears(exited(0, 1, status=0)) == [SetSlots(0, 2, 5, 2)]
    assert brain.state.causes == {0: {Cause.SCALE: 1}}


def test_what_is_wanted_meanwhile_comes_next() -> None:
    """Two TTIN in a row: the last number counts, one successor at a time."""
    brain = threads(2).serve()
    brain.hears(events.ScaleRequested(3), forked(0, 2))
    assert brain.hears(events.ScaleRequested(4)) == []
    orders = brain.hears(ready(0, 2))
    assert [order for order in orders if isinstance(order, Spawn)] == [Spawn(0, 3, 0, workers=4)]


def test_a_successor_that_dies_at_once_leaves_the_old_number_of_threads() -> None:
    """It is not retried: the old process goes on with the old number."""
    brain = threads(2).serve()
    brain.hears(events.ScaleRequested(3), forked(0, 2))
    assert not [order for order in brain.hears(exited(0, 2)) if isinstance(order, Spawn)]
    assert brain.state.plan.threads == 2
    assert (brain.state.processes[0].phase, brain.state.processes[0].incarnation) == (Phase.RUNNING, 1)


@pytest.mark.parametrize("wanted", [0, 6])
def test_no_thread_without_a_slot_and_no_process_without_a_thread(wanted: int) -> None:
    """5 slots: as many threads at most (faults.md P18)."""
    brain = threads(2).serve()
    assert brain.hears(events.ScaleRequested(wanted)) == []
    assert brain.said("scale_refused") == 1


def test_a_crash_restarts_the_process_with_all_its_threads() -> None:
    brain = threads(3).serve()
    orders = brain.hears(exited(0, status=EXITED_1, running=4), after=60.0)
    assert orders == [Spawn(0, 2, 5, workers=3)]
    assert brain.state.processes[0].restarts == 1


def test_the_ledger_has_room_for_all_threads() -> None:
    assert Plan(processes=1, threads=100, concurrency=200).most_processes == 100
    assert (Plan(processes=1, threads=7, concurrency=9).workers, Plan(3, 9).workers) == (7, 3)
