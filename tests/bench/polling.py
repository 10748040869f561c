"""Pick-up time of work, and cost of idleness, for 1, 2 and 8 processes.

    python tests/bench/polling.py [--repeat 3] [--seconds 30] [--lone 100] [--stream 600] [--steps 500] [--seed 1]
                                  [--processes 1,2,8] [--json FILE] [--tuned PYTHON] [--only PART]

    idle      `--poll-interval` and `--poll-interval-max` 0.1: requests a second and CPU of the whole host
    lone      on that host, one activity every 0.6 to 0.9 s: from ready to begun
    stream    on that host, a Poisson stream of 20 no-ops a second: from ready to begun
    chain     on that host, the next step is ready 2 ms after the engine has the last one's outcome: ready to begun

The engine is the stub, which adds 0.1 ms. The stock worker is one process with 0.1 s. Needs `kruxiaflow`.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from bench_kit import (
    STUB,
    Stub,
    arguments,
    cpu_s,
    flowherd,
    quantile,
    rivals,
    run,
    running,
    running_stub,
    slots,
    tree,
)
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import argparse

    import psutil

APP = "polling_worker"
STEADY = ("--poll-interval", "0.1", "--poll-interval-max", "0.1")
IDLE, IDLE_CPU, HOST = "idle, requests a second", "idle, CPU %", "processes of the host"
LONE, STREAM, CHAIN = "a lone arrival", "Poisson stream of 20 a second", "step of a chain"
EIGHT = "flowherd -p 8"


def figure(what: str, share: float) -> str:
    """The name of a quantile of a pick-up."""
    return f"{what}, p{share * 100:g} ms"


GATES = [
    Gate(IDLE, EIGHT, "<=", 14),
    Gate(IDLE_CPU, EIGHT, "<=", 1),
    Gate(figure(LONE, 0.5), EIGHT, "<=", 55),
    Gate(figure(LONE, 0.99), EIGHT, "<=", 115),
    Gate(figure(STREAM, 0.5), EIGHT, "<=", 15),
    Gate(figure(STREAM, 0.99), EIGHT, "<=", 110),
    Gate(figure(CHAIN, 0.5), EIGHT, "<=", 5),
]


def idle(stub: Stub, root: psutil.Process, seconds: float) -> dict[str, float]:
    """Measures a host without work."""
    stub_before_s = stub.tell("clear")["cpu_s"]
    cpu_before_s, begun_at = cpu_s(root), time.monotonic()
    threading.Event().wait(seconds)
    wall_s = time.monotonic() - begun_at
    report = stub.tell("report")
    return {
        IDLE: report["counts"].get("polls", 0) / wall_s,
        IDLE_CPU: 100 * (cpu_s(root) - cpu_before_s) / wall_s,
        HOST: len(tree(root)),
        STUB: 100 * (report["cpu_s"] - stub_before_s) / wall_s,
    }


def pick_up(stub: Stub, what: str, offsets_s: list[float]) -> dict[str, float]:
    """Measures the milliseconds from ready to begun, and the polls meanwhile."""
    stub.tell("clear")
    stub.tell("arrive", name="stamp", offsets_s=offsets_s)
    report = stub.tell("wait", count=len(offsets_s))
    asked = report["counts"]["polls"] / offsets_s[-1]
    return took(what, report["pick_up_s"]) | {f"{what}, polls a second": asked}


def chain(stub: Stub, steps: int) -> dict[str, float]:
    """Measures the milliseconds from ready to begun of steps that depend on each other."""
    stub.tell("clear")
    stub.tell("chain", name="stamp", steps=steps, think_s=0.002)
    return took(CHAIN, stub.tell("wait", count=steps)["pick_up_s"][1:])


def took(what: str, seconds: list[float]) -> dict[str, float]:
    """Returns the quantiles to show."""
    return {figure(what, share): quantile(seconds, share) * 1e3 for share in (0.5, 0.99)}


def arrivals(options: argparse.Namespace, rng: random.Random) -> tuple[list[float], list[float]]:
    """Returns the ready times of lone activities and of the stream."""
    lone, stream = [0.5], [0.5]
    while len(lone) < options.lone:
        lone.append(lone[-1] + rng.uniform(0.6, 0.9))
    while len(stream) < options.stream:
        stream.append(stream[-1] + rng.expovariate(20.0))
    return lone, stream


def measure(
    words: tuple[str, ...], processes: int, options: argparse.Namespace, seeds: list[int]
) -> dict[str, float]:
    """Measures all four on one host; `seeds` has one for each repeat."""
    lone, stream = arrivals(options, random.Random(seeds.pop(0)))
    with (
        running_stub() as stub,
        running(words, stub.url, **slots(16 * processes, 16), WORKER_POLL_INTERVAL="0.1") as root,
    ):
        stub.wait_for_pollers(processes, root)
        stub.do(20, name="stamp")
        found = idle(stub, root, options.seconds)
        found |= pick_up(stub, LONE, lone)
        found |= pick_up(stub, STREAM, stream)
        return found | chain(stub, options.steps)


def main() -> int:
    """Runs all in turn, `--repeat` times; all of a turn meet the same arrivals."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of idleness")
    parser.add_argument("--lone", type=int, default=100)
    parser.add_argument("--stream", type=int, default=600)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", default="1,2,8")
    options = parser.parse_args()
    sheet = Sheet("polling", f"every 0.1 s, seed {options.seed}", GATES, asides=[HOST, STUB])
    contenders = {who: (words, 1) for who, words in rivals(APP, options, sheet).items()}
    for processes in map(int, options.processes.split(",")):
        contenders[f"flowherd -p {processes}"] = (flowherd(APP, "-p", str(processes), *STEADY), processes)
    seeds = range(options.seed, options.seed + options.repeat)
    measures = {who: partial(measure, *how, options, [*seeds]) for who, how in contenders.items()}
    return run(sheet, options, measures)


if __name__ == "__main__":
    sys.exit(main())
