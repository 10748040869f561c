"""The counters and gauges of each process number over all incarnations, read from the ledger."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from flowherd.ledger import Cell, Clock, Ledger, Life, ProcessTotal, Timing
from flowherd.ledger.histogram import BOUNDS, CELLS, bound_s
from flowherd.procfs import stat_fields
from flowherd_supervisor.keeper.standstill import loop_lag_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowherd.ledger import Segment
    from flowherd.link.messages import SupervisorState

_TICKS_A_SECOND, _PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_USER, _SYSTEM, _RESIDENT = 11, 12, 21  # in `stat_fields`


@dataclass(frozen=True, slots=True)
class Tally:
    """The counters of one process number. Gauges are sums over the live incarnations; times are seconds."""

    process: int
    totals: Sequence[int]
    timings: Sequence[int]
    slots: int
    held: int
    running: int
    demand: float
    loop_lag_s: float
    memory_bytes: int
    cpu_s: float

    def total(self, total: ProcessTotal) -> int:
        """Returns a counter's sum over all incarnations."""
        return self.totals[total]

    def buckets(self, timing: Timing) -> list[tuple[str, float]]:
        """Returns upper bounds in seconds with cumulative counts, as Prometheus needs them."""
        return bounded(self.timings[CELLS * timing : CELLS * (timing + 1) - 1])

    def total_s(self, timing: Timing) -> float:
        """Returns the sum of a timing in seconds."""
        return self.timings[CELLS * (timing + 1) - 1] / 1e6


def bounded(counts: Sequence[int], *, is_detailed: bool = False) -> list[tuple[str, float]]:
    """Returns the published bounds in seconds with cumulative counts, from the counts between them.

    Calls to the engine get fewer buckets than handlers, since every series costs scrape time and storage.
    """
    return [
        ("+Inf" if index == BOUNDS - 1 else f"{bound_s(index):g}", count)
        for index, count in enumerate(accumulate(counts))
        if is_detailed or index % 2 == 0 or index == BOUNDS - 1
    ]


def counters(ledger: Ledger, told: SupervisorState | None) -> list[Tally]:
    """Returns the process numbers that have counted anything or are wanted, at most `ledger.processes`."""
    by_process: dict[int, list[Segment]] = {number: [] for number in range(told.wanted if told else 0)}
    by_process |= {number: [] for number in told.causes} if told else {}
    by_process |= {
        number: []
        for number in range(ledger.processes)
        if any(ledger.process_total(number, n) for n in ProcessTotal)
    }
    for segment in ledger.segments:
        if segment.life is not Life.FREE and segment.get(Cell.PROCESS) < ledger.processes:
            by_process.setdefault(segment.get(Cell.PROCESS), []).append(segment)
    return [_tally(ledger, number, segments) for number, segments in sorted(by_process.items())]


def _tally(ledger: Ledger, index: int, segments: Iterable[Segment]) -> Tally:
    now = time.monotonic()
    readable = [segment for segment in segments if segment.readable]
    live = [segment for segment in readable if segment.life is Life.LIVE]
    usage = [_usage(segment.get(Cell.PID)) for segment in live]
    counted = [ledger.sums(index), *map(ledger.counts, readable)]
    sums = [sum(numbers) for numbers in zip(*counted, strict=True)]
    return Tally(
        process=index,
        totals=sums[: len(ProcessTotal)],
        timings=sums[len(ProcessTotal) :],
        slots=sum(segment.get(Cell.LIMIT) for segment in live),
        held=sum(segment.get(Cell.HELD) for segment in live),
        running=sum(segment.get(Cell.RUNNING) for segment in live),
        demand=sum(map(_demand, live)),
        loop_lag_s=max((loop_lag_s(segment, now) for segment in live), default=0.0),
        memory_bytes=sum(memory for memory, _ in usage),
        cpu_s=sum(cpu_s for _, cpu_s in usage),
    )


def _demand(segment: Segment) -> float:
    """Returns the busy slots, plus the share of the free ones that polls fill."""
    busy = segment.get(Cell.RUNNING)
    return busy + segment.clock(Clock.FILL) * max(segment.get(Cell.LIMIT) - busy, 0)


def _usage(pid: int) -> tuple[int, float]:
    """Returns resident bytes and CPU seconds; zeros once the process has ended."""
    fields = stat_fields(pid)
    if not fields:
        return 0, 0.0
    return (
        int(fields[_RESIDENT]) * _PAGE_BYTES,
        (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_A_SECOND,
    )
