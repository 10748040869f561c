"""How soon work is picked up, and what idleness costs: `python tests/bench/polling.py [--repeat 3] [--json]`.

    idle      8 processes, --poll-interval and --poll-interval-max 0.1: requests a second and CPU of the whole host
    lone      on that host, one activity every 0.6 to 0.9 s: from ready to begun
    stream    on that host, a Poisson stream of 20 no-ops a second: from ready to begun
    chain     on that host, the next step is ready 2 ms after the engine has the last one's outcome: ready to begun
    skew      4 processes x 16 slots, 12 and 5 CPU-bound activities of 0.3 s at once: the most that one process got

The engine is the stub, which adds 0.1 ms. The stock worker, one process and 0.1 s, does the first four beside it.
Needs `kruxiaflow`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from typing import TYPE_CHECKING

from bench_kit import Stub, cpu_s, flowherd, medians, quantile, running, running_stub, slots, stock, tree

if TYPE_CHECKING:
    import psutil

APP = "polling_worker"
STEADY = ("--poll-interval", "0.1", "--poll-interval-max", "0.1")
EIGHT = flowherd(APP, "-p", "8", "--concurrency", "128", "--poll-max", "16", *STEADY)
FOUR = flowherd(APP, "-p", "4", "--concurrency", "64", "--poll-max", "16", *STEADY)
SPIN_S = 0.3


def warm(stub: Stub, processes: int) -> None:
    """Waits until every process has polled, and has had something to do."""
    stub.tell("fill", name="stamp", count=20)
    stub.tell("wait", count=20)
    give_up_at = time.monotonic() + 30
    while len(stub.tell("report")["pollers"]) < processes and time.monotonic() < give_up_at:
        threading.Event().wait(0.2)
    stub.tell("clear")


def idle(stub: Stub, root: psutil.Process, seconds: float) -> dict[str, float]:
    """A host that finds nothing."""
    stub.tell("clear")
    cpu_before_s, begun_at = cpu_s(root), time.monotonic()
    threading.Event().wait(seconds)
    wall_s = time.monotonic() - begun_at
    polls = stub.tell("report")["counts"].get("polls", 0)
    cpu = (cpu_s(root) - cpu_before_s) / wall_s
    return {"idle_per_s": polls / wall_s, "idle_cpu_%": 100 * cpu, "processes": len(tree(root))}


def pick_up(stub: Stub, name: str, offsets_s: list[float]) -> dict[str, float]:
    """Milliseconds from ready to begun."""
    stub.tell("clear")
    stub.tell("arrive", name="stamp", offsets_s=offsets_s)
    report = stub.tell("wait", count=len(offsets_s))
    found = report["pick_up_s"]
    return {
        f"{name}_p50_ms": quantile(found, 0.5) * 1e3,
        f"{name}_p99_ms": quantile(found, 0.99) * 1e3,
        f"{name}_polls_per_s": report["counts"]["polls"] / offsets_s[-1],
    }


def chain(stub: Stub, steps: int) -> dict[str, float]:
    """Milliseconds from ready to begun, of steps that wait for each other."""
    stub.tell("clear")
    stub.tell("chain", name="stamp", steps=steps, think_s=0.002)
    found = stub.tell("wait", count=steps)["pick_up_s"][1:]
    return {"chain_p50_ms": quantile(found, 0.5) * 1e3, "chain_p99_ms": quantile(found, 0.99) * 1e3}


def skew(stub: Stub, count: int) -> dict[str, float]:
    """How many of `count` CPU-bound activities went to the process that got most."""
    stub.tell("clear")
    stub.tell("fill", name="spin", parameters={"seconds": SPIN_S}, count=count)
    return {f"most_of_{count}": max(stub.tell("wait", count=count)["claims"].values())}


def arrivals(options: argparse.Namespace, rng: random.Random) -> tuple[list[float], list[float]]:
    """When the lone ones and those of the stream are ready."""
    lone, stream = [0.5], [0.5]
    while len(lone) < options.lone:
        lone.append(lone[-1] + rng.uniform(0.6, 0.9))
    while len(stream) < options.stream:
        stream.append(stream[-1] + rng.expovariate(20.0))
    return lone, stream


def measure(
    words: tuple[str, ...], processes: int, options: argparse.Namespace, seed: int
) -> dict[str, float]:
    """The first four, on one host."""
    lone, stream = arrivals(options, random.Random(seed))
    with (
        running_stub() as stub,
        running(words, stub.url, **slots(128, 16), WORKER_POLL_INTERVAL="0.1") as root,
    ):
        warm(stub, processes)
        found = idle(stub, root, options.seconds)
        found |= pick_up(stub, "lone", lone)
        found |= pick_up(stub, "stream", stream)
        return found | chain(stub, options.steps)


def measure_skew() -> dict[str, float]:
    """A fresh host each: what it has met before would help it."""
    found: dict[str, float] = {}
    for count in (12, 5):
        with running_stub() as stub, running(FOUR, stub.url) as _:
            give_up_at = time.monotonic() + 30
            while len(stub.tell("report")["pollers"]) < 4 and time.monotonic() < give_up_at:
                threading.Event().wait(0.2)
            found |= skew(stub, count)
    return found


def main() -> None:
    """Runs both in turn, `--repeat` times, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of idleness")
    parser.add_argument("--lone", type=int, default=100)
    parser.add_argument("--stream", type=int, default=600)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-stock", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"flowherd -p 8": []}
    if not options.no_stock:
        runs["stock"] = []
    for round_ in range(options.repeat):
        seed = options.seed + round_
        runs["flowherd -p 8"].append(measure(EIGHT, 8, options, seed) | measure_skew())
        if not options.no_stock:
            runs["stock"].append(measure(stock(APP), 1, options, seed))
    rows = {name: medians(found) for name, found in runs.items()}
    if options.json:
        print(json.dumps({"options": vars(options), "cores": os.cpu_count(), "medians": rows, "runs": runs}))
        return
    print(f"{os.cpu_count()} cores, shared; medians of {options.repeat}; seed {options.seed}")
    print(f"{'':22}" + "".join(f"{name:>16}" for name in rows))
    for key in rows["flowherd -p 8"]:
        print(
            f"{key:22}" + "".join(f"{row[key]:16.2f}" if key in row else f"{'':16}" for row in rows.values())
        )


if __name__ == "__main__":
    main()
