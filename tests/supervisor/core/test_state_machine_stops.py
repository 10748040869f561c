"""Single decisions on the way to the exit: events in, actions out."""

from __future__ import annotations

from math import inf

import pytest
from brain import EXITED_1, SIGKILLED, STOP, TWICE, Brain, exited, forked, leave, ready

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import (
    Drain,
    Exit,
    FinishKeeper,
    Kill,
    Release,
)
from flowherd_supervisor.core.events import KEEPER, Event
from flowherd_supervisor.core.state import Phase

# Stops


def test_p2_the_first_signal_drains_every_worker_and_a_clean_end_is_exit_0() -> None:
    """Faults P2."""
    brain = Brain(graceful_timeout_s=30.0).serve()
    assert brain.hears(STOP) == [Drain(0, 1, 30.0), Drain(1, 1, 30.0)]
    assert brain.hears(exited(0, status=0)) == []
    assert brain.hears(exited(1, status=0)) == [FinishKeeper(1, pytest.approx(3.0))]
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(0)]


def test_a_drain_kills_what_still_boots_and_forgets_what_waits() -> None:
    """Those processes hold nothing."""
    brain = Brain(3)
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(0), ready(0), forked(1))
    brain.hears(events.SpawnFailed(2, 1, "EAGAIN"))
    assert brain.hears(STOP) == [Drain(0, 1, 30.0), Kill(1, 1)]
    assert brain.phases() == [Phase.DRAINING, Phase.DYING, Phase.STOPPED]
    assert brain.at(5.0) == []


def test_what_is_forked_while_the_stop_begins_dies_once_it_exists() -> None:
    """A zygote may answer late: the process cannot be signalled before, and must not be forgotten."""
    brain = Brain()
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER))
    assert brain.hears(STOP) == []
    assert brain.hears(forked(0)) == [Kill(0, 1)]
    assert brain.hears(STOP) == []
    assert brain.hears(exited(0, status=SIGKILLED)) == [FinishKeeper(1, pytest.approx(0.4))]


def test_the_time_to_drain_ends_in_kills_and_exit_6() -> None:
    """Law 3: a silent process cannot hold up a stop."""
    brain = Brain(graceful_timeout_s=30.0).serve()
    brain.hears(STOP)
    assert brain.at(31.4) == []
    assert brain.at(0.1) == [Kill(0, 1), Kill(1, 1)]
    assert brain.at(100) == []
    brain.hears(exited(0, status=SIGKILLED), exited(1, status=SIGKILLED))
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(6)]


def test_p2_a_stop_takes_at_most_5_s_beyond_its_time_though_the_engine_is_away() -> None:
    """Whatever stops us waits no longer before it kills: at the limit of the drain, then at that of the keeper."""
    brain = Brain(graceful_timeout_s=30.0).serve()
    began = brain.now
    brain.hears(STOP)
    brain.at(brain.state.next_deadline - brain.now)
    brain.hears(exited(0, status=SIGKILLED), exited(1, status=SIGKILLED))
    assert brain.at(brain.state.next_deadline - brain.now) == [Kill(KEEPER, 1)]
    assert brain.now - began < 30 + 5


def test_p4_the_second_signal_releases_and_the_third_kills() -> None:
    """Faults P4."""
    brain = Brain().serve()
    brain.hears(STOP)
    assert brain.hears(STOP) == [Release(0, 1, 0.5), Release(1, 1, 0.5)]
    assert brain.hears(STOP) == [Kill(0, 1), Kill(1, 1)]
    assert brain.hears(STOP) == []


def test_an_order_to_drain_counts_as_a_signal_once_however_often_it_comes() -> None:
    """Scripts may repeat it, also before the keeper has heard of the first one."""
    brain = Brain(graceful_timeout_s=30.0).serve()
    assert brain.hears(events.DrainOrdered()) == [Drain(0, 1, 30.0), Drain(1, 1, 30.0)]
    assert brain.hears(events.DrainOrdered(), events.DrainOrdered()) == []
    assert brain.hears(STOP) == [Release(0, 1, 0.5), Release(1, 1, 0.5)]
    assert brain.hears(events.DrainOrdered()) == []


