"""Duration of a scrape of /metrics and of a status document with many processes.

    python tests/bench/scrape_cost.py [--processes 64] [--rounds 50] [--json FILE]

The ledger is filled as by busy workers; the processes are real ones that sleep, so that memory and CPU are read from
/proc as in production.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from bench_kit import arguments, run
from sheet import Sheet

from flowherd.ledger import Cell, Clock, Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import Where
from flowherd.ledger.activity_counts import Took
from flowherd.link.messages import SupervisorState
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def host(processes: int) -> Iterator[tuple[HostMetrics, StatusBoard]]:
    """Builds the status board of a host whose processes have worked."""
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(processes)]
    try:
        ledger = Ledger(processes=max(processes, 64), records=100)
        for index, sleeper in enumerate(sleepers):
            segment = ledger.free_segment()
            assert segment is not None
            segment.open(index=index, incarnation=1, now=time.monotonic())
            segment.put(Cell.PID, sleeper.pid)
            RecordWriter(segment)
            for name in ("resize", "crop", "send"):
                segment.work.add(name, Where.LOOP)
            segment.set_clock(Clock.READY_AT, time.monotonic())
            for _ in range(100):
                segment.work.counts.took(0, Took.RUN, 0.02)
        board = StatusBoard(ledger, "http://127.0.0.1:8080", "0", 1, time.monotonic())
        board.supervisor = SupervisorState("running", processes, 4 * processes, {})
        yield HostMetrics(ledger, board), board
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def measure(look: Callable[[], object], rounds: int) -> dict[str, float]:
    """Measures the time of one document."""
    took_ms = []
    for _ in range(rounds):
        begun_at = time.perf_counter()
        look()
        took_ms.append((time.perf_counter() - begun_at) * 1000)
    return {"median, ms": statistics.median(took_ms), "most, ms": max(took_ms)}


def main() -> int:
    """Measures both in turn, `--repeat` times."""
    parser = arguments(__doc__)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    sheet = Sheet("scrape", f"{options.processes} processes, {options.rounds} times each")
    with host(options.processes) as (metrics, board):
        looks = {"/metrics": metrics.page, "/api/status": board.document}
        return run(
            sheet, options, {who: partial(measure, look, options.rounds) for who, look in looks.items()}
        )


if __name__ == "__main__":
    sys.exit(main())
