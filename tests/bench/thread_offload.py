"""What threads gain where the GIL is free and where it is not, and that waiting costs nobody anything.

    python tests/bench/thread_offload.py [--batches 9] [--json]

One unchanged stock worker program everywhere. Its `async def` activities are moved to threads by the settings file
alone: 50 ms of NumPy that gives the GIL up, and 50 ms of pure Python, on one process with one slot and with two. The
four take turns, batch after batch, so that what else the machine does meets all of them; the shortest batch of each
counts, since it was disturbed least. "CPUs wanted" is what the kernel says of the worker's threads, running or ready to
run, for each second of all batches. "Bare" is the same NumPy in threads of this program, without any worker: what the
machine has to give at this moment. Then 400 waits of half a second on 16 slots, for the stock worker and for flowherd
with one and four processes, at the same time; 12.5 s is ideal. All times are the engine's: from the first claim to the
last accepted completion. Needs `kruxiaflow` and `numpy`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from bench_kit import CREDENTIALS, flowherd, running, slots, stock, tree
from harness import Engine, running_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

BATCH = 60  # so that what a batch takes to be submitted and seen weighs little
NUMBERS = np.random.default_rng(7).random(1_000_000)
WAITS, SLOTS, WAIT_S = 400, 16, 0.5
IDEAL_S = WAITS / SLOTS * WAIT_S
IN_THREADS = '[activities.numbers]\noffload = "thread"\n\n[activities.python]\noffload = "thread"\n'
CEILING_S = 120.0


@dataclass
class Contender:
    """A worker that runs, and its engine.

    Attributes:
        wanted_s: seconds that its threads ran or were ready to run, over all batches.
        batches_s: how long these took.

    """

    engine: Engine
    root: psutil.Process
    accepted: int = 0
    wanted_s: float = 0.0
    batches_s: float = 0.0

    def batch_s(self, activity: str) -> float:
        """Seconds of one batch."""
        wanted_before = wanted_s(self.root)
        seconds = self.took_s(activity, BATCH)
        self.wanted_s += wanted_s(self.root) - wanted_before
        self.batches_s += seconds
        return seconds

    def took_s(self, activity: str, count: int) -> float:
        """Seconds from the first claim to the last completion of so many activities."""
        claimed = len(self.engine.entries("claim"))
        self.engine.submit(activity, count)
        self.accepted += count
        ended = self.engine.wait_for("complete", self.accepted, within_s=CEILING_S)
        begun_at = min(entry["at_s"] for entry in self.engine.entries("claim")[claimed:])
        return max(entry["at_s"] for entry in ended[-count:]) - begun_at


def wanted_s(root: psutil.Process) -> float:
    """Seconds that all threads of a worker program ever ran, or waited for a CPU."""
    stats = [
        path.read_text().split()
        for process in tree(root)
        for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    ]
    return sum(int(ran) + int(queued) for ran, queued, _ in stats) / 1e9


@contextmanager
def contending(words: tuple[str, ...], activity: str, concurrency: int) -> Iterator[Contender]:
    """The worker for as long as the block lasts; it has run one activity already."""
    credentials = (CREDENTIALS["KRUXIAFLOW_CLIENT_ID"], CREDENTIALS["KRUXIAFLOW_CLIENT_SECRET"])
    with (
        running_engine(credentials=credentials) as engine,
        running(words, engine.url, **slots(concurrency, 10)) as root,
    ):
        contender = Contender(engine, root)
        contender.took_s(activity, 1)
        yield contender


def bare_s(count: int) -> float:
    """Seconds of one batch of the same NumPy in so many threads, without a worker."""
    results = [np.empty_like(NUMBERS) for _ in range(count)]

    def compute(found: np.ndarray) -> None:
        for _ in range(4 * BATCH // count):
            np.sin(NUMBERS, out=found)

    crew = [threading.Thread(target=compute, args=(found,)) for found in results]
    begun_at = time.perf_counter()
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    return time.perf_counter() - begun_at


def offloaded(settings: str, batches: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The seconds of each batch on one process with one thread and with two, and the CPUs wanted meanwhile."""
    took: dict[str, list[float]] = {}
    with ExitStack() as stack:
        rows = {
            f"{activity}, {count} thread{'s' * (count > 1)}": (activity, stack.enter_context(contending(
                flowherd("offload_worker", "-p", "1", "-c", str(count), "--config", settings), activity, count
            )))
            for activity in ("numbers", "python")
            for count in (1, 2)
        }  # fmt: skip
        for _ in range(batches):
            for count in (1, 2):
                took.setdefault(f"bare numpy, {count} thread{'s' * (count > 1)}", []).append(bare_s(count))
            for name, (activity, contender) in rows.items():
                took.setdefault(name, []).append(contender.batch_s(activity))
        wanted = {name: found.wanted_s / found.batches_s for name, (_, found) in rows.items()}
    return took, wanted


def waits() -> dict[str, float]:
    """The seconds of all waits, for each that contends at the same time."""
    rows = {
        "waits, stock worker": stock("offload_worker"),
        "waits, flowherd -p 1": flowherd("offload_worker", "-p", "1"),
        "waits, flowherd -p 4": flowherd("offload_worker", "-p", "4"),
    }
    with ExitStack() as stack, ThreadPoolExecutor(len(rows)) as pool:
        running_ones = [stack.enter_context(contending(words, "wait", SLOTS)) for words in rows.values()]
        took = pool.map(lambda contender: contender.took_s("wait", WAITS), running_ones)
        return dict(zip(rows, took, strict=True))


def ratios(best: dict[str, float]) -> dict[str, float]:
    """What the table is about."""
    return {
        "bare numpy, 1 thread / 2": best["bare numpy, 1 thread"] / best["bare numpy, 2 threads"],
        "numbers, 1 thread / 2": best["numbers, 1 thread"] / best["numbers, 2 threads"],
        "python, 1 thread / 2": best["python, 1 thread"] / best["python, 2 threads"],
        "stock worker / ideal": best["waits, stock worker"] / IDEAL_S,
        "flowherd -p 1 / ideal": best["waits, flowherd -p 1"] / IDEAL_S,
        "flowherd -p 4 / ideal": best["waits, flowherd -p 4"] / IDEAL_S,
    }


def main() -> None:
    """Runs all, and prints the shortest time of each with its median, and the ratios of the shortest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "flowherd.toml"
        settings.write_text(IN_THREADS)
        runs, wanted = offloaded(str(settings), options.batches)
    runs |= {name: [seconds] for name, seconds in waits().items()}
    best = {name: min(times) for name, times in runs.items()}
    if options.json:
        print(
            json.dumps({"cores": os.cpu_count(), "ratios": ratios(best), "cpus_wanted": wanted, "runs": runs})
        )
        return
    print(f"{os.cpu_count()} cores, shared; shortest of {options.batches} batches of {BATCH}, and median")
    for name, times in runs.items():
        print(f"{name:26}{best[name]:8.2f} s{statistics.median(times):8.2f} s")
    for name, cpus in wanted.items():
        print(f"{name:26}{cpus:8.2f} CPUs wanted")
    for name, ratio in ratios(best).items():
        print(f"{name:26}{ratio:8.2f}")


if __name__ == "__main__":
    main()
