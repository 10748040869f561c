"""Delay of heartbeats by status requests: many processes, the status requested twenty times a second.

    python tests/bench/beats_under_load.py [--processes 64] [--seconds 20] [--rate 20] [--repeat 1] [--json FILE]

Every process holds activities under a lease of 6 s. A beat is due a third of the lease after the one before it, or
after the claim; how late it was says the engine's own journal, so that everything on the way counts, the engine's
delay too. Measured first while nobody asks, then while the status is asked; the difference is what asking costs.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
from bench_kit import arguments, in_turn, quantile
from harness import Engine, Host, running_engine, running_host
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

LEASE_S = 6.0
DUE_S = LEASE_S / 3
BOOT_S = 180.0
NOBODY, ASKED = "nobody asks", "asked for the status"
MOST, LOST = "beats late, max ms", "leases lost"
GATES = [Gate(figure, ASKED, "<=", limit) for figure, limit in ((MOST, 100), (LOST, 0))]


class Asker:
    """Requests the status at a steady rate, in a thread, over one connection."""

    def __init__(self, socket: str, rate: float) -> None:
        self._socket, self._rate = socket, rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.took_s: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _ask(self) -> None:
        transport = httpx.HTTPTransport(uds=self._socket)
        with httpx.Client(transport=transport, base_url="http://flowherd", timeout=10) as client:
            due_at = time.monotonic()
            while not self._over.wait(max(0.0, due_at - time.monotonic())):
                begun_at = time.monotonic()
                client.get("/api/status").raise_for_status()
                self.took_s.append(time.monotonic() - begun_at)
                due_at = max(due_at + 1 / self._rate, time.monotonic())


def late_by(journal: Iterable[dict[str, object]], since_s: float, until_s: float) -> list[float]:
    """Returns the delay of each accepted heartbeat in a span, by the engine's clock; negative if it was early."""
    before: dict[object, float] = {}
    found = []
    for entry in journal:
        if entry["event"] in {"claim", "heartbeat"}:
            at_s, activity = float(str(entry["at_s"])), entry["activity_id"]
            if entry["event"] == "heartbeat" and since_s <= at_s < until_s:
                found.append(at_s - before[activity] - DUE_S)
            before[activity] = at_s
    return found


def span(engine: Engine, seconds: float) -> dict[str, float]:
    """Measures heartbeats for a while."""
    since_s = time.time()
    threading.Event().wait(seconds)
    journal = engine.journal()
    late = late_by(journal, since_s, time.time())
    return {
        "beats": len(late),
        "beats late, p50 ms": quantile(late, 0.5) * 1e3,
        "beats late, p99 ms": quantile(late, 0.99) * 1e3,
        MOST: max(late) * 1e3,
        LOST: sum(entry["event"] == "lapse" and entry["at_s"] >= since_s for entry in journal),
    }


def asked_span(engine: Engine, host: Host, options: argparse.Namespace) -> dict[str, float]:
    """Does the same with status requests meanwhile."""
    with Asker(host.socket, options.rate) as asker:
        found = span(engine, options.seconds)
    return found | {"answers": len(asker.took_s), "answer, p50 ms": quantile(asker.took_s, 0.5) * 1e3}


def main() -> int:
    """Measures two spans of one host, `--repeat` times."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--held", type=int, default=0, help="activities held; two for each process")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=20.0)
    options = parser.parse_args()
    held = options.held or 2 * options.processes
    about = (
        f"{options.processes} processes, {held} leases of {LEASE_S:g} s, {options.rate:g} questions a second"
    )
    sheet = Sheet("beats of a host that is asked", about, GATES)
    lease = ("--default-lease", f"{LEASE_S:g}")
    flags = (*lease, "-p", str(options.processes), "-c", str(held), "--graceful-timeout", "1")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_engine(*lease) as engine,
        running_host(Path(folder), "sample_app:registry", *flags, url=engine.url) as host,
    ):
        host.wait_for_log("process_ready", options.processes + 1, within_s=BOOT_S)
        engine.submit("wait", held, seconds=3600)
        engine.wait_for("claim", held, within_s=60)
        threading.Event().wait(DUE_S)  # so that every lease has had one heartbeat
        spans = {
            NOBODY: lambda: span(engine, options.seconds),
            ASKED: lambda: asked_span(engine, host, options),
        }
        in_turn(sheet, options, spans)
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
