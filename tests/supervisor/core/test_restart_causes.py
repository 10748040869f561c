"""The causes of restarts: each is from a closed list and is counted by process."""

from __future__ import annotations

import signal

import pytest
from brain import EXITED_1, EXITED_3, Brain, exited, forked, ready

from flowherd.ledger import Cause
from flowherd.wait_status import NOT_OUT_OF_MEMORY, OUT_OF_MEMORY
from flowherd_supervisor.core import events


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (0, Cause.EXIT),
        (EXITED_3, Cause.EXIT),
        (signal.SIGSEGV, Cause.SIGNAL),
        (signal.SIGKILL, Cause.SIGNAL),
        (signal.SIGKILL | NOT_OUT_OF_MEMORY, Cause.SIGNAL),
        (signal.SIGKILL | OUT_OF_MEMORY, Cause.OUT_OF_MEMORY),
    ],
)
def test_the_end_of_a_worker_is_counted_by_its_kind(status: int, cause: Cause) -> None:
    """Exit 3 of a process that was ready is not a boot failure."""
    brain = Brain().serve()
    brain.hears(exited(1, status=status, running=1), after=10.0)
    assert brain.state.causes == {1: {cause: 1}}


def test_a_process_that_does_not_boot_is_counted_as_that() -> None:
    """Also one that sent nothing and was killed for it."""
    brain = Brain().serve()
    brain.hears(exited(1), after=10.0)
    brain.hears(forked(1, 2), exited(1, 2, status=EXITED_3), after=0.1)
    brain.at(1.0)
    brain.hears(forked(1, 3))
    brain.at(brain.state.plan.boot_timeout_s + 1)
    brain.hears(exited(1, 3, status=signal.SIGKILL))
    assert brain.state.causes == {1: {Cause.EXIT: 1, Cause.BOOT: 2}}


def test_a_process_that_hung_is_counted_as_that_whatever_signal_ended_it() -> None:
    """SIGABRT for its stacks, SIGKILL if that was not enough."""
    brain = Brain().serve()
    overdue = events.LimitOverdue(0, 1, 5, "resize", "a-1", 60.0)
    brain.hears(overdue, exited(0, status=signal.SIGABRT, running=1), after=100.0)
    assert brain.state.causes == {0: {Cause.HUNG: 1}}


def test_a_reload_counts_every_process_once_and_a_stop_none() -> None:
    """They are not crashes, and a dashboard must distinguish them."""
    brain = Brain().serve()
    brain.hears(events.ReloadRequested(brain.state.plan), after=10.0)
    for index in (0, 1):
        brain.hears(forked(index, 2), ready(index, 2), exited(index, 1, status=0))
    brain.hears(events.WorkerUsedUp(0, 2, "5 activities"), after=10.0)
    assert brain.state.causes == {0: {Cause.RELOAD: 1, Cause.RECYCLE: 1}, 1: {Cause.RELOAD: 1}}
    brain.hears(events.StopRequested(), exited(1, 2, status=EXITED_1))
    assert brain.state.causes[1] == {Cause.RELOAD: 1}
