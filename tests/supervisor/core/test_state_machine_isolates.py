"""Decisions about isolates: events in, actions out; each request gets one end."""

from __future__ import annotations

import pytest
from brain import SIGKILLED, STOP, Brain, exited, forked, ready

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import (
    Drain,
    FinishKeeper,
    Kill,
    KillIsolate,
    Release,
    Spawn,
    SpawnIsolate,
    TellIsolateEnded,
    TellIsolateStarted,
)
from flowherd_supervisor.core.events import ZYGOTE
from flowherd_supervisor.core.isolates import OUTLIVES_WORKER_S
from flowherd_supervisor.core.plan import Preload
from flowherd_supervisor.core.state import FORK_WITHIN_S

A = (0, 1, 7)  # what process 0 calls 7
NEEDED, KILL_WANTED = events.IsolateNeeded(*A), events.IsolateKillWanted(*A)
FORKED = events.IsolateForked(*A, 500)


@pytest.fixture
def brain() -> Brain:
    return Brain(preload=Preload.IF_SAFE).serve_from_zygote()


def gone(status: int = 0) -> events.IsolateExited:
    return events.IsolateExited(*A, status)


def test_one_is_forked_from_the_zygote_and_its_worker_gets_its_start_and_its_end(brain: Brain) -> None:
    """The status is the annotated one: the worker names the cause."""
    assert brain.hears(NEEDED) == [SpawnIsolate(*A, zygote=1)]
    assert brain.hears(FORKED) == [TellIsolateStarted(*A, 500)]
    assert brain.hears(gone(11)) == [TellIsolateEnded(*A, 11, "")]
    assert not brain.state.isolates


def test_without_a_zygote_it_is_forked_directly() -> None:
    """It imports the app itself, as the workers do."""
    brain = Brain().serve()
    assert brain.hears(NEEDED) == [SpawnIsolate(*A, zygote=0)]


def test_one_that_cannot_be_made_ends_with_the_reason(brain: Brain) -> None:
    """The worker decides whether to try again; the host's limit of processes may be reached."""
    assert brain.hears(NEEDED, events.IsolateNotForked(*A, "EAGAIN"))[1:] == [
        TellIsolateEnded(*A, 0, "EAGAIN")
    ]


def test_a_kill_is_sigkill_once(brain: Brain) -> None:
    """For its group, while it has not been reaped."""
    brain.hears(NEEDED, FORKED)
    assert brain.hears(KILL_WANTED) == [KillIsolate(*A)]
    assert brain.hears(KILL_WANTED) == []
    assert brain.hears(gone(SIGKILLED)) == [TellIsolateEnded(*A, SIGKILLED, "")]


def test_an_unwanted_isolate_is_killed_as_soon_as_it_exists(brain: Brain) -> None:
    """It cannot be signalled before that."""
    brain.hears(NEEDED)
    assert brain.hears(KILL_WANTED) == []
    assert brain.hears(FORKED) == [KillIsolate(*A)]
    assert brain.hears(gone(SIGKILLED)) == [TellIsolateEnded(*A, SIGKILLED, "")]


def test_when_its_worker_ends_it_is_killed_after_a_second(brain: Brain) -> None:
    """Within a second it can see that its channel is closed and end by itself."""
    brain.hears(NEEDED, FORKED, exited(0, running=1), after=60)
    assert brain.state.next_deadline == brain.now + OUTLIVES_WORKER_S
    assert brain.at(0.9) == []
    assert brain.at(0.1) == [KillIsolate(*A)]


def test_during_a_stop_it_dies_with_its_worker_and_the_keeper_waits_for_that(brain: Brain) -> None:
    """It has no worker left; Exit is the last action."""
    brain.hears(NEEDED, FORKED, STOP)
    assert brain.hears(exited(0, status=SIGKILLED)) == [KillIsolate(*A)]
    assert brain.hears(exited(1, status=0)) == [Kill(ZYGOTE, 1)]
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == []
    assert brain.hears(gone(SIGKILLED)) == [TellIsolateEnded(*A, SIGKILLED, ""), FinishKeeper(1, 3.0)]


def test_a_drain_still_makes_them_and_a_release_does_not(brain: Brain) -> None:
    """Claimed activities run to their end; on the second signal nothing begins."""
    brain.hears(STOP)
    assert brain.hears(NEEDED) == [SpawnIsolate(*A, zygote=1)]
    brain.hears(FORKED)
    assert brain.hears(STOP) == [Kill(ZYGOTE, 1), Release(0, 1, 0.5), Release(1, 1, 0.5)]
    other = (1, 1, 8)
    assert brain.hears(events.IsolateNeeded(*other)) == [TellIsolateEnded(*other, 0, "the worker is ending")]


def test_open_orders_of_a_dead_zygote_go_to_the_next(brain: Brain) -> None:
    """With the same descriptors, so that the worker is not affected."""
    brain.hears(NEEDED)
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == [Spawn(ZYGOTE, 2, 0)]
    assert brain.hears(forked(ZYGOTE, 2), ready(ZYGOTE, 2)) == [SpawnIsolate(*A, zygote=2)]
    assert brain.hears(FORKED) == [TellIsolateStarted(*A, 500)]


def test_when_the_zygote_dies_during_a_drain_it_is_forked_directly(brain: Brain) -> None:
    """There will be no other zygote."""
    assert brain.hears(STOP, NEEDED) == [Drain(0, 1, 30.0), Drain(1, 1, 30.0), SpawnIsolate(*A, zygote=1)]
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == [SpawnIsolate(*A, zygote=0)]


def test_a_zygote_that_does_not_make_an_isolate_is_replaced(brain: Brain) -> None:
    """As with a worker."""
    brain.hears(NEEDED)
    assert brain.at(FORK_WITHIN_S) == [Kill(ZYGOTE, 1)]


def test_an_unwanted_isolate_is_not_ordered_again_when_the_zygote_dies(brain: Brain) -> None:
    """Its end is reported anyway."""
    brain.hears(NEEDED, KILL_WANTED)
    orders = brain.hears(exited(ZYGOTE, status=SIGKILLED))
    assert orders == [TellIsolateEnded(*A, 0, "it was ended before it had begun"), Spawn(ZYGOTE, 2, 0)]


def test_a_wish_of_a_worker_that_is_gone_is_answered_so_that_nothing_is_kept(brain: Brain) -> None:
    """Its last messages are read after its exit; their descriptors must be closed."""
    brain.hears(exited(0, running=1), after=60)
    assert brain.hears(NEEDED) == [TellIsolateEnded(*A, 0, "the worker is ending")]
