"""The handler on the loop, and its time there."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from flowherd.execution.blocked_loop import BLOCKED_S, Occupied, Watchdog
from flowherd.execution.loop_meter import LIGHT_S, LoopMeter
from flowherd.execution.on_loop import Steps

if TYPE_CHECKING:
    from pathlib import Path


class Marks:
    """Stores the marks."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, tag: int) -> None:
        self.seen.append(tag)


async def run(meter: LoopMeter, work: object, name: str = "job", tag: int = 7) -> None:
    await stepped(meter, work, name, tag)


async def stepped(meter: LoopMeter, work: object, name: str = "job", tag: int = 7) -> None:
    """As the executor steps a handler."""
    whose = SimpleNamespace(index=tag - 1, sequence=1, activity=SimpleNamespace(name=name))
    await Steps(work, meter, whose, meter.sample_of(name))  # type: ignore[arg-type]


async def test_the_mark_stands_only_for_the_length_of_each_step() -> None:
    """While a handler waits, the loop's time is not charged to it."""
    marks = Marks()
    during: list[int] = []

    async def work() -> None:
        during.append(marks.seen[-1])
        await asyncio.sleep(0)
        during.append(marks.seen[-1])

    await run(LoopMeter(marks), work())
    assert during == [7, 7]
    assert marks.seen == [7, 0, 7, 0]


async def test_nothing_is_called_light_before_it_has_been_measured() -> None:
    """A child that takes unknown work for light would claim more of it than it can start."""
    meter = LoopMeter()

    async def light() -> None:
        await asyncio.sleep(0)

    assert not meter.is_light("light")
    await run(meter, light(), "light")
    assert meter.is_light("light")


def test_a_thread_that_computes_is_as_heavy_as_a_handler_on_the_loop_and_blocks_nobody() -> None:
    """A process that knows it must not claim sixteen of them, although its loop is free."""
    meter = LoopMeter()
    stay = meter.enter_thread("compute")
    stay.run(lambda: _compute(4 * LIGHT_S))
    meter.leave_thread("compute", stay)
    assert not meter.is_light("compute")
    assert meter.busy_mean_s >= LIGHT_S
    stay = meter.enter_thread("wait")
    stay.run(lambda: None)
    meter.leave_thread("wait", stay)
    assert meter.is_light("wait")


async def test_the_mean_rises_at_once_with_heavy_work_and_falls_slowly() -> None:
    meter = LoopMeter()
    means = []
    for busy_s in (0.3, 0.0):
        meter.sample_of("job")
        meter.ended("job", busy_s, busy_s)
        means.append(meter.busy_mean_s)
    assert means[0] >= 0.15
    assert means[1] >= 0.8 * means[0]


async def test_exceptions_and_cancellations_pass_through_unchanged() -> None:
    """The wrapper is invisible to handlers."""
    meter = LoopMeter()
    caught: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            caught.append("cancelled")
            raise

    async def fails() -> None:
        raise ValueError("mine")

    task = asyncio.get_running_loop().create_task(stepped(meter, stubborn()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caught == ["cancelled"]
    with pytest.raises(ValueError, match="mine"):
        await run(meter, fails())
    assert not meter.stepping.is_set()


async def test_the_watchdog_names_the_line_that_blocks_and_counts_each_step_once() -> None:
    """C11: the first frame outside the standard library and installed packages."""
    meter, found = LoopMeter(), []
    watchdog = Watchdog(meter, lambda _: found.append(1))
    places: list[str | None] = []

    async def blocks() -> None:
        looker = threading.Thread(target=lambda: places.extend(_look_twice(watchdog)))
        looker.start()
        _spend(BLOCKED_S * 2)
        looker.join()

    assert watchdog.look() is None
    await run(meter, blocks())
    assert places[0] is not None
    assert places[0].startswith(__file__)
    assert places[1] is None
    assert found == [1]


async def test_a_step_that_waited_for_the_gil_of_a_thread_that_has_ended_occupied_no_loop() -> None:
    """N30: the watchdog looks after both."""
    meter = LoopMeter()
    told: list[Occupied] = []
    watchdog = Watchdog(meter, lambda _: None, occupied=told.append)
    holds = threading.Thread(target=lambda: sum(range(10_000_000)))

    async def waits() -> None:
        holds.start()
        while holds.is_alive():
            threading.Event().wait(0.001)

    stay = meter.enter_thread("holds")
    await run(meter, waits())
    meter.leave_thread("holds", stay)
    assert meter.occupying
    watchdog.look()
    assert told == []


async def test_a_first_import_occupies_the_loop_once_and_is_no_habit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process imports a module once, so two of them would move an innocent activity."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.6)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    meter, occupied = LoopMeter(), []
    watchdog = Watchdog(meter, lambda _: None, occupied=occupied.append)
    places: list[str | None] = []

    async def imports() -> None:
        looker = threading.Thread(target=lambda: places.extend(_look_twice(watchdog)))
        looker.start()
        importlib.import_module("slow_to_import")
        looker.join()

    watchdog.look()
    await run(meter, imports())
    watchdog.look()
    assert places[0] is not None, "it was seen"
    assert occupied == []


def _look_twice(watchdog: Watchdog) -> list[str | None]:
    give_up_at = time.monotonic() + 5
    first = None
    while first is None and time.monotonic() < give_up_at:
        first = watchdog.look()
        threading.Event().wait(0.01)
    return [first, watchdog.look()]


def _spend(seconds: float) -> None:
    """Keeps the loop, as a computation does."""
    stop_at = time.perf_counter() + seconds
    while time.perf_counter() < stop_at:
        pass


def _compute(seconds: float) -> None:
    """Takes so much of a core, however many others want it."""
    stop_at = time.thread_time() + seconds
    while time.thread_time() < stop_at:
        pass
