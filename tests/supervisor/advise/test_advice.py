"""Places of activities and sizes of hosts, as tables of measurements and verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowherd_supervisor.advise import capacity
from flowherd_supervisor.advise.capacity import HostLoad
from flowherd_supervisor.advise.measurements import (
    ENOUGH_PROBES,
    Measured,
    Place,
    Steps,
    median_s,
    residual_p95_s,
)
from flowherd_supervisor.advise.placement import ENOUGH_SAMPLES, Surroundings, advise

AROUND = Surroundings(active_s=10.0)


def on_loop(
    *, kept_ms: float, cpu_ms: float, released: float = 0.0, attempts: int = 100, wait_ms: float = 0.0
) -> Measured:
    """Measurements of an `async def` of one step."""
    kept_s = attempts * kept_ms / 1e3
    return Measured(
        "job",
        Place.ASYNC,
        attempts,
        samples=attempts,
        cpu_s=attempts * cpu_ms / 1e3,
        wall_s=kept_s + attempts * wait_ms / 1e3,
        wait_s=attempts * wait_ms / 1e3,
        kept_s=kept_s,
        longest_block_s=kept_ms / 1e3,
        steps=Steps((kept_s,), (kept_ms / 1e3,)) if kept_ms >= 1 else Steps(),
        probes=100,
        released=int(100 * released),
    )


def in_thread(
    *, wall_ms: float, cpu_ms: float, released: float = 0.0, hold_ms: float = 0.0, attempts: int = 100
) -> Measured:
    """Measurements of a `def`."""
    return Measured(
        "job",
        Place.THREAD,
        attempts,
        samples=attempts,
        cpu_s=attempts * cpu_ms / 1e3,
        wall_s=attempts * wall_ms / 1e3,
        wait_s=attempts * (wall_ms - cpu_ms) / 1e3,
        probes=100,
        released=int(100 * released),
        longest_hold_s=hold_ms / 1e3,
    )


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (on_loop(kept_ms=0.2, cpu_ms=0.2, wait_ms=500), Place.ASYNC),
        (on_loop(kept_ms=30, cpu_ms=30), Place.PROCESS),
        (on_loop(kept_ms=30, cpu_ms=29, released=0.9), Place.THREAD),
        (on_loop(kept_ms=30, cpu_ms=0.1, released=1.0), Place.THREAD),
        (on_loop(kept_ms=30, cpu_ms=0.1, released=0.0), Place.PROCESS),
        (on_loop(kept_ms=19, cpu_ms=19), Place.ASYNC),
        (on_loop(kept_ms=8, cpu_ms=8, attempts=900), Place.PROCESS),
        (on_loop(kept_ms=0.05, cpu_ms=0.05, attempts=180_000), Place.ASYNC),
        (on_loop(kept_ms=0.12, cpu_ms=0.05, attempts=80_000), Place.ASYNC),
        (on_loop(kept_ms=300, cpu_ms=300, wait_ms=9_000, attempts=30), Place.PROCESS),
        (in_thread(wall_ms=500, cpu_ms=0.5, released=1.0), Place.THREAD),
        (in_thread(wall_ms=60, cpu_ms=60, released=0.1), Place.PROCESS),
        (in_thread(wall_ms=60, cpu_ms=60, released=0.9), Place.THREAD),
        (in_thread(wall_ms=60, cpu_ms=60, attempts=30), Place.THREAD),
        (in_thread(wall_ms=600, cpu_ms=60, hold_ms=300, attempts=30), Place.PROCESS),
        (replace(on_loop(kept_ms=30, cpu_ms=30), place=Place.PROCESS), Place.PROCESS),
    ],
    ids=[
        "waits for the network",
        "computes in Python",
        "computes where the GIL is free",
        "blocks in I/O",
        "blocks in C with the GIL",
        "blocks for less than one feels, seldom",
        "fills the loop by short steps",
        "fills the loop by no-ops: more processes are the remedy",
        "no-ops on a machine that others use too",
        "computes seldom, but for long",
        "waits in a thread",
        "computes in Python in a thread, all the time",
        "computes in a thread where the GIL is free",
        "computes in a thread, seldom",
        "keeps the GIL for long in a thread",
        "has a process",
    ],
)
def test_each_kind_of_work_has_its_place(measured: Measured, verdict: Place) -> None:
    """The table at the top of the module."""
    advice = advise(measured, AROUND)
    assert advice.verdict is verdict, advice
    assert advice.is_change is (verdict is not measured.place)


def test_too_few_samples_or_looks_make_no_verdict() -> None:
    """Below 30 samples, or without probes of the GIL, the verdict is unknown."""
    full = on_loop(kept_ms=30, cpu_ms=30)
    few = advise(replace(full, samples=ENOUGH_SAMPLES - 1), AROUND)
    unseen = advise(replace(full, probes=ENOUGH_PROBES - 1, released=0), AROUND)
    assert (few.verdict, unseen.verdict) == (Place.UNKNOWN, Place.UNKNOWN)
    assert not few.is_change
    assert few.reason == "needs 1 more measured run"
    assert unseen.reason.endswith(" of the GIL")


def test_a_single_bad_moment_is_no_habit() -> None:
    """A stall of the machine for 300 ms does not make 100 light attempts heavy."""
    light = on_loop(kept_ms=0.1, cpu_ms=0.1, wait_ms=30)
    unlucky = replace(light, kept_s=light.kept_s + 0.3, longest_block_s=0.3, steps=Steps((0.3,), (0.3,)))
    assert advise(unlucky, AROUND).verdict is Place.ASYNC


def test_the_criteria_carry_their_numbers() -> None:
    """Evidence: value, threshold, and whether it is met."""
    advice = advise(on_loop(kept_ms=40, cpu_ms=40), AROUND)
    assert (advice.cpu_bound.value, advice.cpu_bound.threshold, advice.cpu_bound.is_met) == (
        pytest.approx(40),
        5,
        True,
    )
    assert advice.bottleneck.metric == "ms on the loop at a time"
    assert advice.bottleneck.value == pytest.approx(40)
    crowd = advise(on_loop(kept_ms=10, cpu_ms=10, attempts=900), AROUND)
    assert (crowd.bottleneck.metric, crowd.bottleneck.value) == ("share of the loop", pytest.approx(0.9))


def test_the_gain_is_what_others_would_no_longer_wait_for() -> None:
    """The others still wait for each other, and beside a thread for the interpreter's switch interval."""
    other = Steps((2.0,), (0.01,))
    heavy = on_loop(kept_ms=40, cpu_ms=40)
    gain = advise(heavy, replace(AROUND, lag_s_p95=0.064, others=(other,))).gain
    assert gain.now_ms == pytest.approx(64)
    assert gain.estimated_ms == pytest.approx(7.5, abs=0.2)
    thread = advise(on_loop(kept_ms=40, cpu_ms=40, released=0.6), AROUND).gain
    assert thread.now_ms == pytest.approx(38, abs=0.2)
    assert thread.estimated_ms == pytest.approx(2)
    stays = advise(on_loop(kept_ms=0.1, cpu_ms=0.1), AROUND).gain
    assert (stays.now_ms, stays.cost) == (stays.estimated_ms, "none")


