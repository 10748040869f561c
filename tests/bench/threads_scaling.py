"""What a second worker gains as a thread, beside what it gains as a process; needs a free-threaded Python.

    python3.14t tests/bench/threads_scaling.py [--activities 300] [--repeat 5] [--most 2] [--tries 40] [--json]

Handlers of about 5 ms pure Python, always the same amount of it, a stub engine, four slots a worker. All points are
measured in turns, so that a noisy neighbour meets each of them. A turn in which other programs used more than a tenth
of a CPU says nothing about us and is measured again, `--tries` turns at most; if none is calm, all are shown. Where
threads take turns there is nothing to measure of them: the program says so and measures processes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
from bench_kit import APPS, cpu_s, flowherd, running, running_stub, slots

from flowherd.process.free_threading import is_gil_enabled

sys.path.insert(0, str(APPS))

import scaling_app

if TYPE_CHECKING:
    from collections.abc import Sequence

HANDLER_S = 0.005
SLOTS_EACH = 4
WARM_UP = 40
CALM = 0.1  # CPUs that others may use in a turn that counts

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


@dataclass(frozen=True, slots=True)
class Run:
    """One point measured once.

    Attributes:
        per_s: activities a second.
        cpu_ms: of the whole host, for each activity.
        others: CPUs that other programs used meanwhile.

    """

    per_s: float
    cpu_ms: float
    others: float


def measure(point: Point, rounds: int, activities: int) -> Run:
    """One run of one point."""
    parallel, workers = point
    words = flowherd("scaling_app:registry", "-p", str(workers), "--parallel", parallel)
    order = {"name": "work", "parameters": {"rounds": rounds}}
    with running_stub() as stub, running(words, stub.url, **slots(SLOTS_EACH * workers, SLOTS_EACH)) as root:
        stub.tell("fill", count=WARM_UP, **order)
        stub.tell("wait", count=WARM_UP)
        stub.tell("clear")
        stub_s = stub.tell("fill", count=activities, **order)["cpu_s"]
        ours_s, all_s, began_s = cpu_s(root) + time.process_time(), _busy_s(), time.monotonic()
        stub_s = stub.tell("wait", count=activities)["cpu_s"] - stub_s
        wall_s, all_s = time.monotonic() - began_s, _busy_s() - all_s
        ours_s = cpu_s(root) + time.process_time() - ours_s
    return Run(activities / wall_s, 1e3 * ours_s / activities, (all_s - ours_s - stub_s) / wall_s)


def _busy_s() -> float:
    """CPU seconds of the machine so far; `guest` is counted in `user` already."""
    used = psutil.cpu_times()
    return sum(used) - used.idle - used.iowait - used.guest - used.guest_nice


def points(most: int, parallels: Sequence[str]) -> list[Point]:
    """All that is measured."""
    return [(parallel, workers) for parallel in parallels for workers in range(1, most + 1)]


Turn = dict[Point, Run]


def turns(wanted: Sequence[Point], options: argparse.Namespace) -> list[Turn]:
    """All points so many times in turn: calm turns if there are any."""
    rounds = rounds_of(HANDLER_S)
    calm: list[Turn] = []
    disturbed: list[Turn] = []
    while len(calm) < options.repeat and len(calm) + len(disturbed) < options.tries:
        turn = {point: measure(point, rounds, options.activities) for point in wanted}
        is_calm = max(run.others for run in turn.values()) <= CALM
        (calm if is_calm else disturbed).append(turn)
    print(f"{rounds} rounds; {len(calm)} calm turns, {len(disturbed)} disturbed", file=sys.stderr)
    return calm or disturbed


def main() -> None:
    """Measures, and prints medians and what each point gains over one worker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--most", type=int, default=2)
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parallels = ["processes"] if is_gil_enabled() else ["threads", "processes"]
    if is_gil_enabled():
        print("threads: left out, this Python has a GIL and they take turns", file=sys.stderr)
    found = turns(points(options.most, parallels), options)
    rows = [_row(point, found) for point in found[0]]
    if options.json:
        print(json.dumps({"options": vars(options), "cores": os.cpu_count(), "rows": rows}))
        return
    print(f"{os.cpu_count()} cores, shared; medians of {len(found)} turns; Python {sys.version}")
    print(f"{'':12}{'workers':>8}{'a second':>10}{'gain':>7}{'best':>7}{'CPU ms':>8}{'others':>8}   each run")
    for row in rows:
        print(
            f"{row['parallel']:12}{row['workers']:8}{row['per_s']:10.0f}{row['gain']:7.2f}{row['best']:7.2f}"
            f"{row['cpu_ms']:8.2f}{row['others']:8.2f}   {' '.join(f'{rate:.0f}' for rate in row['runs'])}"
        )


def _row(point: Point, found: Sequence[Turn]) -> dict[str, Any]:
    parallel, workers = point
    runs = [turn[point] for turn in found]
    gains = [turn[point].per_s / turn[parallel, 1].per_s for turn in found]
    return {
        "parallel": parallel,
        "workers": workers,
        "per_s": statistics.median(run.per_s for run in runs),
        "gain": statistics.median(gains),
        "best": max(gains),
        "cpu_ms": statistics.median(run.cpu_ms for run in runs),
        "others": statistics.median(run.others for run in runs),
        "runs": [run.per_s for run in runs],
    }


if __name__ == "__main__":
    main()
