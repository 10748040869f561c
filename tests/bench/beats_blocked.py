"""Delay of heartbeats while handlers block their loop or hold the GIL.

    python tests/bench/beats_blocked.py [--seconds 5] [--repeat 3] [--json FILE] [--tuned PYTHON] [--only PART]

A heartbeat is due every second, from the moment the engine hands an activity out; each activity blocks for some
seconds: in pure Python, in regular expressions, in C code that never gives the GIL up. Shown is the longest time the
engine heard nothing of an activity, beyond that second: the outcome counts as a sign of life too. One activity on one
process, and four at a time on four. Needs `kruxiaflow`.
"""

from __future__ import annotations

import itertools
import sys
from functools import partial

from bench_kit import arguments, flowherd, rivals, run, running, running_stub, slots
from sheet import Gate, Sheet

APP = "blocking_worker"
KINDS = {"python": "pure Python", "regex": "regular expressions", "gil": "a held GIL"}
DUE_S = 1.0


def late(kind: str) -> str:
    """The name of a figure."""
    return f"late under {KINDS[kind]}, max ms"


GATES = [Gate(late(kind), f"flowherd -p {processes}", "<=", 100) for kind in KINDS for processes in (1, 4)]


def silence_s(life_s: list[float]) -> float:
    """Returns the longest time between two signs of life: claim, heartbeats, outcome."""
    return max(later - earlier for earlier, later in itertools.pairwise([0.0, *life_s]))


def measure(words: tuple[str, ...], at_a_time: int, seconds: int) -> dict[str, float]:
    """Measures each kind after the other, in one worker."""
    found = {}
    with (
        running_stub() as stub,
        running(words, stub.url, **slots(4 * at_a_time, 1), WORKER_HEARTBEAT_INTERVAL=f"{DUE_S:g}") as root,
    ):
        stub.wait_for_pollers(at_a_time, root)
        for kind in KINDS:
            lives_s = stub.do(at_a_time, name=kind, parameters={"seconds": seconds})["lives_s"]
            found[late(kind)] = (max(map(silence_s, lives_s)) - DUE_S) * 1e3
    return found


def main() -> int:
    """Runs all in turn, `--repeat` times."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    sheet = Sheet("heartbeats", f"due every second; handlers block for {options.seconds} s", GATES)
    contenders = {who: (words, 1) for who, words in rivals(APP, options, sheet).items()}
    contenders |= {f"flowherd -p {count}": (flowherd(APP, "-p", str(count)), count) for count in (1, 4)}
    return run(
        sheet,
        options,
        {who: partial(measure, *how, options.seconds) for who, how in contenders.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
