"""`python tests/bench/offload_cost.py`: what isolates cost beside processes of their own and a ProcessPoolExecutor.

Three parts, measured in turns, so that a noisy neighbour meets all of them:

* handlers of 5 ms CPU: two isolates of one worker, and four, so that no core waits; two processes with a runner
  each; a pool of two;
* handlers of next to no CPU: what one call costs;
* a parameter of 10 MB: how many a second, and what it costs the worker's own process.

Ratios hold, absolute figures are this machine's. No engine: runners are handed their activities.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "apps"))

import offload_app
from isolate_kit import running_forker, workplace

from flowherd.config import WorkerConfig
from flowherd.process.loops import new_loop
from flowherd.running.environment import RunEnvironment
from flowherd.running.offload import ThreadPool
from flowherd.running.runner import Runner
from flowherd.testing import make_activity

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

FOLDER = Path(__file__).parent / "apps"
APP = "offload_app:registry"
WORKERS = 2
LARGE = {"text": "x" * 10_000_000}


async def isolates(
    forker: socket.socket, name: str, count: int, parameters: object = None, slots: int = WORKERS
) -> tuple[float, float]:
    """Calls a second of as many isolates as slots, and CPU ms of this process for each."""
    async with workplace(forker, app=APP, folder=FOLDER, concurrency=slots, max_tasks=10**6) as place:
        return await _side_by_side(lambda: place.outcome(name, parameters), count, slots)


async def pool(executor: ProcessPoolExecutor, count: int, *call: object) -> tuple[float, float]:
    """The same by pickle."""
    loop = asyncio.get_running_loop()
    call_it = lambda: loop.run_in_executor(executor, *call)  # type: ignore[arg-type]  # noqa: E731
    return await _side_by_side(call_it, count, WORKERS)


async def _side_by_side(
    call: Callable[[], Awaitable[object]], count: int, at_a_time: int
) -> tuple[float, float]:
    async def some(times: int) -> None:
        for _ in range(times):
            await call()

    await asyncio.gather(*(some(2) for _ in range(at_a_time)))
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(some(count // at_a_time) for _ in range(at_a_time)))
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return count / took, cpu / count * 1000


def _run(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that workers have."""
    with asyncio.Runner(loop_factory=new_loop("auto")) as runner:
        return runner.run(work)


def processes(number: int, count: int) -> float:
    """Calls a second of as many processes with a runner of their own, begun together."""
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


def main() -> None:
    """Prints medians."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--calls", type=int, default=400, help="of 5 ms")
    options.add_argument("--large", type=int, default=30, help="calls with 10 MB")
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args()
    seen: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, rate: float, cpu_ms: float = 0.0) -> None:
        seen.setdefault(name, []).append((rate, cpu_ms))

    raw = msgspec.Raw(msgspec.json.encode(LARGE))
    with running_forker(APP, FOLDER) as forker:
        for _ in range(given.repeat):
            note("5 ms: 1 process", processes(1, given.calls // 2))
            note("5 ms: 2 processes", processes(WORKERS, given.calls))
            note("5 ms: 2 isolates", *_run(isolates(forker, "five_ms_isolated", given.calls)))
            four = isolates(forker, "five_ms_isolated", given.calls, slots=2 * WORKERS)
            note("5 ms: 4 isolates", *_run(four))
            note(
                "small: 2 isolates",
                *_run(isolates(forker, "size_isolated", given.calls * 5, {"text": ""})),
            )
            note("10 MB: 2 isolates", *_run(isolates(forker, "size_isolated", given.large, raw)))
    for _ in range(given.repeat):
        with ProcessPoolExecutor(WORKERS) as executor:
            note("5 ms: pool of 2", *_run(pool(executor, given.calls, offload_app.five_ms)))
            call = (offload_app.size_of, {"text": ""})
            note("small: pool of 2", *_run(pool(executor, given.calls * 5, *call)))
            note("10 MB: pool of 2", *_run(pool(executor, given.large, offload_app.size_of, LARGE)))
    print(f"{os.cpu_count()} cores, shared; medians of {given.repeat}")
    print(f"{'':<20}{'calls/s':>10}{'own CPU ms/call':>18}   spread")
    for name in sorted(seen, reverse=True):
        rates, costs = zip(*seen[name], strict=True)
        cost = f"{statistics.median(costs):.2f}" if any(costs) else "-"
        print(f"{name:<20}{statistics.median(rates):>10.1f}{cost:>18}   {min(rates):.0f}-{max(rates):.0f}")
    rate = {name: statistics.median(run[0] for run in runs) for name, runs in seen.items()}
    for number in (2, 4):
        gain = rate[f"5 ms: {number} isolates"] / rate["5 ms: 2 processes"]
        print(f"{number} isolates / 2 processes at 5 ms: {gain:.2f}")
    print(f"2 processes / 1 at 5 ms: {rate['5 ms: 2 processes'] / rate['5 ms: 1 process']:.2f}")
    print(f"isolates / pool at 10 MB: {rate['10 MB: 2 isolates'] / rate['10 MB: pool of 2']:.1f}")


if __name__ == "__main__":
    main()
