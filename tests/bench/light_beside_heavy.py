"""Light work beside heavy work: the problem flowherd exists for, measured for the stock worker and for flowherd.

    python tests/bench/light_beside_heavy.py [--seconds 24] [--repeat 3] [--processes 2] [--drain 40] [--json FILE]
                                             [--tuned PYTHON] [--only PART] [--heavy-every SECONDS]

Ten light activities of 30 ms a second, beside one heavy activity of 3 s pure-Python CPU at a time, under a lease of
3 s on both sides; with `--heavy-every` a heavy one begins every so many seconds, whether or not the last has ended. The
same unchanged stock worker runs everywhere; two rows move its heavy activity by nothing but
`[activities.heavy] offload = ...` in a file of settings. Needs `kruxiaflow`. Latency is from submission to the accepted
completion, and what is not completed within `--drain` seconds of the last submission counts as so many seconds; "ran
twice" counts activities that were handed out more than once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_kit import LOGIN, arguments, flowherd, quantile, rivals, run, running
from harness import Engine, running_engine
from sheet import STOCK, Gate, Sheet

if TYPE_CHECKING:
    import argparse

LEASE_S = 3.0
HEAVY_S = 3.0
LIGHT_PER_S = 10
P50, P95, MOST, TWICE = "light ones, p50 ms", "light ones, p95 ms", "light ones, max ms", "ran twice"
ISOLATE = "flowherd -p 1, heavy in isolate"
GATES = [
    Gate(P95, ISOLATE, "<=", 300),
    Gate(P95, ISOLATE, "<=", 1 / 5, STOCK),
    Gate(TWICE, ISOLATE, "<=", 0),
]


def contenders(options: argparse.Namespace, sheet: Sheet, folder: Path) -> dict[str, tuple[str, ...]]:
    """Returns the stock worker, and flowherd with one and several processes, and with the heavy work elsewhere."""

    def ours(processes: int, offload: str = "") -> tuple[str, ...]:
        settings = folder / f"{offload}.toml"
        settings.write_text(f'[activities.heavy]\noffload = "{offload}"\n' if offload else "")
        flags = ("--default-lease", str(LEASE_S), "-p", str(processes), "--config", str(settings))
        return flowherd("mixed_worker", *flags)

    return rivals("mixed_worker", options, sheet) | {
        "flowherd -p 1": ours(1),
        "flowherd -p 1, heavy in thread": ours(1, "thread"),
        ISOLATE: ours(1, "process"),
        f"flowherd -p {options.processes}": ours(options.processes),
    }


def measure(words: tuple[str, ...], options: argparse.Namespace) -> dict[str, float]:
    """Measures one run: latencies of the light activities, and repeats."""
    flags = ("--default-lease", str(LEASE_S), "--sweep-interval", "1")
    with running_engine(*flags, credentials=LOGIN) as engine, running(words, engine.url):
        engine.submit("light", 1)
        engine.wait_for("complete", 1, within_s=60)
        lights, heavies = _load(engine, options.seconds, options.heavy_every)
        expected = 1 + len(lights) + len(heavies)
        give_up_at = time.monotonic() + options.drain
        while len(engine.completions_per_activity()) < expected and time.monotonic() < give_up_at:
            engine.journal(wait_s=1.0)
        took_ms = [_latency_ms(engine.workflow(workflow_id), options.drain) for workflow_id in lights]
        return {
            P50: statistics.median(took_ms),
            P95: quantile(took_ms, 0.95),
            MOST: max(took_ms),
            TWICE: sum(count > 1 for count in engine.claims_per_activity().values()),
        }


def _load(engine: Engine, seconds: float, heavy_every_s: float | None) -> tuple[list[str], list[str]]:
    """Submits at a steady rate; returns the light workflows and the heavy ones."""
    lights: list[str] = []
    heavies: list[str] = []
    started_at = time.monotonic()
    for number in range(int(seconds * LIGHT_PER_S)):
        threading.Event().wait(max(0.0, started_at + number / LIGHT_PER_S - time.monotonic()))
        if heavy_every_s is not None:
            is_due = number / LIGHT_PER_S >= len(heavies) * heavy_every_s
        else:
            is_due = not heavies or engine.workflow(heavies[-1])["status"] in {"completed", "failed"}
        if is_due:
            heavies += engine.submit("heavy", 1, seconds=HEAVY_S)
        lights += engine.submit("light", 1)
    return lights, heavies


def _latency_ms(workflow: dict[str, Any], drain_s: float) -> float:
    """Returns the milliseconds from submission to accepted completion, both on the engine's clock."""
    ended = workflow["activities"][0]["completed_at"]
    if ended is None:
        return drain_s * 1000
    took = datetime.fromisoformat(ended) - datetime.fromisoformat(workflow["created_at"])
    return took.total_seconds() * 1000


def main() -> int:
    """Runs every contender in turn, `--repeat` times."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--drain", type=float, default=40.0)
    parser.add_argument("--heavy-every", type=float, help="seconds from one heavy activity to the next")
    options = parser.parse_args()
    about = f"{LIGHT_PER_S} a second beside {HEAVY_S:g} s of CPU, for {options.seconds:g} s"
    sheet = Sheet("light beside heavy", about, GATES)
    with tempfile.TemporaryDirectory() as folder:
        found = contenders(options, sheet, Path(folder))
        return run(sheet, options, {who: partial(measure, words, options) for who, words in found.items()})


if __name__ == "__main__":
    sys.exit(main())