def test_p4_after_the_second_signal_all_is_over_within_a_second() -> None:
    """Faults P4: 0.5 s to release, 0.4 s to settle, then SIGKILL."""
    brain = Brain().serve()
    brain.hears(STOP, STOP)
    assert brain.at(0.5) == [Kill(0, 1), Kill(1, 1)]
    assert brain.hears(exited(0), exited(1)) == [FinishKeeper(1, pytest.approx(0.4))]
    assert brain.at(0.5) == [Kill(KEEPER, 1)]
    assert brain.hears(exited(KEEPER, status=SIGKILLED)) == [Exit(6)]


def test_quit_is_two_signals() -> None:
    """QUIT gives everything back at once (supervisor/docs/signals.md)."""
    assert Brain().serve().hears(TWICE) == [Release(0, 1, 0.5), Release(1, 1, 0.5)]


def test_the_first_signal_after_a_drain_of_our_own_does_not_hurry_it() -> None:
    """A crash loop drains; the orchestrator's following TERM must not discard work."""
    brain = Brain().serve()
    brain.hears(events.CredentialsRefused("401"))
    assert brain.hears(STOP) == []
    assert brain.hears(STOP) == [Release(0, 1, 0.5), Release(1, 1, 0.5)]


def test_a_second_signal_hurries_the_keeper_and_a_third_kills_it() -> None:
    """Faults P4: also when only settlement is left, since an engine that is down makes it slow."""
    brain = Brain().serve()
    brain.hears(STOP, exited(0, status=0), exited(1, status=0))
    assert brain.hears(STOP) == [FinishKeeper(1, pytest.approx(0.4))]
    assert brain.state.next_deadline == pytest.approx(brain.now + 0.5)
    assert brain.hears(STOP) == [Kill(KEEPER, 1)]
    assert brain.hears(exited(KEEPER, status=SIGKILLED)) == [Exit(6)]


def test_after_exit_nothing_is_decided_any_more() -> None:
    """Law 4."""
    brain = Brain().serve()
    brain.hears(STOP, exited(0), exited(1), exited(KEEPER, status=0))
    state = brain.state
    assert brain.hears(STOP, TWICE, exited(KEEPER), events.CredentialsRefused(""), after=9) == []
    assert brain.state == state
    assert state.next_deadline == inf


# Exit codes: the first reason stays


RELEASED = events.ChildStopped(0, 1, 2, ())
UNDELIVERED = events.ChildStopped(0, 1, 0, ("w-1-2-3",))
REFUSED = events.CredentialsRefused("401")


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ([STOP], 0),
        ([STOP, events.ChildStopped(0, 1, 0, ())], 0),
        ([STOP, RELEASED], 6),
        ([STOP, UNDELIVERED], 6),
        ([STOP, exited(0, status=EXITED_1, running=1)], 6),
        ([REFUSED], 4),
        ([REFUSED, RELEASED], 4),
        ([STOP, RELEASED, REFUSED], 6),
        ([STOP, REFUSED], 0),
        ([exited(KEEPER, 1), exited(KEEPER, 2), exited(KEEPER, 3), RELEASED], 1),
        ([STOP, RELEASED, exited(KEEPER, 1), exited(KEEPER, 2), exited(KEEPER, 3)], 6),
        ([STOP, exited(KEEPER, 1), exited(KEEPER, 2), exited(KEEPER, 3), RELEASED], 1),
        ([RELEASED, STOP], 0),
    ],
)
def test_the_first_reason_for_a_bad_exit_code_stays(facts: list[Event], code: int) -> None:
    """Whoever restarts flowherd goes by the code (supervisor/docs/exit-codes.md)."""
    brain = Brain().serve()
    brain.hears(*facts)
    if brain.state.keeper.phase is Phase.BACKOFF:
        brain.at(1.0)
    assert leave(brain) == code
