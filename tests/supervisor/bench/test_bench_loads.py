"""The bench's loads: fair between numbers of processes, and long enough to be meaningful."""

from __future__ import annotations

import pytest

from flowherd_supervisor.bench import driver
from flowherd_supervisor.demo.app import compute, step
from flowherd_supervisor.demo.driver import App


@pytest.mark.parametrize(
    ("cpus", "most", "counts"),
    [
        (1, None, (1, 2)),
        (2, None, (1, 2, 3)),
        (4, None, (1, 2, 3, 4, 5)),
        (6, None, (1, 2, 4, 6, 7)),
        (16, None, (1, 2, 4, 8, 16, 20)),
        (64, None, (1, 2, 4, 8, 16, 32, 64, 80)),
        (16, 6, (1, 2, 4, 6)),
        (2, 1, (1,)),
        (2, 8, (1, 2, 3, 8)),
    ],
)
def test_the_counts_end_one_step_beyond_the_cpus_or_at_a_given_number(
    cpus: int, most: int | None, counts: tuple[int, ...]
) -> None:
    """The step beyond the CPUs shows that more processes do not help."""
    assert driver.process_counts(cpus, most) == counts


def test_all_counts_have_the_same_slots() -> None:
    """Else more processes would look better because of their slots."""
    assert driver.slots_for((1, 2, 3)) == driver.LEAST_SLOTS
    assert driver.slots_for((1, 8, 20)) == 80


def test_a_run_takes_about_as_long_on_any_number_of_processes() -> None:
    cpu, io, mixed = driver.our_loads(driver.LOADS, rounds_a_ms=10_000)
    slots, seconds = 16, 4.0
    assert [cpu.activities(count, 4, slots, seconds) for count in (1, 2, 4, 8)] == [80, 160, 320, 320]
    assert io.activities(1, 4, slots, seconds) == io.activities(4, 4, slots, seconds) == 320
    assert mixed.activities(1, 4, slots, seconds) == 160
    assert mixed.activities(4, 4, slots, seconds) == round(4.0 * slots / 0.125)
    assert cpu.activities(1, 4, slots, 0.1) == driver.LEAST_ACTIVITIES


def test_the_loads_compute_wait_or_do_both() -> None:
    cpu, io, mixed = driver.our_loads(driver.LOADS, rounds_a_ms=10_000)
    assert (cpu.rounds, cpu.wait_s) == (500_000, 0.0)
    assert (io.rounds, io.wait_s) == (0, driver.IO_S)
    assert (mixed.rounds, mixed.wait_s) == (250_000, driver.MIXED_WAIT_S)
    assert [load.name for load in driver.our_loads(["mixed", "cpu"], 1.0)] == ["cpu", "mixed"]


def test_waits_are_spread_around_their_mean() -> None:
    """Equal ones would all end at once, and the rate between two ends would be random."""
    _, io, _ = driver.our_loads(driver.LOADS, rounds_a_ms=1.0)
    waits = [io.inputs(index)["wait_s"] for index in range(300)]
    assert len(set(waits)) > 250
    assert min(waits) >= 0.5 * driver.IO_S
    assert max(waits) <= 1.5 * driver.IO_S
    assert sum(waits) / 300 == pytest.approx(driver.IO_S, rel=0.01)


def test_a_users_activity_gets_the_users_parameters_and_number() -> None:
    load = driver.Load("resize", App("my:app", "py-std"), "resize", parameters={"size": 3}, count=7)
    assert load.inputs(0) == load.inputs(5) == {"size": 3}
    assert load.activities(4, 2, 16, 60.0) == 7


async def test_the_benchs_activity_does_the_same_work_everywhere() -> None:
    assert compute(1) == (1_103_515_245 + 12_345) & 0x7FFF_FFFF
    assert (await step(0.0, 1000))["result"] == compute(1000)
    assert driver.rounds_a_ms(probe=2000, tries=2) > 10