def test_waits_for_a_step_are_those_at_a_random_moment() -> None:
    """With steps of 1 s all the time, 95 of 100 callers wait up to 0.95 s; with steps 5 % of the time, 5 wait."""
    assert residual_p95_s([Steps((10.0,), (1.0,))], 10.0) == pytest.approx(0.95, abs=1e-3)
    assert residual_p95_s([Steps((5.0,), (1.0,))], 10.0) == pytest.approx(0.9, abs=1e-3)
    assert residual_p95_s([Steps((0.5,), (1.0,))], 10.0) == 0.0
    assert residual_p95_s([], 10.0) == 0.0


@pytest.mark.parametrize(
    ("counts", "median"), [([], 0.0), ([4], 0.5), ([0, 0, 4], 3.0), ([1, 0, 0, 3], 5.333), ([2, 2], 1.0)]
)
def test_a_median_lies_inside_its_bucket(counts: list[int], median: float) -> None:
    """Without interpolation, buckets that double would be wrong by half."""
    assert median_s(counts, 1.0) == pytest.approx(median, abs=0.01)


LOAD = HostLoad(processes=2, slots=16, cpus=4, active_s=60.0, loop_busy=0.3, movable=0.0, cpu=0.3, full=0.1)


@pytest.mark.parametrize(
    ("load", "advised", "reason"),
    [
        (LOAD, 2, "the loop is busy 30%"),
        (replace(LOAD, active_s=4.0), None, "too little"),
        (replace(LOAD, loop_busy=0.97), 4, "the loop is busy 97%"),
        (replace(LOAD, loop_busy=0.8), 3, "the loop is busy 80%"),
        (replace(LOAD, loop_busy=0.97, movable=0.9), 2, "first follow"),
        (replace(LOAD, loop_busy=0.97, cpus=2), 2, "add a host"),
        (replace(LOAD, processes=8), 4, "usable CPUs"),
    ],
)
def test_processes_follow_the_loops_as_far_as_there_are_cpus(
    load: HostLoad, advised: int | None, reason: str
) -> None:
    """More processes than CPUs gain nothing; work that should leave the loop does not justify another process."""
    size = capacity.processes(load)
    assert size.advised == advised
    assert reason in size.reason


@pytest.mark.parametrize(
    ("load", "advised"),
    [
        (LOAD, 16),
        (replace(LOAD, full=0.9, loop_busy=0.03, cpu=0.03), 64),
        (replace(LOAD, full=0.9, loop_busy=0.35, cpu=0.3), 32),
        (replace(LOAD, full=0.9, loop_busy=0.1, cpu=0.95), 16),
        (replace(LOAD, active_s=1.0), None),
    ],
)
def test_slots_grow_where_waiting_fills_them(load: HostLoad, advised: int | None) -> None:
    """If computing fills the slots, more of them would only add waiting."""
    assert capacity.slots(load).advised == advised


@pytest.mark.parametrize(
    ("now", "workers", "takes_turns", "advised", "words"),
    [
        ("processes", 4, True, "processes", "take turns"),
        ("processes", 4, False, "threads", "share memory, but end together"),
        ("threads", 4, False, "threads", "share memory, but end together"),
        ("processes", 1, False, "processes", "nothing to share"),
    ],
)
def test_threads_pay_where_python_has_no_gil_and_there_is_more_than_one_worker(
    now: str, workers: int, *, takes_turns: bool, advised: str, words: str
) -> None:
    """They compute as fast as processes and share imports, but they fail together."""
    way = capacity.parallel(now, workers, takes_turns=takes_turns)
    assert (way.now, way.advised) == (now, advised)
    assert words in way.reason
