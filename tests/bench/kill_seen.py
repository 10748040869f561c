"""Time until a `kill -9` of a worker is visible in the log, the events, the status and /metrics.

    python tests/bench/kill_seen.py [--rounds 10] [--json FILE]

An engine, a host with 2 processes, one kill after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from bench_kit import LIVES_S, arguments
from harness import Host, running_engine, running_host
from sheet import Sheet

if TYPE_CHECKING:
    from collections.abc import Callable

SEEN = "killed to seen, ms"


def measure(sheet: Sheet, rounds: int) -> None:
    """Records the time of each way for each kill."""
    with (
        tempfile.TemporaryDirectory(prefix="fh") as folder,
        running_engine() as engine,
        running_host(Path(folder), "sample_app:registry", "-p", "2", url=engine.url) as host,
    ):
        host.ready(2)
        died = threading.Event()
        threading.Thread(target=_listen, args=(host, died), daemon=True).start()
        for number in range(1, rounds + 1):
            threading.Event().wait(LIVES_S)
            died.clear()
            for way, took_s in _kill(host, died, number).items():
                sheet.note(way, {SEEN: took_s * 1000})


def _kill(host: Host, died: threading.Event, number: int) -> dict[str, float]:
    """Kills process 0 for the `number`-th time; returns the seconds until each way shows it."""
    pid = host.children()[0]
    wanted = f'flowherd_process_restarts_total{{cause="signal",process="0"}} {number}.0'
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    died.wait(10)
    return {
        "events": time.monotonic() - began,
        "log": _until(lambda: len(host.log("process_died")) >= number, began),
        "status": _until(lambda: host.children().get(0) not in {pid, None}, began),
        "/metrics": _until(lambda: wanted in host.get("/metrics").text, began),
    }


def _until(look: Callable[[], bool], began: float) -> float:
    while not look() and time.monotonic() - began < 10:
        threading.Event().wait(0.005)
    return time.monotonic() - began


def _listen(host: Host, died: threading.Event) -> None:
    transport = httpx.HTTPTransport(uds=host.socket)
    with (
        contextlib.suppress(httpx.TransportError),  # the host has ended
        httpx.Client(transport=transport, base_url="http://flowherd", timeout=60) as client,
        client.stream("GET", "/api/events") as reply,
    ):
        for line in reply.iter_lines():
            if line.startswith("data: ") and json.loads(line[6:]).get("event") == "process_died":
                died.set()


def main() -> int:
    """Kills a worker `--rounds` times."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    sheet = Sheet("kill seen", f"{options.rounds} kills")
    for _ in range(options.repeat):
        measure(sheet, options.rounds)
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
