"""Hung activities, late keepers and causes of exits, as tables of facts and decisions."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from signal import SIGSEGV

import pytest
from brain import SIGKILLED, Brain, forked, ready

from flowherd.awake_clock import STEP_S
from flowherd.ledger import Cause
from flowherd_supervisor.core import events
from flowherd_supervisor.core.exits_and_restarts import cause_of
from flowherd_supervisor.core.hangs import HANG_MARGIN_S, PastLimit, guilty_of_hang, keeper_late_s
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.state import Phase

GRACE_S = 5.0
PATIENCE_S = GRACE_S + HANG_MARGIN_S


def past(sequence: int, late_s: float, seen_s: float | None = None, *, on_loop: bool = False) -> PastLimit:
    seen_s = late_s if seen_s is None else seen_s
    return PastLimit(sequence, "resize", f"a-{sequence}", 1.0, late_s, seen_s, is_on_loop=on_loop)


@pytest.mark.parametrize(
    ("facts", "guilty"),
    [
        pytest.param([], None, id="nobody is past its limit"),
        pytest.param([past(1, PATIENCE_S)], None, id="within the grace its worker may report"),
        pytest.param([past(1, PATIENCE_S + 0.1)], 1, id="beyond it, it hangs"),
        pytest.param([past(1, 60.0, 1.0)], None, id="N4: seen for a moment after a freeze"),
        pytest.param([past(1, 1.0, 60.0)], None, id="seen for long, and late for a moment by its own times"),
        pytest.param([past(1, 7.0), past(2, 9.0), past(3, 8.0)], 2, id="the longest past its limit"),
        pytest.param([past(1, 7.0, on_loop=True), past(2, 9.0)], 1, id="the one on the loop goes before"),
        pytest.param([past(1, 2.0, on_loop=True), past(2, 9.0)], 2, id="on the loop and not overdue"),
    ],
)
def test_the_guilty_of_a_hang_is_on_the_loop_or_longest_past_its_limit(
    facts: list[PastLimit], guilty: int | None
) -> None:
    """C11: the other activities in its process are not charged."""
    found = guilty_of_hang(facts, GRACE_S)
    assert (found and found.sequence) == guilty


@pytest.mark.parametrize(
    ("tick_age_s", "seen_s", "ready_s", "lease_s", "is_late"),
    [
        (1.9, 9.0, 9.0, 60.0, False),
        (2.1, 9.0, 9.0, 60.0, True),
        (30.0, 0.5, 9.0, 60.0, False),  # N4: frozen along with the supervisor
        (30.0, 2.1 - STEP_S, 9.0, 60.0, True),
        (30.0, 9.0, 1.5, 60.0, False),  # it has just begun
        (1.6, 9.0, 9.0, 4.5, True),  # a third of the shortest lease
        (0.9, 9.0, 9.0, 0.5, False),  # a second at least
        (9.9, 30.0, 30.0, inf, False),  # no lease waits for it
        (10.1, 30.0, 30.0, inf, True),
    ],
)
def test_a_keeper_is_late_after_two_seconds_or_a_third_of_the_shortest_lease(
    tick_age_s: float, seen_s: float, ready_s: float, lease_s: float, *, is_late: bool
) -> None:
    """By its own tick, by the supervisor's observation, and since it was ready: the least of the three."""
    keeper = replace(Brain().serve().state.keeper, phase=Phase.RUNNING, ready_at=100.0)
    facts = {"tick_age_s": tick_age_s, "seen_s": seen_s, "awake_s": 100.0 + ready_s}
    assert (keeper_late_s(keeper, **facts, shortest_lease_s=lease_s) is not None) is is_late
    booting = replace(keeper, phase=Phase.STARTING, ready_at=None)
    assert keeper_late_s(booting, **facts, shortest_lease_s=lease_s) is None


OVERDUE = events.LimitOverdue(0, 1, 5, "resize", "a-1", 60.0)
RELOAD = (events.ReloadRequested(Plan(processes=2, concurrency=5)), forked(0, 2), ready(0, 2))


@pytest.mark.parametrize(
    ("orders", "status", "running", "cause"),
    [
        pytest.param((), SIGKILLED, 1, Cause.SIGNAL, id="nobody ordered it"),
        pytest.param((OVERDUE,), SIGKILLED, 1, Cause.HUNG, id="it hung"),
        pytest.param((OVERDUE, events.StopRequested()), SIGKILLED, 1, Cause.HUNG, id="it hung before a stop"),
        pytest.param((events.SegmentDamaged(0, 1, "x"),), SIGKILLED, 1, Cause.DAMAGED, id="it was damaged"),
        pytest.param((events.StopRequested(),), SIGKILLED, 1, Cause.STOP, id="the host stops"),
        pytest.param(RELOAD, 0, 0, Cause.RELOAD, id="it drained as ordered"),
        pytest.param(RELOAD, 0, 1, Cause.EXIT, id="it exited amid its drain"),
        pytest.param(RELOAD, SIGSEGV, 0, Cause.SIGNAL, id="it crashed amid its drain"),
        pytest.param((*RELOAD, 99.0), SIGKILLED, 1, Cause.RELOAD, id="its drain took too long"),
        pytest.param((*RELOAD, OVERDUE, 2.0), SIGKILLED, 1, Cause.HUNG, id="it hung amid its drain"),
    ],
)
def test_only_an_end_that_did_not_come_as_ordered_is_charged_to_the_activities(
    orders: tuple[events.Event | float, ...], status: int, running: int, cause: Cause
) -> None:
    """An end that was ordered because of a hang is charged to the activity that hung; a number passes seconds."""
    brain = Brain().serve()
    brain.now += 100.0
    for order in orders:
        brain.at(order) if isinstance(order, float) else brain.hears(order)
    assert cause_of(brain.state, brain.state.find(0, 1), status, running) is cause
