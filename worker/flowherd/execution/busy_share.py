"""The share of time that a worker's process is busy while handlers run; it measures, and advises nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flowherd.ledger import Cell, Clock
from flowherd.ledger.activity_cost_table import LOADS, Load
from flowherd.ledger.histogram import bucket_of

if TYPE_CHECKING:
    from flowherd.execution.activity_costs import ActivityProfiles
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.ledger import Segment


class BusyShareMeter:
    """Takes the lag's readings and publishes them with everything that has been measured since.

    Args:
        segment: gets the present lag, and says whether slots are free; this process's own.
        meter: knows how long handlers have kept the loop.
        measures: published at each reading.

    """

    def __init__(self, segment: Segment, meter: LoopMeter, measures: ActivityProfiles) -> None:
        self._segment = segment
        self._meter = meter
        self._measures = measures
        self._load = [0.0] * LOADS
        self._stepping_s = self._cpu_s = 0.0

    def begins(self) -> None:
        """Begins a stretch of time; what was done before, such as polling, is no load of the activities."""
        self._segment.set_clock(Clock.LOOP_READ_AT, time.monotonic())
        self._stepping_s = self._meter.busy_s
        self._cpu_s = time.thread_time()

    def reads(self, late_s: float, elapsed_s: float, smoothed_s: float) -> None:
        """Takes a reading of the lag (`flowherd.execution.loop_lag.Readings`)."""
        stepping_s = self._meter.busy_s - self._stepping_s
        cpu_s = time.thread_time() - self._cpu_s
        load, segment = self._load, self._segment
        load[Load.ACTIVE_S] += elapsed_s
        load[Load.BUSY_S] += min(elapsed_s, max(stepping_s, cpu_s))  # a loop that blocks takes no CPU
        load[Load.CPU_S] += cpu_s
        if segment.get(Cell.RUNNING) >= segment.get(Cell.LIMIT):
            load[Load.FULL_S] += elapsed_s
        load[Load.LATE + bucket_of(late_s)] += elapsed_s
        segment.set_clock(Clock.LOOP_LAG_S, smoothed_s)
        self.begins()
        self.publish()

    def publish(self) -> None:
        """Makes readable what has been measured; also the end of a worker does."""
        self._measures.publish(self._load)
