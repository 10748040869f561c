"""Time without freezes (faults.md N4), in pure numbers and on a virtual clock."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest
from virtual_time import VirtualTimeLoop, now, virtual_time

from flowherd.awake_clock import FREEZE_S, LATE_S, STEP_S, AwakeClock, Patience, Witness
from flowherd.execution.awake_timer import AwakeTimer


def test_n4_the_clock_goes_on_as_time_does_while_its_owner_is_awake() -> None:
    """Long waits that were asked for count; so does a load that delays them a little."""
    clock, at = AwakeClock(100.0), 100.0
    for wait_s in (0.25, 5.0, 3600.0, 0.0):
        clock.waits(at + wait_s)
        at += wait_s + LATE_S / 2
        assert clock.read(at) == at


def test_n4_a_gap_that_was_not_a_wait_does_not_count() -> None:
    """The process was frozen, at work or during a wait."""
    clock = AwakeClock(100.0)
    assert clock.read(130.0) == pytest.approx(100.0 + LATE_S)
    clock.waits(130.25)
    assert clock.read(160.0) == pytest.approx(100.25 + 2 * LATE_S)
    assert clock.woke_at == 160.0


@pytest.mark.parametrize("seed", range(20))
def test_n4_no_history_of_freezes_lets_a_step_count_for_more_than_a_step(seed: int) -> None:
    """Random waits and freezes: the clock never goes back, and a freeze adds at most one step."""
    rng = random.Random(seed)
    at = awake_s = 50.0
    clock = AwakeClock(at)
    for _ in range(200):
        wait_s = rng.uniform(0.0, STEP_S)
        clock.waits(at + wait_s)
        at += max(wait_s, rng.choice([0.0, 2.0, 30.0]))
        before, awake_s = awake_s, clock.read(at)
        assert 0 <= awake_s - before <= wait_s + LATE_S + 1e-9


def test_n4_a_witness_counts_from_its_own_first_look_and_forgets_what_has_passed() -> None:
    """It counts only what it has observed itself."""
    witness = Witness()
    witness.look()
    assert witness.lasts_s("late", 10.0) == 0.0
    witness.look()
    assert witness.lasts_s("late", 12.0) == 2.0
    witness.look()
    witness.look()
    assert witness.lasts_s("late", 20.0) == 0.0


@pytest.mark.parametrize("late_s", [0.0, FREEZE_S / 2])
def test_a_loop_that_handlers_keep_is_as_patient_as_the_time_says(late_s: float) -> None:
    """A grace that a busy loop stretches would exceed the supervisor's limit and cost the process."""
    at = 10.0
    patience = Patience(5.0, at)
    while (wait_s := patience.next_wait_s(at)) > 0:
        at += wait_s + late_s
    assert 15.0 <= at <= 15.0 + STEP_S + late_s


@virtual_time
@pytest.mark.parametrize("seconds", [1.0, 5.0, 20.0])
async def test_n4_a_timer_that_was_frozen_gives_the_rest_of_its_time(seconds: float) -> None:
    """N4: a handler that was told to stop and then frozen for 30 s still has a part of its grace."""
    loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
    fired = asyncio.Event()
    began = now()
    AwakeTimer(loop, seconds, fired.set)
    await asyncio.sleep(seconds / 10)
    loop.now += 30.0
    await fired.wait()
    assert began + 30.0 + seconds / 4 <= now() <= began + 30.0 + seconds


@virtual_time
async def test_a_timer_that_is_not_frozen_is_a_timer_and_can_be_cancelled() -> None:
    loop = asyncio.get_running_loop()
    fired, never = asyncio.Event(), asyncio.Event()
    began = now()
    AwakeTimer(loop, 5.0, fired.set)
    AwakeTimer(loop, 1.0, never.set).cancel()
    await fired.wait()
    assert now() == pytest.approx(began + 5.0)
    assert not never.is_set()
