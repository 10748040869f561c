"""Light work beside blockers that nobody named, on an unchanged stock worker without any settings.

    python tests/bench/unnamed_blockers.py [--seconds 60] [--repeat 3] [--processes 2] [--json FILE]
                                           [--offload auto|declared] [--kinds heavy,heavy,heavy,heavy]

Ten light activities of 30 ms a second, while one activity of each of `--kinds` is always running or waiting: `heavy`
(3 s of pure Python), `sleeper` (3 s of `time.sleep`), `holder` (3 s in C with the GIL held). Latency is from submission
to the accepted completion. "After the move" counts from the last line `activity_moved` on. Heavy throughput is the CPU
seconds of completed heavy activities over what the machine had to give; "ran twice" counts activities that were handed
out more than once. Needs `kruxiaflow`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_kit import LOGIN, arguments, flowherd, quantile, run, running
from harness import Engine, running_engine
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import argparse

RUN_S = 3.0
LIGHT_PER_S = 10
AFTER, FIRST, MOVED = "light p95 after the move, ms", "light p95 of the first 30 s, ms", "moved after, s"
BUSY, TWICE, GAP = "heavy CPU of what there is", "ran twice", "longest time without a claim, s"
ENDED = {"completed", "failed"}
LOOK_EVERY = 5  # light activities: to look costs the machine's CPUs something too


def measure(words: tuple[str, ...], options: argparse.Namespace) -> dict[str, float]:
    """Measures one run."""
    with tempfile.TemporaryDirectory() as folder, running_engine(credentials=LOGIN) as engine:
        log = Path(folder) / "log"
        with running(words, engine.url, log=log):
            engine.submit("light", 1)
            engine.wait_for("complete", 1, within_s=60)
            began_at = time.time()
            lights, blockers = _load(engine, options.kinds.split(","), options.seconds)
            engine.wait_for("complete", 1 + len(lights) + len(blockers), within_s=90)
            flows = [engine.workflow(one) for one in lights]
            last = max(_at(engine.workflow(one), "completed_at") for one in blockers)
        moved = [
            line
            for line in map(_record, log.read_text().splitlines())
            if line.get("event") == "activity_moved"
        ]
        moved_at = max((datetime.fromisoformat(line["time"]).timestamp() for line in moved), default=began_at)
        took = {_at(one, "created_at"): _took_ms(one) for one in flows}
        cpus = len(os.sched_getaffinity(0))
        return {
            AFTER: quantile([ms for at, ms in took.items() if at >= moved_at], 0.95),
            FIRST: quantile([ms for at, ms in took.items() if at < began_at + 30], 0.95),
            MOVED: moved_at - began_at,
            BUSY: RUN_S * options.kinds.count("heavy") and RUN_S * len(blockers) / (last - began_at) / cpus,
            TWICE: sum(count > 1 for count in engine.claims_per_activity().values()),
            GAP: _longest_gap_s(engine, began_at, began_at + options.seconds),
            "moved": len(moved),
        }


def _load(engine: Engine, kinds: list[str], seconds: float) -> tuple[list[str], list[str]]:
    """Submits at a steady rate; keeps one blocker of each kind under way."""
    lights: list[str] = []
    blockers: list[str] = []
    current = [""] * len(kinds)
    started_at = time.monotonic()
    for number in range(int(seconds * LIGHT_PER_S)):
        threading.Event().wait(max(0.0, started_at + number / LIGHT_PER_S - time.monotonic()))
        for place, kind in enumerate(kinds if number % LOOK_EVERY == 0 else ()):
            if not current[place] or engine.workflow(current[place])["status"] in ENDED:
                [current[place]] = engine.submit(kind, 1, seconds=RUN_S)
                blockers.append(current[place])
        lights += engine.submit("light", 1)
    return lights, blockers


def _record(line: str) -> dict[str, Any]:
    return json.loads(line) if line.startswith("{") else {}


def _at(workflow: dict[str, Any], what: str) -> float:
    value = workflow["created_at"] if what == "created_at" else workflow["activities"][0][what]
    return datetime.fromisoformat(value).timestamp()


def _took_ms(workflow: dict[str, Any]) -> float:
    return (_at(workflow, "completed_at") - _at(workflow, "created_at")) * 1000


def _longest_gap_s(engine: Engine, since: float, until: float) -> float:
    """Returns the longest time between two claims: while light work waits all the time, as between two polls."""
    times = sorted(entry["at_s"] for entry in engine.entries("claim") if since <= entry["at_s"] <= until)
    return max((later - sooner for sooner, later in pairwise(times)), default=until - since)


def main() -> int:
    """Runs all repeats."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--offload", default="")
    parser.add_argument("--kinds", default="heavy,heavy,heavy,heavy")
    options = parser.parse_args()
    who = f"flowherd -p {options.processes}{options.offload and f' --offload {options.offload}'}"
    flags = (
        "-p",
        str(options.processes),
        "--log-format",
        "json",
        *(("--offload", options.offload) if options.offload else ()),
    )
    words = flowherd("blockers_worker", *flags, log_level="info")
    sheet = Sheet(
        "unnamed blockers",
        f"{options.kinds} beside {LIGHT_PER_S} light ones a second",
        [
            Gate(AFTER, who, "<=", 150),
            Gate(BUSY, who, ">=", 0.9),
            Gate(TWICE, who, "<=", 0),
        ],
    )
    return run(sheet, options, {who: partial(measure, words, options)})


if __name__ == "__main__":
    sys.exit(main())
