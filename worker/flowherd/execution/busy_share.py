"""Measures the share of time that a worker's process is busy while handlers run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flowherd.ledger import Cell, Clock
from flowherd.ledger.activity_cost_table import LOADS, Load
from flowherd.ledger.histogram import bound_of

if TYPE_CHECKING:
    from flowherd.execution.activity_costs import ActivityProfiles
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.ledger import Segment


class BusyShareMeter:
    """Receives the readings of the loop's lag, and publishes them with all measurements.

    Args:
        segment: this process's segment; receives the current lag, and holds the numbers of slots.
        meter: counts the seconds that handlers have occupied the loop.
        measures: the activity profiles, published at each reading.

    """

    def __init__(self, segment: Segment, meter: LoopMeter, measures: ActivityProfiles) -> None:
        self._segment = segment
        self._meter = meter
        self._measures = measures
        self._load = [0.0] * LOADS
        self._stepping_s = self._cpu_s = 0.0

    def begins(self) -> None:
        """Begins an interval; work done before it, such as polling, does not count as load."""
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
        load[Load.LATE + bound_of(late_s)] += elapsed_s
        segment.set_clock(Clock.LOOP_LAG_S, smoothed_s)
        self.begins()
        self.publish()

    def publish(self) -> None:
        """Publishes all measurements; also called at the end of a worker."""
        self._measures.publish(self._load)
