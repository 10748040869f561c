"""The cost of isolates compared with separate processes and a ProcessPoolExecutor.

    python tests/bench/offload_cost.py [--calls 400] [--large 30] [--repeat 5] [--json FILE] [--only PART]

Three parts:

* handlers of 5 ms CPU: two isolates of one worker, and four, so that no core waits; two processes with a runner
  each; a pool of two;
* handlers of next to no CPU: what one call costs;
* a parameter of 10 MB: how many a second, and what it costs the worker's own process.

Ratios hold, absolute figures are this machine's. No engine: runners are handed their activities.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from bench_kit import APPS, arguments, in_turn
from sheet import Sheet

sys.path.insert(0, str(APPS))

import offload_app
from isolate_kit import Fork, running_forker, workplace
from runner_kit import Runner

from flowherd.event_loop import new_loop
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

APP = "offload_app:registry"
WORKERS = 2
LARGE = {"text": "x" * 10_000_000}
FIVE, SMALL, TEN_MB = "5 ms", "small", "10 MB"
POOL, ISOLATES = "pool of 2", "2 isolates"


def rate(call: str) -> str:
    """The name of a figure."""
    return f"{call}, a second"


def cost(call: str) -> str:
    """The name of a figure: the cost of a call for the calling process."""
    return f"{call}, own CPU ms each"


async def isolates(
    forker: Fork, call: str, name: str, count: int, parameters: object = None, slots: int = WORKERS
) -> dict[str, float]:
    """Calls of one kind in as many isolates as slots."""
    async with workplace(forker, app=APP, folder=APPS, concurrency=slots, max_tasks=10**6) as place:
        return await _side_by_side(call, lambda: place.outcome(name, parameters), count, slots)


async def pool(executor: ProcessPoolExecutor, call: str, count: int, *work: object) -> dict[str, float]:
    """Measures the same with pickle."""
    loop = asyncio.get_running_loop()
    work_once = lambda: loop.run_in_executor(executor, *work)  # noqa: E731
    return await _side_by_side(call, work_once, count, WORKERS)


async def _side_by_side(
    call: str, work: Callable[[], Awaitable[object]], count: int, at_a_time: int
) -> dict[str, float]:
    async def some(times: int) -> None:
        for _ in range(times):
            await work()

    await asyncio.gather(*(some(2) for _ in range(at_a_time)))
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(some(count // at_a_time) for _ in range(at_a_time)))
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {rate(call): count / took, cost(call): cpu / count * 1000}


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs on the loop that workers use."""
    with asyncio.Runner(loop_factory=new_loop("auto")) as runner:
        return runner.run(work)


def processes(number: int, count: int) -> float:
    """Measures calls per second of several processes, each with a runner, begun together."""
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    pids = []
    for _ in range(number):
        if (pid := os.fork()) == 0:
            try:
                os.close(go_write)
                os.read(go_read, 1)
                _run(_on_own_loop(count // number))
                os.write(done_write, b"x")
            finally:
                os._exit(0)
        pids.append(pid)
    begun = time.perf_counter()
    os.close(go_write)
    for _ in pids:
        os.read(done_read, 1)
    took = time.perf_counter() - begun
    for pid in pids:
        os.waitpid(pid, 0)
    for fd in (go_read, done_read, done_write):
        os.close(fd)
    return count / took


async def _on_own_loop(count: int) -> None:
    registry = offload_app.registry.for_type("py-std")
    on_loop = type(registry)()
    on_loop.add(registry.lookup("five_ms_on_loop"))
    runner = Runner(on_loop, WorkerConfig(worker_id="b"), ThreadPool(1), RunEnvironment())
    for number in range(count):
        await runner.start(make_activity("five_ms_on_loop", number=number)).outcome()


def contenders(forker: Fork, options: argparse.Namespace) -> dict[str, Callable[[], dict[str, float]]]:
    """Returns each contender with the parts that it supports."""
    large = msgspec.Raw(msgspec.json.encode(LARGE))
    small_calls = options.calls * 5

    def two_isolates() -> dict[str, float]:
        return {
            **_run(isolates(forker, FIVE, "five_ms_isolated", options.calls)),
            **_run(isolates(forker, SMALL, "size_isolated", small_calls, {"text": ""})),
            **_run(isolates(forker, TEN_MB, "size_isolated", options.large, large)),
        }

    def a_pool() -> dict[str, float]:
        with ProcessPoolExecutor(WORKERS) as executor:
            return {
                **_run(pool(executor, FIVE, options.calls, offload_app.five_ms)),
                **_run(pool(executor, SMALL, small_calls, offload_app.size_of, {"text": ""})),
                **_run(pool(executor, TEN_MB, options.large, offload_app.size_of, LARGE)),
            }

    return {
        POOL: a_pool,
        ISOLATES: two_isolates,
        "4 isolates": lambda: _run(
            isolates(forker, FIVE, "five_ms_isolated", options.calls, slots=2 * WORKERS)
        ),
        "1 process": lambda: {rate(FIVE): processes(1, options.calls // 2)},
        "2 processes": lambda: {rate(FIVE): processes(WORKERS, options.calls)},
    }


def main() -> int:
    """Measures all in turn, `--repeat` times."""
    parser = arguments(__doc__, repeat=5)
    parser.add_argument("--calls", type=int, default=400, help="of 5 ms")
    parser.add_argument("--large", type=int, default=30, help="calls with 10 MB")
    options = parser.parse_args()
    sheet = Sheet("offload", f"{options.calls} calls of 5 ms, {options.large} with 10 MB")
    with running_forker(APP, APPS) as forker:
        in_turn(sheet, options, contenders(forker, options))
    for call in (FIVE, SMALL, TEN_MB):
        sheet.compare(rate(call), POOL)
    sheet.compare(cost(TEN_MB), POOL)
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
