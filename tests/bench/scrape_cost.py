"""How long one scrape of /metrics and one status document take with many processes; prints, asserts nothing.

Run it as `python tests/bench/scrape_cost.py [PROCESSES]`. The ledger is filled as 64 busy workers would fill it; the
processes are real ones that sleep, so that memory and CPU are read from /proc as in production.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from flowherd.core.messages import SupervisorState
from flowherd.ledger import Cell, Clock, Ledger, RecordBook, Timing
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard

ROUNDS = 50


def main(processes: int) -> None:
    """Prints medians and maxima."""
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(processes)]
    try:
        ledger = Ledger(seats=max(processes, 64), records=100)
        for seat, sleeper in enumerate(sleepers):
            berth = ledger.free_berth()
            assert berth is not None
            berth.open(seat=seat, incarnation=1, now=time.monotonic())
            berth.put(Cell.PID, sleeper.pid)
            RecordBook(berth)
            berth.set_clock(Clock.READY_AT, time.monotonic())
            for _ in range(100):
                berth.count(Timing.RUN, 0.02)
        board = StatusBoard(ledger, "http://127.0.0.1:8080", "0", 1, time.monotonic())
        board.supervisor = SupervisorState("running", processes, 4 * processes, {})
        metrics = HostMetrics(ledger, board)
        for name, look in (("/metrics", metrics.page), ("/api/status", board.document)):
            took_ms = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                look()
                took_ms.append((time.perf_counter() - began) * 1000)
            median, worst = statistics.median(took_ms), max(took_ms)
            print(
                f"{name} with {processes} processes: median {median:.1f} ms, worst of {ROUNDS} {worst:.1f} ms"
            )
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
