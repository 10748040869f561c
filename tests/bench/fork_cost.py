"""What a process more costs, with pandas imported: milliseconds to its first poll, and memory of its own.

    python tests/bench/fork_cost.py [--activities 10000] [--restarts 15] [--transports httpx,direct] [--json]

Three ways to come to a worker: forked from the process that has imported the app (the default), forked from the
supervisor and importing the app itself (`--no-preload`), and started as a program (`python -m flowherd`). One process
each with 16 slots, against a stub engine. The memory is what only this process has (USS), after all activities; the
first two are then killed again and again: *killed to first poll* is from SIGKILL to the replacement's first poll at
the engine, *forked to first poll* from the supervisor's line that the replacement exists. Does nothing without pandas.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from bench_kit import APPS, CREDENTIALS, Stub, quantile, running_stub, slots
from harness import Host, clean_environment, eventually, running_host

if TYPE_CHECKING:
    from collections.abc import Callable

APP = "pandas_worker:registry"
LIVES_S = 2.3  # an end within 2 s of Ready is a short one, and the next start waits
COLUMNS = (
    ("own_mb", "own MB", 8),
    ("forked_p50_ms", "forked to first poll, ms", 26),
    ("forked_p90_ms", "p90", 8),
    ("killed_p50_ms", "killed to first poll, ms", 26),
    ("killed_max_ms", "max", 8),
)
WAYS = ("forked from the import", "--no-preload", "python -m flowherd")


def settings(transport: str) -> dict[str, str]:
    """Variables of every way."""
    chosen = {f"KRUXIAFLOW_{name}": value for name, value in slots(16, 10).items()}
    return CREDENTIALS | chosen | {"KRUXIAFLOW_WORKER_TRANSPORT": transport}


def hosted(way: str, transport: str, options: argparse.Namespace) -> dict[str, float]:
    """One worker under a supervisor."""
    flags = ("--no-preload",) if way == "--no-preload" else ()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stub() as stub,
        running_host(
            Path(folder), APP, "-p", "1", *flags, url=stub.url, app_dir=APPS, env=settings(transport)
        ) as host,
    ):
        host.ready(1)
        own_mb = memory_mb(stub, options.activities, lambda: host.children()[0])
        restarts = [restart(stub, host) for _ in range(options.restarts)]
    return {
        "own_mb": own_mb,
        "killed_p50_ms": statistics.median(killed for killed, _ in restarts),
        "killed_max_ms": max(killed for killed, _ in restarts),
        "forked_p50_ms": statistics.median(forked for _, forked in restarts),
        "forked_p90_ms": quantile([forked for _, forked in restarts], 0.9),
    }


def alone(transport: str, options: argparse.Namespace) -> dict[str, float]:
    """One worker as a program of its own."""
    words = [sys.executable, "-m", "flowherd", APP, "--app-dir", str(APPS)]
    with running_stub() as stub, open(os.devnull, "wb") as null:
        variables = settings(transport) | {"KRUXIAFLOW_API_URL": stub.url}
        begun_at = time.time()
        process = subprocess.Popen(words, env=clean_environment(**variables), stdout=null, stderr=null)
        try:
            polled_at = eventually(lambda: stub.tell("look")["first_polls"], "a poll")
            own_mb = memory_mb(stub, options.activities, lambda: process.pid)
        finally:
            process.terminate()
            process.wait()
    return {"own_mb": own_mb, "forked_p50_ms": (min(polled_at.values()) - begun_at) * 1e3}


def memory_mb(stub: Stub, activities: int, pid: Callable[[], int]) -> float:
    """What only the worker has, once it has done its work."""
    stub.tell("fill", count=activities)
    stub.tell("wait", count=activities)
    return psutil.Process(pid()).memory_full_info().uss / 1e6


def restart(stub: Stub, host: Host) -> tuple[float, float]:
    """Milliseconds to the first poll of a killed worker's replacement: from the kill, and from its fork."""
    eventually(lambda: time.time() - started_at(host) > LIVES_S, "a life that is long enough")
    before, lives = set(stub.tell("look")["first_polls"]), len(host.log("process_started"))
    killed_at = time.time()
    os.kill(host.log("process_started")[-1]["pid"], signal.SIGKILL)

    def fresh() -> dict[str, float]:
        polls = stub.tell("look")["first_polls"]
        return {poller: at for poller, at in polls.items() if poller not in before}

    [polled_at] = eventually(fresh, "a poll of the replacement").values()
    host.wait_for_log("process_started", lives + 1)
    return (polled_at - killed_at) * 1e3, (polled_at - started_at(host)) * 1e3


def started_at(host: Host) -> float:
    """When the present worker was forked, by the log; wall clock, as everything here."""
    return datetime.fromisoformat(host.log("process_started")[-1]["time"]).timestamp()


def main() -> None:
    """Runs all in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=10_000)
    parser.add_argument("--restarts", type=int, default=15)
    parser.add_argument("--transports", default="httpx,direct")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if importlib.util.find_spec("pandas") is None:
        print("left out: pandas is not installed here")
        return
    rows: dict[str, dict[str, Any]] = {}
    for transport in options.transports.split(","):
        for way in WAYS:
            measured = alone(transport, options) if way == WAYS[-1] else hosted(way, transport, options)
            rows[f"{transport}, {way}"] = measured
    if options.json:
        print(json.dumps({"options": vars(options), "cores": os.cpu_count(), "rows": rows}))
        return
    print(
        f"{options.activities} no-ops, pandas imported, {options.restarts} restarts; {os.cpu_count()} cores, shared"
    )
    print(f"{'':32}" + "".join(f"{title:>{width}}" for _, title, width in COLUMNS))
    for name, row in rows.items():
        shown = [f"{row[key]:{width}.1f}" if key in row else " " * width for key, _, width in COLUMNS]
        print(f"{name:32}" + "".join(shown))


if __name__ == "__main__":
    main()
