"""Handlers of every kind that `advise` must distinguish, and a worker that measures them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from runner_kit import Runner
from worker_kit import open_segment

from flowherd import Registry, activity
from flowherd.execution.activity_costs import ActivityProfiles
from flowherd.execution.busy_share import BusyShareMeter
from flowherd.execution.gil_probe import GilProbe
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.loop_lag import LagProbe
from flowherd.execution.loop_meter import LoopMeter
from flowherd.execution.run_environment import RunEnvironment
from flowherd.ledger import Cell, Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import Where
from flowherd.link.messages import SupervisorState
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity
from flowherd_supervisor.advise.advice_document import Adviser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

HAS_NUMPY = find_spec("numpy") is not None
SLOTS = 2
LIGHT_EVERY_S = 0.02
_BACKTRACKS = re.compile(r"(a+)+$")
_MODES = {"loop": Where.LOOP, "thread": Where.THREAD}


def compute(seconds: float) -> None:
    """Computes in pure Python for the given CPU time, regardless of load from other programs."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(200))


def search() -> None:
    """Backtracks in a regex for some 30 ms, in C, with the GIL."""
    _BACKTRACKS.match("a" * 20 + "b")


def _number_cruncher() -> Callable[[], None]:
    import numpy as np

    numbers = np.random.default_rng(7).random(600_000)

    def crunch() -> None:
        """Runs C code for some 30 ms without the GIL."""
        for _ in range(3):
            np.sin(numbers, out=np.empty_like(numbers))

    return crunch


def workloads() -> dict[str, Any]:
    """Returns a handler of each kind, by name."""
    crunch = _number_cruncher() if HAS_NUMPY else search

    async def python() -> None:
        compute(0.025)

    async def regex() -> None:
        search()

    async def numbers() -> None:
        crunch()

    async def blocking_io() -> None:
        time.sleep(0.025)  # noqa: ASYNC251 - blocks the loop on purpose

    async def async_io() -> None:
        await asyncio.sleep(0.025)

    async def no_op() -> None: ...

    def io_in_thread() -> None:
        time.sleep(0.025)

    def python_in_thread() -> None:
        compute(0.025)

    def numbers_in_thread() -> None:
        crunch()

    found = (python, regex, numbers, blocking_io, async_io, no_op)
    found += (io_in_thread, python_in_thread, numbers_in_thread)  # type: ignore[assignment]
    return {handler.__name__: handler for handler in found}


class MeasuredWorker:
    """Runs handlers as a worker does, without an engine, and computes advice from their costs."""

    def __init__(self, registry: Registry) -> None:
        self.ledger = Ledger(processes=1, records=4)
        self.segment = open_segment(self.ledger)
        RecordWriter(self.segment)
        self.segment.put(Cell.LIMIT, SLOTS)
        self.measures = ActivityProfiles(
            {found.name: _MODES[found.mode.value] for found in registry}, self.segment.work
        )
        meter = self.meter = LoopMeter(measures=self.measures.by_name)
        self.load = BusyShareMeter(self.segment, meter, self.measures)
        meter.on_busy = LagProbe(meter.stepping.is_set, self.load).start
        self._probe = GilProbe(meter, self.measures.by_name)
        self._has_ended = threading.Event()
        self._threads = ThreadPool(8)
        config = WorkerConfig(worker_id="test")
        self._runner = Runner(registry, config, self._threads, RunEnvironment(meter=meter))

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, handlers: list[Any], changes: Mapping[str, Mapping[str, Any]] | None = None
    ) -> AsyncIterator[MeasuredWorker]:
        """A worker with these handlers, some of them moved as by `[activities.NAME]`."""
        worker = cls(Registry.of(activity(handler) for handler in handlers).configured(changes or {}))
        prober = threading.Thread(target=worker._look, daemon=True)
        prober.start()
        try:
            yield worker
        finally:
            worker._has_ended.set()
            worker._threads.close()
            await asyncio.get_running_loop().run_in_executor(None, prober.join)

    def _look(self) -> None:
        while not self._has_ended.is_set():
            self._probe.nap(0.03)

    async def run(self, name: str) -> float:
        """Runs one attempt; returns its duration from the start in seconds."""
        began = time.perf_counter()
        run = self._runner.start(make_activity(name, {}))
        self.segment.add(Cell.RUNNING)
        try:
            await run.ended()
        finally:
            self.segment.add(Cell.RUNNING, -1)
        return time.perf_counter() - began

    async def work(self, name: str, attempts: int) -> None:
        """Runs `count` attempts, two at a time."""
        for _ in range(attempts // SLOTS):
            await asyncio.gather(*(self.run(name) for _ in range(SLOTS)))

    async def work_beside_light(self, name: str, attempts: int) -> float:
        """Does the same beside light attempts at a steady rate; returns the p95 of the light ones."""
        heavy = asyncio.create_task(self.work(name, attempts))
        light: list[asyncio.Task[float]] = []
        due = time.monotonic()
        while not heavy.done():
            light.append(asyncio.create_task(self._light(due)))
            due += LIGHT_EVERY_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        took = sorted(await asyncio.gather(*light))
        return took[int(0.95 * (len(took) - 1))]

    async def _light(self, due: float) -> float:
        """Runs a light attempt; measures from its due time, so that a blocked loop cannot hide the delay."""
        await self.run("async_io")
        return time.monotonic() - due

    def document(self) -> dict[str, Any]:
        """Returns the document of `flowherd advise --json`."""
        self.load.publish()
        said = SupervisorState(state="running", wanted=1, total_slots=SLOTS, restarts={})
        return Adviser(self.ledger, cpus=2).document(said)

    def advice(self, name: str) -> dict[str, Any]:
        """Returns the row of one activity."""
        return next(row for row in self.document()["activities"] if row["activity"] == name)
