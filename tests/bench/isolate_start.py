"""The time an activity waits for a fresh isolate, and for an existing one.

    python tests/bench/isolate_start.py [--starts 30] [--json FILE] [--only PART]

An engine and a host with one process, one activity after the other. What is counted is what `/metrics` tells of it
(`flowherd_activity_wait_seconds`): from the reply that brought the activity until its handler begins. For *fresh* an
isolate is made meanwhile, on the whole way through the supervisor and the process that has imported the app; for *used
again* there is one.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import psutil
from bench_kit import APPS, arguments
from harness import Engine, Host, eventually, running_engine, running_host
from sheet import Gate, Sheet

APP, ACTIVITY = "offload_app:registry", "size_isolated"
WAITED = "claimed to begun, ms"
FRESH, AGAIN = "fresh", "used again"
MAX_TASKS = {FRESH: 1, AGAIN: 10**6}
_FIGURES = re.compile(rf'flowherd_activity_wait_seconds_(\w+){{[^}}]*name="{ACTIVITY}"[^}}]*}} (\S+)')


def measure(sheet: Sheet, way: str, starts: int) -> None:
    """Records each wait but the first, for which the app's pages are cold."""
    flags = ("-p", "1", "--isolate-max-tasks", str(MAX_TASKS[way]))
    with (
        tempfile.TemporaryDirectory(prefix="fh") as folder,
        running_engine() as engine,
        running_host(Path(folder), APP, *flags, url=engine.url, app_dir=APPS) as host,
    ):
        host.ready(1)
        before = _after(engine, host, 0)
        for number in range(starts):
            later = _after(engine, host, number + 1)
            sheet.note(way, {WAITED: (later - before) * 1000})
            before = later
            if way == FRESH:
                eventually(lambda: _has_ended(host), "the end of the isolate")


def _after(engine: Engine, host: Host, number: int) -> float:
    """Waits until one more activity has ended; returns the seconds that all have waited."""
    engine.submit(ACTIVITY, text="")
    engine.wait_for("complete", number + 1)
    eventually(lambda: _figure(host, "count") == number + 1, "its wait in the metrics")
    return _figure(host, "sum")


def _has_ended(host: Host) -> bool:
    """Waits until no isolate is left, since an ending one uses the CPU on which the next one starts."""
    return not any("isolate" in " ".join(one.cmdline()) for one in psutil.Process(host.pid).children())


def _figure(host: Host, kind: str) -> float:
    found = dict(_FIGURES.findall(host.get("/metrics").text))
    return float(found.get(kind, 0.0))


def main() -> int:
    """Both, in turn."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--starts", type=int, default=30)
    options = parser.parse_args()
    sheet = Sheet("start of an isolate", f"{options.starts} each", [Gate(WAITED, FRESH, "<=", 25)])
    for way in (way for way in MAX_TASKS if options.only in way):
        measure(sheet, way, options.starts)
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
