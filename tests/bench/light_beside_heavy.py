"""Light work beside heavy work: the problem flowherd exists for, measured for the stock worker and for flowherd.

    python tests/bench/light_beside_heavy.py [--seconds 24] [--repeat 3] [--json]

Ten light activities of 30 ms a second, beside one heavy activity of 3 s pure-Python CPU at a time, under a lease of
3 s on both sides. The same unchanged stock worker runs everywhere; two rows move its heavy activity by nothing but
`[activities.heavy] offload = …` in a file of settings. Needs `kruxiaflow`. Latency is from submission to
the accepted completion; "ran twice" counts activities that were handed out more than once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import Engine, clean_environment, running_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent / "apps"
LEASE_S = 3.0
HEAVY_S = 3.0
LIGHT_PER_S = 10
DRAIN_S = 40.0
CREDENTIALS = ("bench", "bench-secret")


@dataclass(frozen=True)
class Contender:
    """A way to run the same worker."""

    name: str
    words: tuple[str, ...]
    settings: str = ""


def contenders(processes: int) -> list[Contender]:
    """The stock worker, and flowherd with one and with several processes, and with the heavy work elsewhere."""
    run = (sys.executable, "-m", "flowherd_supervisor", "run", "mixed_worker:main", "--app-dir", str(APPS))
    run += ("--admin", "off", "--log-level", "error", "--default-lease", str(LEASE_S))
    return [
        Contender("stock worker", (sys.executable, str(APPS / "mixed_worker.py"))),
        Contender("flowherd -p 1", (*run, "-p", "1")),
        Contender("  heavy in thread", (*run, "-p", "1"), '[activities.heavy]\noffload = "thread"\n'),
        Contender("  heavy in isolate", (*run, "-p", "1"), '[activities.heavy]\noffload = "process"\n'),
        Contender(f"flowherd -p {processes}", (*run, "-p", str(processes))),
    ]


@contextmanager
def running(contender: Contender, url: str) -> Iterator[None]:
    """The worker program, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as runtime:
        environment = clean_environment(
            KRUXIAFLOW_API_URL=url, KRUXIAFLOW_WORKER="py-std", XDG_RUNTIME_DIR=runtime
        )
        environment |= {"KRUXIAFLOW_CLIENT_ID": CREDENTIALS[0], "KRUXIAFLOW_CLIENT_SECRET": CREDENTIALS[1]}
        words = [*contender.words]
        if contender.settings:
            file = Path(runtime) / "settings.toml"
            file.write_text(contender.settings)
            words += ["--config", str(file)]
        with open(os.devnull, "wb") as null:
            process = subprocess.Popen(words, env=environment, stdout=null, stderr=null)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(contender: Contender, seconds: float) -> dict[str, Any]:
    """One run: latencies of the light activities and what ran twice."""
    flags = ("--default-lease", str(LEASE_S), "--sweep-interval", "1")
    with running_engine(*flags, credentials=CREDENTIALS) as engine, running(contender, engine.url):
        engine.submit("light", 1)
        engine.wait_for("complete", 1, within_s=60)
        lights, heavies = _load(engine, seconds)
        expected = 1 + len(lights) + len(heavies)
        give_up_at = time.monotonic() + DRAIN_S
        while len(engine.completions_per_activity()) < expected and time.monotonic() < give_up_at:
            engine.journal(wait_s=1.0)
        return _figures(engine, lights)


def _load(engine: Engine, seconds: float) -> tuple[list[str], list[str]]:
    """Submits at a steady rate; returns the light workflows and the heavy ones."""
    lights: list[str] = []
    heavies: list[str] = []
    started_at = time.monotonic()
    for number in range(int(seconds * LIGHT_PER_S)):
        threading.Event().wait(max(0.0, started_at + number / LIGHT_PER_S - time.monotonic()))
        if not heavies or engine.workflow(heavies[-1])["status"] in {"completed", "failed"}:
            heavies += engine.submit("heavy", 1, seconds=HEAVY_S)
        lights += engine.submit("light", 1)
    return lights, heavies


def _figures(engine: Engine, submitted: list[str]) -> dict[str, Any]:
    latencies_ms = [_latency_ms(engine.workflow(workflow_id)) for workflow_id in submitted]
    latencies_ms.sort()
    twice = sum(count > 1 for count in engine.claims_per_activity().values())
    return {
        "light": len(latencies_ms),
        "p50_ms": statistics.median(latencies_ms),
        "p95_ms": latencies_ms[int(len(latencies_ms) * 0.95)],
        "max_ms": latencies_ms[-1],
        "ran_twice": twice,
    }


def _latency_ms(workflow: dict[str, Any]) -> float:
    """From submission to the accepted completion, both on the engine's clock; not completed counts as the ceiling."""
    ended = workflow["activities"][0]["completed_at"]
    if ended is None:
        return DRAIN_S * 1000
    return (
        datetime.fromisoformat(ended) - datetime.fromisoformat(workflow["created_at"])
    ).total_seconds() * 1000


def main() -> None:
    """Runs every contender in turn, `--repeat` times, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="a part of the contenders' names")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeat):
        chosen = [one for one in contenders(options.processes) if options.only in one.name]
        for contender in chosen:
            table.setdefault(contender.name, []).append(measure(contender, options.seconds))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in table.items()
    }
    if options.json:
        print(
            json.dumps({"cores": os.cpu_count(), "repeat": options.repeat, "medians": medians, "runs": table})
        )
        return
    print(f"{os.cpu_count()} cores, shared; medians of {options.repeat} runs of {options.seconds:g} s")
    print(f"{'':18}{'p50 ms':>10}{'p95 ms':>10}{'max ms':>10}{'ran twice':>11}")
    for name, row in medians.items():
        print(
            f"{name:18}{row['p50_ms']:10.0f}{row['p95_ms']:10.0f}{row['max_ms']:10.0f}{row['ran_twice']:11.0f}"
        )


if __name__ == "__main__":
    main()
