"""What is measured of activities as they run: each number, who is blamed for the GIL, and what outlives a process."""

from __future__ import annotations

import asyncio
import mmap
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from worker_kit import open_segment

from flowherd.execution.activity_costs import (
    SAMPLED_EVERY,
    SAMPLED_FIRST,
    ActivityProfile,
    ActivityProfiles,
    LoopSample,
    Stay,
)
from flowherd.execution.busy_share import BusyShareMeter
from flowherd.execution.gil_probe import GilProbe
from flowherd.execution.loop_meter import LongStep, LoopMeter
from flowherd.execution.on_loop import Steps
from flowherd.ledger import Cause, Cell, Clock, Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import ENTRIES, Load, Metric, Where, Work, WorkTable


def spend(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def whose(name: str) -> Any:
    """An attempt, as far as a meter looks at it."""
    return SimpleNamespace(index=0, sequence=1, activity=SimpleNamespace(name=name))


async def run(meter: LoopMeter, work: object, name: str = "job") -> None:
    await Steps(work, meter, whose(name), meter.sample_of(name))  # type: ignore[arg-type]


# One attempt


async def test_cpu_waits_and_time_on_the_loop_are_told_apart() -> None:
    """An attempt that computes, waits and blocks: three different remedies."""
    measure = ActivityProfile(Where.LOOP)
    meter = LoopMeter(measures={"job": measure})

    async def work() -> None:
        spend(0.02)
        await asyncio.sleep(0.2)
        threading.Event().wait(0.03)

    await run(meter, work())
    assert measure[Metric.ATTEMPTS] == measure[Metric.SAMPLES] == 1
    assert 0.02 <= measure[Metric.CPU_S] < 0.04
    assert measure[Metric.WAIT_S] > 0.1, "the timer ran already when the step ended"
    assert measure[Metric.KEPT_S] >= 0.05
    between_two_reads_of_the_clock_s = 0.005  # while another process has the CPU
    assert (
        measure[Metric.WALL_S] + between_two_reads_of_the_clock_s
        > measure[Metric.KEPT_S] + measure[Metric.WAIT_S]
    )
    assert measure[Metric.LONGEST_BLOCK_S] >= 0.03
    assert meter.busy_s == pytest.approx(measure[Metric.KEPT_S])


async def test_what_others_had_of_the_loop_is_no_wait() -> None:
    """Sixteen that compute in turns would else all look like waiting for I/O."""
    measure = ActivityProfile(Where.LOOP)
    meter = LoopMeter(measures={"job": measure})

    async def takes_turns() -> None:
        for _ in range(5):
            spend(0.004)
            await asyncio.sleep(0)

    await asyncio.gather(*(run(meter, takes_turns()) for _ in range(8)))
    assert measure[Metric.SAMPLES] == 8
    assert measure[Metric.CPU_S] >= 0.16
    assert measure[Metric.WAIT_S] < measure[Metric.KEPT_S], (
        "each was behind seven others for most of the time"
    )


async def test_an_attempt_in_a_thread_has_the_cpu_of_its_thread() -> None:
    """Exactly: no other thread's counts."""
    measure = ActivityProfile(Where.THREAD)
    meter = LoopMeter(measures={"job": measure})
    stay = meter.enter_thread("job")
    assert meter.stepping.is_set()
    thread = threading.Thread(target=lambda: stay.run(lambda: (spend(0.02), threading.Event().wait(0.05))))
    thread.start()
    thread.join()
    spend(0.02)
    meter.leave_thread("job", stay)
    assert not meter.stepping.is_set()
    assert 0.02 <= measure[Metric.CPU_S] < 0.04
    assert measure[Metric.WALL_S] >= 0.07
    assert measure[Metric.WAIT_S] >= 0.049
    assert dict(meter.in_threads) == {}


def test_a_handler_that_raises_in_its_thread_is_measured_too() -> None:
    """Failures cost as much as successes."""
    measure = ActivityProfile(Where.THREAD)
    stay = Stay(measure, alone=False)
    with pytest.raises(ValueError, match="mine"):
        stay.run(lambda: (spend(0.002), int("mine")))
    stay.end(alone=False)
    assert measure[Metric.CPU_S] >= 0.002


def test_memory_counts_only_for_attempts_that_ran_alone() -> None:
    """The growth of the process cannot be assigned to one of several."""
    measure = ActivityProfile(Where.LOOP)
    kept = []
    for began, ended in ((True, True), (True, False), (False, True)):
        sample = LoopSample(measure, alone=began)
        kept.append(mmap.mmap(-1, 40_000_000))  # never served from memory that was freed before
        for page in range(0, 40_000_000, mmap.PAGESIZE):
            kept[-1][page] = 1
        sample.end(alone=ended)
    assert measure[Metric.ALONE] == 1
    assert measure[Metric.GROWTH_BYTES] == pytest.approx(40e6, rel=0.2)


async def test_most_attempts_of_a_light_activity_are_only_counted() -> None:
    """A look at the thread's CPU costs more than a light step."""
    measure = ActivityProfile(Where.LOOP)
    meter = LoopMeter(measures={"job": measure})

    async def nothing() -> None: ...

    sampled = []
    for _ in range(SAMPLED_FIRST + 2 * SAMPLED_EVERY):
        sample = meter.sample_of("job")
        sampled.append(sample is not None)
        await Steps(nothing(), meter, whose("job"), sample)  # type: ignore[arg-type]
    assert all(sampled[:SAMPLED_FIRST])
    assert sum(sampled[SAMPLED_FIRST:]) == 2
    assert measure[Metric.ATTEMPTS] == len(sampled)
    assert meter.sample_of("stranger") is None


async def test_of_attempts_that_begin_together_no_more_are_samples() -> None:
    """A full poll's batch begins before one of it ends: by those that have ended all or none would be samples."""
    measure = ActivityProfile(Where.LOOP)
    meter = LoopMeter(measures={"job": measure})

    async def nothing() -> None: ...

    for _ in range(1 + 2 * SAMPLED_EVERY // SAMPLED_FIRST):
        await asyncio.gather(*(run(meter, nothing()) for _ in range(SAMPLED_FIRST)))
    assert measure[Metric.SAMPLES] == SAMPLED_FIRST + 2


# The GIL


class Watched:
    """A meter as the watchdog finds it, and the probe that judges it; one activity on the loop, one in a thread."""

    def __init__(self) -> None:
        self.measures = {"step": ActivityProfile(Where.LOOP), "thread": ActivityProfile(Where.THREAD)}
        self.meter = LoopMeter(measures=self.measures)
        self.probe = GilProbe(self.meter, self.measures)

    def on_loop_since(self, began: float) -> Watched:
        self.meter.attempt, self.meter.since = whose("step"), began
        return self

    def was_on_loop(self, began: float, ended: float) -> Watched:
        self.meter.last_long = LongStep("step", began, ended)
        return self

    def with_threads(self, *names: str) -> Watched:
        self.meter.in_threads.update(names)
        return self

    def judged(self, late_s: float, loop_s: float = 0.0) -> dict[str, list[bool]]:
        """What a probe that was due at 10.0 says: for each activity that it is about, whether it was released."""
        self.probe.judge(10.0, late_s, loop_s)
        return {
            name: [bool(measure[Metric.RELEASED])]
            for name, measure in self.measures.items()
            if measure[Metric.PROBES]
        }


LATE_S, SOON_S = 0.005, 0.0001


def test_a_step_that_is_on_is_blamed_or_praised() -> None:
    """The lock was to be had at once, or not."""
    assert Watched().on_loop_since(9.0).judged(SOON_S) == {"step": [True]}
    assert Watched().on_loop_since(9.0).judged(LATE_S) == {"step": [False]}


def test_a_step_that_has_ended_is_blamed_but_never_praised() -> None:
    """It may have been about to end when the probe woke."""
    assert Watched().was_on_loop(9.0, 10.004).judged(LATE_S) == {"step": [False]}
    assert Watched().was_on_loop(9.0, 10.004).judged(SOON_S) == {}


def test_a_step_that_began_later_has_nothing_to_do_with_it() -> None:
    """Only who was at work when the probe wanted to wake."""
    assert Watched().on_loop_since(10.001).judged(LATE_S) == {}
    assert Watched().was_on_loop(9.0, 9.9).judged(LATE_S) == {}


def test_beside_a_thread_a_step_is_not_blamed() -> None:
    """Its thread may have kept the lock from both; that it was free is certain all the same."""
    assert Watched().on_loop_since(9.0).with_threads("thread").judged(LATE_S) == {}
    assert Watched().on_loop_since(9.0).with_threads("thread").judged(SOON_S) == {"step": [True]}


def test_a_thread_is_judged_while_the_loop_rests() -> None:
    """Several attempts of one activity are one; of several activities none is blamed."""
    assert Watched().with_threads("thread", "thread").judged(LATE_S) == {"thread": [False]}
    assert Watched().with_threads("thread").judged(SOON_S) == {"thread": [True]}
    assert Watched().with_threads("thread").judged(LATE_S, loop_s=0.004) == {}
    assert Watched().with_threads("thread", "step").judged(LATE_S) == {}
    assert Watched().judged(LATE_S) == {}


# The shared table


def test_what_is_written_can_be_read_and_cleared() -> None:
    """By name and place; the count of entries is the table's own."""
    table = WorkTable.private()
    measures = ActivityProfiles({"a": Where.LOOP, "b" * 300: Where.THREAD}, table)
    measures.by_name["a"].kept_loop(0.5, 0.25)
    measures.publish([7.0, *[1.0] * (Load.LATE + 15)])
    work = table.read()
    assert list(work.entries) == [("a", Where.LOOP), ("b" * 248, Where.THREAD)]
    assert work.entries["a", Where.LOOP][Metric.KEPT_S] == 0.5
    assert (work.load[Load.ENTRIES], work.load[Load.ACTIVE_S]) == (2, 1)
    table.clear()
    assert table.read() == Work()


def test_activities_beyond_the_room_are_not_measured() -> None:
    """An app of hundreds still runs; its first ones are measured."""
    measures = ActivityProfiles({f"a{number}": Where.LOOP for number in range(ENTRIES + 3)})
    assert len(measures.by_name) == ENTRIES
    measures.publish([0.0] * (Load.LATE + 16))


def test_sums_add_up_but_the_longest_stays_the_longest() -> None:
    """Two processes of 80 ms each have blocked for 80 ms, not for 160."""
    key = ("a", Where.LOOP)
    parts = []
    for longest_s in (0.08, 0.03):
        table = WorkTable.private()
        measures = ActivityProfiles({"a": Where.LOOP}, table)
        measures.by_name["a"].kept_loop(0.1, longest_s)
        measures.publish([0.0, 2.0, *[0.0] * (Load.LATE + 14)])
        parts.append(table.read())
    total = Work.sum_of(parts)
    figures = total.entries[key]
    assert figures[Metric.WHERE] == Where.LOOP
    assert (figures[Metric.ATTEMPTS], figures[Metric.KEPT_S], figures[Metric.LONGEST_BLOCK_S]) == (
        2,
        0.2,
        0.08,
    )
    assert total.load[Load.ACTIVE_S] == 4


def test_what_ended_incarnations_measured_does_not_vanish() -> None:
    """A host that restarts its processes would else never have 30 samples."""
    ledger = Ledger(processes=2, records=4)
    for incarnation, places in enumerate(({"a": Where.LOOP}, {"a": Where.LOOP, "b": Where.THREAD}), start=1):
        segment = open_segment(ledger, incarnation=incarnation)
        RecordWriter(segment)
        measures = ActivityProfiles(places, segment.work)
        measures.by_name["a"].kept_loop(0.1, 0.1)
        measures.publish([0.0, 2.0, *[0.0] * (Load.LATE + 14)])
        before = ledger.work()
        assert before.entries["a", Where.LOOP][Metric.ATTEMPTS] == incarnation
        segment.end(Cause.CRASH, 9)
        assert ledger.work() == before
        ledger.absorb(segment)
        assert ledger.work().entries == before.entries, "settled: once, and not twice"
        assert ledger.work().load[Load.ACTIVE_S] == 2.0 * incarnation
    RecordWriter(open_segment(ledger, incarnation=3))
    assert ledger.work().entries == before.entries, "a new one begins empty, in the same segment"


def test_a_reading_of_the_lag_publishes_load_and_lag() -> None:
    """How busy, how full, how late: what the number of processes and slots rests on."""
    ledger = Ledger(processes=1, records=4)
    segment = open_segment(ledger)
    RecordWriter(segment)
    segment.put(Cell.LIMIT, 1)
    segment.put(Cell.RUNNING, 1)
    meter = LoopMeter()
    load = BusyShareMeter(segment, meter, ActivityProfiles({}, segment.work))
    load.begins()
    meter.busy_s += 0.2
    load.reads(0.003, 0.25, 0.001)
    segment.put(Cell.RUNNING, 0)
    load.reads(0.0, 0.25, 0.0)
    seen = ledger.work().load
    assert seen[Load.ACTIVE_S] == 0.5
    assert seen[Load.BUSY_S] == pytest.approx(0.2, abs=0.02), "a loop that blocks takes no CPU, but is busy"
    assert seen[Load.FULL_S] == 0.25
    assert (seen[Load.LATE], seen[Load.LATE + 2]) == (0.25, 0.25)
    assert segment.clock(Clock.LOOP_LAG_S) == 0.0
