"""Whether looking at a host delays its heartbeats: many processes, the status asked twenty times a second.

    python tests/bench/beats_under_load.py [--processes 64] [--seconds 20] [--rate 20] [--json]

Every process holds activities under a lease of 6 s. A beat is due a third of the lease after the one before it, or
after the claim; how late it was says the engine's own journal, so that everything on the way counts, the engine's
delay too. Measured first while nobody asks, then while the status is asked; the difference is what asking costs.
The target is that no beat is more than 100 ms late; on a machine that others use too, the first line says what it
is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import Engine, Host, running_engine, running_host

if TYPE_CHECKING:
    from collections.abc import Iterable

LEASE_S = 6.0
DUE_S = LEASE_S / 3
TARGET_S = 0.1
BOOT_S = 180.0


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of all beats in a span; seconds, negative for those that came before they were due."""

    what: str
    beats: int
    asked: int
    answered_p50_s: float
    median_s: float
    p99_s: float
    worst_s: float
    too_late: int
    lapsed: int

    def __str__(self) -> str:
        asked = f", {self.asked} questions answered in {self.answered_p50_s * 1000:.0f} ms (p50)" * bool(
            self.asked
        )
        return (
            f"{self.what:12} {self.too_late} of {self.beats} beats later than {TARGET_S * 1000:.0f} ms; late by "
            f"{self.median_s * 1000:+.0f} ms (p50), {self.p99_s * 1000:+.0f} ms (p99), "
            f"{self.worst_s * 1000:+.0f} ms (worst); leases lost {self.lapsed}{asked}"
        )


class Asker:
    """Asks for the status at a steady rate, in a thread, over one connection."""

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
    """How late each accepted beat in a span was, by the engine's clock."""
    before: dict[object, float] = {}
    found = []
    for entry in journal:
        if entry["event"] in {"claim", "heartbeat"}:
            at_s, activity = float(str(entry["at_s"])), entry["activity_id"]
            if entry["event"] == "heartbeat" and since_s <= at_s < until_s:
                found.append(at_s - before[activity] - DUE_S)
            before[activity] = at_s
    return found


def span(engine: Engine, host: Host, what: str, seconds: float, rate: float) -> Lateness:
    """Lets the host beat for a while, and asks meanwhile if there is a rate."""
    since_s, took_s = time.time(), [0.0]
    if rate:
        with Asker(host.socket, rate) as asker:
            time.sleep(seconds)
        took_s = sorted(asker.took_s)
    else:
        time.sleep(seconds)
    late = sorted(late_by(engine.journal(), since_s, time.time()))
    return Lateness(
        what,
        beats=len(late),
        asked=len(took_s) if rate else 0,
        answered_p50_s=took_s[len(took_s) // 2],
        median_s=late[len(late) // 2],
        p99_s=late[int(len(late) * 0.99)],
        worst_s=late[-1],
        too_late=sum(one > TARGET_S for one in late),
        lapsed=sum(entry["event"] == "lapse" for entry in engine.journal()),
    )


def measure(processes: int, held: int, seconds: float, rate: float) -> list[Lateness]:
    """One host, two spans."""
    lease = ("--default-lease", f"{LEASE_S:g}")
    flags = (*lease, "-p", str(processes), "-c", str(held), "--graceful-timeout", "1")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_engine(*lease) as engine,
        running_host(Path(folder), "sample_app:registry", *flags, url=engine.url) as host,
    ):
        host.wait_for_log("process_ready", processes + 1, within_s=BOOT_S)
        engine.submit("wait", held, seconds=3600)
        engine.wait_for("claim", held, within_s=60)
        time.sleep(DUE_S)  # so that every lease has been beaten once
        return [
            span(engine, host, "nobody asks", seconds, 0.0),
            span(engine, host, f"{rate:g} a second", seconds, rate),
        ]


def main() -> int:
    """Prints two lines; returns 0 when asking made no beat late."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--held", type=int, default=0, help="activities held; two for each process")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    held = options.held or 2 * options.processes
    spans = measure(options.processes, held, options.seconds, options.rate)
    if options.json:
        print(
            json.dumps(
                {"processes": options.processes, "held": held, "spans": [asdict(one) for one in spans]}
            )
        )
    else:
        print(
            f"{options.processes} processes, {held} leases of {LEASE_S:g} s; {os.cpu_count()} cores, shared"
        )
        print(*spans, sep="\n")
    return 0 if not spans[-1].too_late else 1


if __name__ == "__main__":
    sys.exit(main())
