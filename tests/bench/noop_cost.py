"""What hosting an activity costs in CPU: no-ops through the stock worker and through flowherd.

    python tests/bench/noop_cost.py [--activities 20000] [--repeat 3] [--json]

The same unchanged worker program with one activity that does nothing, against an embedded engine each, with the
same concurrency (64) and batch (100). Counted is user + system CPU time of every process of the host (flowherd:
supervisor, keeper, worker), from the first completion to the last, for each completed activity; the engine is not
counted. Needs `kruxiaflow`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import Engine, clean_environment, running_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent / "apps"
CREDENTIALS = ("bench", "bench-secret")
CEILING_S = 600.0
SLOTS, BATCH = "64", "100"
STOCK = (sys.executable, str(APPS / "noop_worker.py"))
FLOWHERD = (sys.executable, "-m", "flowherd_supervisor", "run", "noop_worker:main", "--app-dir", str(APPS))
FLOWHERD += ("--admin", "off", "--log-level", "error", "-p", "1")


@contextmanager
def running(words: tuple[str, ...], url: str) -> Iterator[psutil.Process]:
    """The worker program, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as runtime, open(os.devnull, "wb") as null:
        environment = clean_environment(
            KRUXIAFLOW_API_URL=url,
            KRUXIAFLOW_WORKER="py-std",
            KRUXIAFLOW_CLIENT_ID=CREDENTIALS[0],
            KRUXIAFLOW_CLIENT_SECRET=CREDENTIALS[1],
            KRUXIAFLOW_WORKER_MAX_ACTIVITIES=SLOTS,
            KRUXIAFLOW_WORKER_POLL_MAX_ACTIVITIES=BATCH,
            XDG_RUNTIME_DIR=runtime,
        )
        process = subprocess.Popen(words, env=environment, stdout=null, stderr=null)
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_s(root: psutil.Process) -> float:
    """User and system seconds of a process and its living descendants."""
    times = [process.cpu_times() for process in [root, *root.children(recursive=True)]]
    return sum(time_.user + time_.system for time_ in times)


def measure(words: tuple[str, ...], activities: int) -> dict[str, float]:
    """One run: microseconds of CPU for each activity, and activities a second; the start does not count."""
    with running_engine(credentials=CREDENTIALS) as engine:
        with ThreadPoolExecutor(4) as pool:
            engine.submit("noop", 1)
            list(pool.map(lambda _: engine.submit("noop", 100), range(activities // 100)))
        with running(words, engine.url) as root:
            counted = _completed(engine, 1)
            cpu_before, begun_at = cpu_s(root), time.monotonic()
            counted = _completed(engine, activities) - counted
            wall_s = time.monotonic() - begun_at
            return {"cpu_us": (cpu_s(root) - cpu_before) / counted * 1e6, "per_s": counted / wall_s}


def _completed(engine: Engine, count: int) -> int:
    """Waits for so many completions and returns how many there are; asks rarely: the machine is the host's."""
    give_up_at = time.monotonic() + CEILING_S
    query = {"status": "completed", "limit": 1}
    while (found := engine.http.get("/api/v1/workflows", params=query).json()["total"]) < count:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{found} of {count} completions within {CEILING_S:g} s")
        time.sleep(0.25)
    return int(found)


def main() -> None:
    """Runs both in turn, `--repeat` times, and prints medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    contenders = {"stock worker": STOCK, "flowherd -p 1": FLOWHERD}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(options.repeat):
        for name, words in contenders.items():
            runs[name].append(measure(words, options.activities))
    medians: dict[str, dict[str, Any]] = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    ratio = medians["flowherd -p 1"]["cpu_us"] / medians["stock worker"]["cpu_us"]
    if options.json:
        print(
            json.dumps({"activities": options.activities, "medians": medians, "ratio": ratio, "runs": runs})
        )
        return
    print(f"{options.activities} no-ops; {os.cpu_count()} cores, shared; medians of {options.repeat}")
    for name, row in medians.items():
        print(f"{name:16}{row['cpu_us']:8.0f} us of CPU each{row['per_s']:8.0f} a second")
    print(f"flowherd takes {ratio:.2f} of the stock worker's CPU")


if __name__ == "__main__":
    main()
