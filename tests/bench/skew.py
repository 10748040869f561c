"""Distribution of simultaneous activities over the processes of a host.

    python tests/bench/skew.py [--repeat 3] [--counts 40,12,5] [--seconds 0.3] [--bursts 10] [--json FILE]
                               [--tuned PYTHON] [--only PART]

Some activities of some CPU each, for 4 processes with 16 slots each, a fresh host each time: what it has met before
would help it. Shown is the most that one process got, and how long all took, of the time that the cores of this machine
need at least. Beside it four stock workers that know nothing of each other. Needs `kruxiaflow`.

Then bursts of activities that only wait, for 2 processes: the share of those that were split as evenly as can be.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from bench_kit import arguments, flowherd, rivals, run, running, running_stub, slots
from sheet import Gate, Sheet

if TYPE_CHECKING:
    from collections.abc import Iterable

APP = "polling_worker"
PROCESSES, SLOTS_EACH = 4, 16
OURS = f"flowherd -p {PROCESSES}"
STEADY = ("--poll-interval", "0.1", "--poll-interval-max", "0.1")


def most(count: int) -> str:
    """The name of a figure."""
    return f"most on one process, of {count}"


def even(count: int) -> str:
    """The name of a figure."""
    return f"bursts of {count} that wait, split evenly, %"


PAIR, BURSTS = "flowherd -p 2", (8, 3)
GATES = [
    Gate(most(12), OURS, "<=", 4),
    Gate(most(5), OURS, "<=", 2),
    *(Gate(even(count), PAIR, ">=", 90) for count in BURSTS),
]


def measure(programs: list[tuple[str, ...]], counts: Iterable[int], seconds: float) -> dict[str, float]:
    """Measures a new host for each count; all programs share the processes."""
    found: dict[str, float] = {}
    mine = slots(SLOTS_EACH * PROCESSES // len(programs), SLOTS_EACH)
    for count in counts:
        with running_stub() as stub, ExitStack() as stack:
            roots = [
                stack.enter_context(running(words, stub.url, **mine, WORKER_POLL_INTERVAL="0.1"))
                for words in programs
            ]
            stub.wait_for_pollers(PROCESSES, *roots)
            begun_at = time.monotonic()
            claims = stub.do(count, name="spin", parameters={"seconds": seconds})["claims"]
            least_s = count * seconds / min(PROCESSES, os.cpu_count() or 1)
            found |= {
                most(count): max(claims.values()),
                f"{count}, times the shortest possible": (time.monotonic() - begun_at) / least_s,
            }
    return found


def measure_bursts(words: tuple[str, ...], bursts: int, seconds: float) -> dict[str, float]:
    """Measures a host that has seen this work before."""
    found = dict.fromkeys(BURSTS, 0)
    with running_stub() as stub, running(words, stub.url, **slots(2 * SLOTS_EACH, SLOTS_EACH)) as root:
        stub.wait_for_pollers(2, root)
        stub.do(4, name="wait", parameters={"seconds": 0})
        for count in BURSTS * bursts:
            claims = stub.do(count, name="wait", parameters={"seconds": seconds})["claims"]
            found[count] += max(claims.values()) <= (count + 1) // 2
    return {even(count): 100 * times / bursts for count, times in found.items()}


def main() -> int:
    """Runs all in turn, `--repeat` times."""
    parser = arguments(__doc__)
    parser.add_argument("--counts", default="40,12,5")
    parser.add_argument("--seconds", type=float, default=0.3, help="of CPU for each")
    parser.add_argument("--bursts", type=int, default=10, help="of each size")
    options = parser.parse_args()
    about = f"at once, {options.seconds:g} s of CPU each, on {PROCESSES} processes; stock is {PROCESSES} stock workers"
    sheet = Sheet("skew", about, GATES)
    programs = {who: [words] * PROCESSES for who, words in rivals(APP, options, sheet).items()}
    programs[OURS] = [flowherd(APP, "-p", str(PROCESSES), *STEADY)]
    counts = [int(count) for count in options.counts.split(",")]
    parts = {who: partial(measure, words, counts, options.seconds) for who, words in programs.items()}
    pair = flowherd(APP, "-p", "2", *STEADY)
    return run(sheet, options, parts | {PAIR: partial(measure_bursts, pair, options.bursts, options.seconds)})


if __name__ == "__main__":
    sys.exit(main())
