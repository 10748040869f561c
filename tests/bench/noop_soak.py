"""Whether a worker process grows: `python tests/bench/noop_soak.py [--activities 200000] [--json]`.

One worker process behind the supervisor and the stub engine; its resident memory, descriptors and threads are read
every 10,000 no-ops. Printed are the slope of the memory over the second half, in MB per 100,000 activities, and the
numbers at the first and the last reading. It takes minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import TYPE_CHECKING

from bench_kit import flowherd, running, running_stub, slots, tree

if TYPE_CHECKING:
    import psutil

EVERY = 10_000


def worker_of(root: psutil.Process) -> psutil.Process:
    """The host's only worker process."""
    return next(process for process in tree(root) if "process 0" in " ".join(process.cmdline()))


def read(worker: psutil.Process) -> dict[str, float]:
    """What must not grow."""
    with worker.oneshot():
        return {
            "rss_mb": worker.memory_info().rss / 1e6,
            "fds": worker.num_fds(),
            "threads": worker.num_threads(),
        }


def soak(activities: int) -> list[dict[str, float]]:
    """A reading for every `EVERY` activities."""
    with (
        running_stub() as stub,
        running(flowherd("noop_worker", "-p", "1"), stub.url, **slots(64, 100)) as root,
    ):
        readings = []
        for _ in range(activities // EVERY):
            stub.tell("clear")
            stub.tell("fill", count=EVERY)
            stub.tell("wait", count=EVERY)
            readings.append(read(worker_of(root)))
        return readings


def slope_mb(readings: list[dict[str, float]]) -> float:
    """MB of resident memory per 100,000 activities, over the second half: the first fills caches and pools."""
    half = [reading["rss_mb"] for reading in readings[len(readings) // 2 :]]
    return statistics.linear_regression(range(len(half)), half).slope * 100_000 / EVERY


def main() -> None:
    """Prints the slope and both ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    readings = soak(options.activities)
    found = {"slope_mb": slope_mb(readings), "first": readings[0], "last": readings[-1]}
    if options.json:
        print(json.dumps({"options": vars(options), **found, "readings": readings}))
        return
    print(f"{options.activities} no-ops: {found['slope_mb']:+.2f} MB per 100,000 in the second half")
    for name, reading in (("first", readings[0]), ("last", readings[-1])):
        print(
            f"{name:6}{reading['rss_mb']:8.1f} MB{reading['fds']:6.0f} fds{reading['threads']:4.0f} threads"
        )


if __name__ == "__main__":
    main()
