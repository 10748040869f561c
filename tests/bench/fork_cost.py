"""The cost of one more process with pandas imported: milliseconds to its first poll, and its own memory.

    python tests/bench/fork_cost.py [--activities 10000] [--restarts 15] [--transports httpx,direct]
                                    [--json FILE] [--tuned PYTHON] [--only PART]

Four ways to come to a worker: forked from the process that has imported the app, which the garbage collector then
leaves alone (the default); the same where it does not; forked from the supervisor and importing the app itself
(`--no-preload`); and started as a program (`python -m flowherd`). A stock worker beside them. One process each with 16
slots, against a stub engine. The memory is what only this process has (USS), after all activities; the first three are
then killed again and again: *killed to first poll* is from SIGKILL to the replacement's first poll at the engine,
*forked to first poll* from the line that the replacement exists; medians of all restarts. Does nothing without pandas.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import statistics
import sys
import tempfile
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from bench_kit import (
    APPS,
    CREDENTIALS,
    LIVES_S,
    Stub,
    arguments,
    quantile,
    rivals,
    run,
    running,
    running_stub,
    slots,
)
from harness import Host, eventually, running_host
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

APP, THAWED_APP = "pandas_worker:registry", "pandas_thawed:registry"
OWN, FORKED, KILLED = "own MB", "forked to first poll, ms", "killed to first poll, ms"
KILLED_MOST = "killed to first poll, most ms"
FROZEN, THAWED = "forked from the import", "forked, not frozen"
NO_PRELOAD, SPAWNED = "--no-preload", "python -m flowherd"
WAYS = (FROZEN, THAWED, NO_PRELOAD, SPAWNED)
GATES = [
    Gate(OWN, f"direct, {FROZEN}", "<=", 10),
    Gate(FORKED, f"direct, {FROZEN}", "<=", 25),
    Gate(KILLED_MOST, f"direct, {FROZEN}", "<=", 1000),
]


def settings(transport: str) -> dict[str, str]:
    """Variables of every way."""
    chosen = {f"KRUXIAFLOW_{name}": value for name, value in slots(16, 10).items()}
    return CREDENTIALS | chosen | {"KRUXIAFLOW_WORKER_TRANSPORT": transport}


def hosted(way: str, transport: str, options: argparse.Namespace) -> dict[str, float]:
    """One worker under a supervisor."""
    app = THAWED_APP if way == THAWED else APP
    flags = (NO_PRELOAD,) if way == NO_PRELOAD else ()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stub() as stub,
        running_host(
            Path(folder), app, "-p", "1", *flags, url=stub.url, app_dir=APPS, env=settings(transport)
        ) as host,
    ):
        host.ready(1)
        own_mb = memory_mb(stub, options.activities, lambda: host.children()[0])
        restarts = [restart(stub, host) for _ in range(options.restarts)]
    return {
        OWN: own_mb,
        FORKED: statistics.median(forked for _, forked in restarts),
        "forked to first poll, p90 ms": quantile([forked for _, forked in restarts], 0.9),
        KILLED: statistics.median(killed for killed, _ in restarts),
        KILLED_MOST: max(killed for killed, _ in restarts),
    }


def alone(words: tuple[str, ...], transport: str, options: argparse.Namespace) -> dict[str, float]:
    """Measures one worker as a separate program."""
    with running_stub() as stub:
        begun_at = time.time()
        with running(words, stub.url, **slots(16, 10), WORKER_TRANSPORT=transport) as root:
            stub.wait_for_pollers(1, root)
            own_mb = memory_mb(stub, options.activities, lambda: root.pid)
            polled_at = min(stub.tell("look")["first_polls"].values())
    return {OWN: own_mb, FORKED: (polled_at - begun_at) * 1e3}


def memory_mb(stub: Stub, activities: int, pid: Callable[[], int]) -> float:
    """Returns the worker's own memory after its work."""
    stub.do(activities)
    return psutil.Process(pid()).memory_full_info().uss / 1e6


def restart(stub: Stub, host: Host) -> tuple[float, float]:
    """Returns the milliseconds to the first poll of a killed worker's replacement: from the kill, and from its fork."""
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
    """Returns the time of the current worker's fork, by the log; wall clock, as everything here."""
    return datetime.fromisoformat(host.log("process_started")[-1]["time"]).timestamp()


def main() -> int:
    """Runs all in turn, by default once."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--activities", type=int, default=10_000)
    parser.add_argument("--restarts", type=int, default=15)
    parser.add_argument("--transports", default="httpx,direct")
    options = parser.parse_args()
    about = f"pandas imported, {options.activities} no-ops, {options.restarts} restarts"
    sheet = Sheet("memory and start of a process", about, GATES)
    if importlib.util.find_spec("pandas") is None:
        sheet.left_out["all"] = "pandas is not installed"
        return sheet.show(options.json)
    program = (sys.executable, "-m", "flowherd", APP, "--app-dir", str(APPS))
    contenders = {
        who: partial(alone, words, "", options)
        for who, words in rivals("pandas_stock", options, sheet).items()
    }
    for transport in options.transports.split(","):
        for way in WAYS:
            how = partial(alone, program, transport) if way == SPAWNED else partial(hosted, way, transport)
            contenders[f"{transport}, {way}"] = partial(how, options)
    return run(sheet, options, contenders)


if __name__ == "__main__":
    sys.exit(main())
