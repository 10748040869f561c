"""What a second worker gains as a thread, beside what it gains as a process; needs a free-threaded Python.

    python3.14t tests/bench/threads_scaling.py [--activities 600] [--repeat 5] [--most 2] [--json]

Handlers of about 5 ms pure Python, always the same amount of it, a stub engine, four slots a worker. All points are
measured in turns, so that a noisy neighbour meets each of them. Where threads take turns there is nothing to measure
of them: the program says so and measures processes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING

from bench_kit import APPS, flowherd, running, running_stub, slots

from flowherd.process.free_threading import is_gil_enabled

sys.path.insert(0, str(APPS))

import scaling_app

if TYPE_CHECKING:
    from collections.abc import Sequence

HANDLER_S = 0.005
SLOTS_EACH = 4
WARM_UP = 40

Point = tuple[str, int]


def rounds_of(seconds: float) -> int:
    """How many rounds take so long here, when nothing disturbs: the best of many tries."""
    rounds = 100
    best_s = min(_timed(rounds) for _ in range(50))
    return max(1, round(rounds * seconds / best_s))


def _timed(rounds: int) -> float:
    began_s = time.thread_time()
    scaling_app.work(rounds)
    return time.thread_time() - began_s


def measure(point: Point, rounds: int, activities: int) -> float:
    """Activities a second."""
    parallel, workers = point
    words = flowherd("scaling_app:registry", "-p", str(workers), "--parallel", parallel)
    order = {"name": "work", "parameters": {"rounds": rounds}}
    with running_stub() as stub, running(words, stub.url, **slots(SLOTS_EACH * workers, SLOTS_EACH)):
        stub.tell("fill", count=WARM_UP, **order)
        stub.tell("wait", count=WARM_UP)
        stub.tell("clear")
        stub.tell("fill", count=activities, **order)
        began_s = time.monotonic()
        stub.tell("wait", count=activities)
        return activities / (time.monotonic() - began_s)


def points(most: int, parallels: Sequence[str]) -> list[Point]:
    """All that is measured."""
    return [(parallel, workers) for parallel in parallels for workers in range(1, most + 1)]


def main() -> None:
    """Measures all points in turn, `--repeat` times, and prints medians and what each gains over one worker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=600)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--most", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parallels = ["processes"] if is_gil_enabled() else ["threads", "processes"]
    if is_gil_enabled():
        print("threads: left out, this Python has a GIL and they take turns", file=sys.stderr)
    rounds = rounds_of(HANDLER_S)
    runs: dict[Point, list[float]] = {point: [] for point in points(options.most, parallels)}
    for _ in range(options.repeat):
        for point, found in runs.items():
            found.append(measure(point, rounds, options.activities))
    rates = {point: statistics.median(found) for point, found in runs.items()}
    gains = {
        point: statistics.median(many / one for many, one in zip(found, runs[point[0], 1], strict=True))
        for point, found in runs.items()
    }
    if options.json:
        rows = [
            {"parallel": p, "workers": n, "per_s": rates[p, n], "gain": gains[p, n], "runs": runs[p, n]}
            for p, n in runs
        ]
        print(json.dumps({"options": vars(options), "cores": os.cpu_count(), "rounds": rounds, "rows": rows}))
        return
    print(f"{rounds} rounds, {options.activities} activities; {os.cpu_count()} cores, shared; {sys.version}")
    print(f"{'':12}{'workers':>8}{'a second':>10}{'gain':>7}   each run")
    for (parallel, workers), found in runs.items():
        shown = " ".join(f"{rate:.0f}" for rate in found)
        rate, gain = rates[parallel, workers], gains[parallel, workers]
        print(f"{parallel:12}{workers:8}{rate:10.0f}{gain:7.2f}   {shown}")


if __name__ == "__main__":
    main()
