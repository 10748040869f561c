"""Probes how long a thread waits for the GIL while a handler runs."""

from __future__ import annotations

import sys
import threading
from time import perf_counter
from typing import TYPE_CHECKING

from flowherd.thread_time import queued_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.execution.activity_costs import ActivityProfile
    from flowherd.execution.loop_meter import LoopMeter

_GOLDEN = 0.618033988749895


class GilProbe:
    """Measures how late a sleeping thread gets to run again.

    Pure Python makes it wait for the switch interval (5 ms), C code that holds the GIL for as long as the call takes,
    and code that releases the GIL not at all. Time spent in the kernel's run queue is subtracted.

    Args:
        meter: tells which handlers are running.
        measures: the profiles that receive the results, by activity.

    """

    def __init__(self, meter: LoopMeter, measures: Mapping[str, ActivityProfile]) -> None:
        self._meter = meter
        self._measures = measures
        self._patience_s = sys.getswitchinterval() / 2
        self._naps = 0

    def nap(self, about_s: float) -> float:
        """Sleeps in the calling thread, always the same one, and records how late it woke; returns when it was due."""
        self._naps += 1
        length_s = about_s * (0.5 + self._naps * _GOLDEN % 1)  # varied, to stay out of step with handlers
        queued_before_s, busy_s = queued_s(), self._meter.busy_s
        due = perf_counter() + length_s
        threading.Event().wait(length_s)
        late_s = perf_counter() - due
        if late_s >= self._patience_s:
            late_s -= queued_s() - queued_before_s
        self.judge(due, late_s, self._meter.busy_s - busy_s)
        return due

    def judge(self, due: float, late_s: float, loop_s: float = 0.0) -> None:
        """Counts one probe for the handler that was running at `due`, if that is certain.

        A step that has ended since then counts only when the probe had to wait: it may have been about to end. A step
        does not count beside a thread that may have held the GIL instead.

        Args:
            due: the time when it should have woken, in `perf_counter` seconds.
            late_s: seconds that it then waited for the GIL.
            loop_s: seconds that handlers occupied the loop meanwhile.

        """
        meter = self._meter
        held = late_s >= self._patience_s
        since, name, last, threads = meter.since, meter.name, meter.last_long, list(meter.in_threads)
        is_on = bool(since) and since <= due
        if is_on or last.began <= due < last.ended:
            if (held and not threads) or (is_on and not held):
                self._count(name if is_on else last.name, late_s, held=held)
        elif len(threads) == 1 and (not held or loop_s < late_s / 2):
            self._count(threads[0], late_s, held=held)

    def _count(self, name: str, late_s: float, *, held: bool) -> None:
        if (measure := self._measures.get(name)) is not None:
            measure.probed(waited_s=late_s, released=not held)
