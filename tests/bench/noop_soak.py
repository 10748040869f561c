"""Growth of a worker process: `python tests/bench/noop_soak.py [--activities 200000] [--every 10000]`.

One worker process behind the supervisor and the stub engine; its resident memory, descriptors and threads are read
at intervals. Shown are the slope of the memory over the second half, in MB per 100,000 activities, and what the
last reading has more than the first. It takes minutes.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from bench_kit import arguments, flowherd, run, running, running_stub, slots, tree
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import psutil

OURS = "flowherd -p 1"
SLOPE, FDS, THREADS = (
    "MB more per 100,000, second half",
    "descriptors more, without connections",
    "threads more",
)
GATES = [Gate(SLOPE, OURS, "<=", 0.5), Gate(FDS, OURS, "<=", 0), Gate(THREADS, OURS, "<=", 0)]


def worker_of(root: psutil.Process) -> psutil.Process:
    """Returns the host's only worker process."""
    return next(process for process in tree(root) if "process 0" in " ".join(process.cmdline()))


def read(worker: psutil.Process) -> dict[str, float]:
    """Reads figures that must not grow; connections to the engine are opened as needed, up to a bound."""
    with worker.oneshot():
        return {
            "rss_mb": worker.memory_info().rss / 1e6,
            "fds": worker.num_fds() - len(worker.net_connections("tcp")),
            "threads": worker.num_threads(),
        }


def soak(activities: int, every: int) -> list[dict[str, float]]:
    """Runs the no-ops and returns the readings."""
    with (
        running_stub() as stub,
        running(flowherd("noop_worker", "-p", "1"), stub.url, **slots(64, 100)) as root,
    ):
        readings = []
        for _ in range(activities // every):
            stub.do(every)
            readings.append(read(worker_of(root)))
        return readings


def slope_mb(readings: list[dict[str, float]], every: int) -> float:
    """Returns MB of resident memory per 100,000 activities, over the second half: the first fills caches and pools."""
    half = [reading["rss_mb"] for reading in readings[len(readings) // 2 :]]
    return statistics.linear_regression(range(len(half)), half).slope * 100_000 / every


def measure(activities: int, every: int) -> dict[str, float]:
    """Measures one worker."""
    readings = soak(activities, every)
    first, last = readings[0], readings[-1]
    return {
        "MB at the end": last["rss_mb"],
        SLOPE: slope_mb(readings, every),
        FDS: last["fds"] - first["fds"],
        THREADS: last["threads"] - first["threads"],
    }


def main() -> int:
    """Measures `--repeat` workers, by default one."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--activities", type=int, default=200_000)
    parser.add_argument("--every", type=int, default=10_000, help="a reading")
    options = parser.parse_args()
    sheet = Sheet("soak", f"{options.activities} no-ops in one process", GATES)
    return run(sheet, options, {OURS: lambda: measure(options.activities, options.every)})


if __name__ == "__main__":
    sys.exit(main())
