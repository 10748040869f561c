"""The gain of a second worker for handlers that compute: as a process, and as a thread of a free-threaded Python.

    python tests/bench/cpu_scaling.py [--activities 300] [--repeat 5] [--most 2] [--tries 40] [--json FILE]
                                      [--tuned PYTHON] [--rust PROGRAM] [--only PART]

Handlers of about 5 ms pure Python, always the same amount of it, a stub engine, four slots a worker. The stock worker,
and the public Rust SDK with 5 ms of its own, are one process each. All are measured in turns, so that a noisy neighbour
meets each of them. A turn in which other programs used more than a tenth of a CPU says nothing about us and is measured
again, `--tries` turns at most; if none is calm, all are shown. Where threads take turns there is nothing to measure of
them: they are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

import psutil
from bench_kit import APPS, STUB, arguments, cpu_s, flowherd, in_turn, rivals, running, running_stub, slots
from sheet import STOCK, Gate, Sheet

from flowherd.free_threading import is_gil_enabled

sys.path.insert(0, str(APPS))

from rounds import rounds_of

HANDLER_S = 0.005
SLOTS_EACH = 4
WARM_UP = 40
CALM = 0.1  # CPUs that other programs may use in a valid turn
RATE, GAIN, OTHERS = "a second", "times one of its kind, same turn", "CPUs that others used"
TWO = "flowherd -p 2"
GATES = [Gate(GAIN, TWO, ">=", 1.9), Gate(RATE, TWO, ">=", 2.5, STOCK)]


def measure(words: tuple[str, ...], workers: int, rounds: int, activities: int) -> dict[str, float]:
    """Measures one run of one contender."""
    order = {"name": "work", "parameters": {"rounds": rounds}}
    with running_stub() as stub, running(words, stub.url, **slots(SLOTS_EACH * workers, SLOTS_EACH)) as root:
        stub.wait_for_pollers(1, root)
        stub.do(WARM_UP, **order)
        stub.tell("clear")
        stub_s = stub.tell("fill", count=activities, **order)["cpu_s"]
        ours_s, all_s, began_s = cpu_s(root) + time.process_time(), _busy_s(), time.monotonic()
        stub_s = stub.tell("wait", count=activities)["cpu_s"] - stub_s
        wall_s, all_s = time.monotonic() - began_s, _busy_s() - all_s
        ours_s = cpu_s(root) + time.process_time() - ours_s
    return {
        RATE: activities / wall_s,
        "CPU, ms each": 1e3 * ours_s / activities,
        STUB: 100 * stub_s / wall_s,
        OTHERS: (all_s - ours_s - stub_s) / wall_s,
    }


def _busy_s() -> float:
    """Returns the CPU seconds of the machine so far; `user` already contains `guest`."""
    used = psutil.cpu_times()
    return sum(used) - used.idle - used.iowait - used.guest - used.guest_nice


def ours(parallel: str, most: int) -> dict[str, tuple[tuple[str, ...], int]]:
    """Returns our command lines for one worker and for more, and their number."""
    flag = "" if parallel == "processes" else f" --parallel {parallel}"
    return {
        f"flowherd -p {workers}{flag}": (
            flowherd("scaling_app:registry", "-p", str(workers), "--parallel", parallel), workers,
        )
        for workers in range(1, most + 1)
    }  # fmt: skip


def one_turn(sheet: Sheet, options: argparse.Namespace, rounds: int) -> Sheet:
    """Measures all once; the gains are those of this turn."""
    found = {who: (words, 1) for who, words in rivals("scaling_stock", options, sheet).items()}
    for parallel in ("processes",) if is_gil_enabled() else ("processes", "threads"):
        found |= ours(parallel, options.most)
    turn = Sheet(sheet.bench, sheet.about)
    once = argparse.Namespace(only=options.only, repeat=1)
    measures = {who: partial(measure, *how, rounds, options.activities) for who, how in found.items()}
    in_turn(turn, once, measures)
    rates = turn.medians(RATE)
    for who, rate in rates.items():
        first = who.replace(f"-p {found[who][1]}", "-p 1")
        if who != first and first in rates:
            turn.note(who, {GAIN: rate / rates[first]})
    return turn


def main() -> int:
    """Measures turns until enough of them were calm."""
    parser = arguments(__doc__, repeat=5, has_rust=True)
    parser.add_argument("--activities", type=int, default=300)
    parser.add_argument("--most", type=int, default=2)
    parser.add_argument("--tries", type=int, default=40)
    options = parser.parse_args()
    rounds = rounds_of(HANDLER_S)
    sheet = Sheet("handlers that compute", "", GATES, asides=[OTHERS, STUB])
    if is_gil_enabled():
        sheet.left_out["threads"] = "this Python has a GIL"
    calm: list[Sheet] = []
    disturbed: list[Sheet] = []
    while not sheet.failed and len(calm) < options.repeat and len(calm) + len(disturbed) < options.tries:
        turn = one_turn(sheet, options, rounds)
        sheet.failed |= turn.failed
        is_calm = max(turn.medians(OTHERS).values(), default=0.0) <= CALM
        (calm if is_calm else disturbed).append(turn)
    for turn in calm or disturbed:
        sheet.add(turn)
    sheet.about = f"{rounds} rounds of pure Python (5 ms); {len(calm)} calm turns, {len(disturbed)} disturbed"
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
