"""Judges for how long a step has occupied its loop, from readings that another thread takes. Pure, but for `read`.

A step's wall-clock time is too much: the loop's thread may have been runnable without a CPU, the process frozen, or the
GIL with a handler in a thread. None of that is the step's doing, and is subtracted. A reading before the step and one
after it enclose the step, so what is subtracted may be a little more than the step lost: a judgement is a lower bound.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import NamedTuple

OCCUPIES_S = 0.05  # a step this long delays what else is on the loop by more than a user overlooks
LEAST_SHARE = 0.25  # of a CPU: four handlers that only wait weigh as much as one that computes
_LATE_S = 0.02  # a nap may end this much too late on a machine with nothing else to do


class Reading(NamedTuple):
    """Totals of the loop's thread, in seconds, as read at `at` (`perf_counter` seconds).

    Attributes:
        at: the time of the reading.
        cpu_s: its time on a CPU.
        queued_s: its time runnable without a CPU.
        gil_s: the most that it can have waited for the GIL, by its voluntary context switches.
        frozen_s: the time in which the process was stopped.
        stays_ended: the handlers in threads that have ended.

    """

    at: float
    cpu_s: float = 0.0
    queued_s: float = 0.0
    gil_s: float = 0.0
    frozen_s: float = 0.0
    stays_ended: int = 0


def occupied_s(before: Reading, after: Reading, length_s: float, *, beside_threads: bool) -> float:
    """Returns the seconds that a step certainly occupied its loop.

    Args:
        before: a reading before the step.
        after: a reading after the step, or within it.
        length_s: the wall-clock length of the step up to `after`.
        beside_threads: True when handlers in threads may have held the GIL meanwhile.

    """
    lost_s = after.queued_s - before.queued_s + after.frozen_s - before.frozen_s
    if beside_threads:
        lost_s += after.gil_s - before.gil_s
    return max(0.0, length_s - lost_s)


def cpu_share(before: Reading, after: Reading, occupied_s: float) -> float:
    """Returns the share of a CPU that the step took while it occupied the loop, between `LEAST_SHARE` and 1."""
    return min(1.0, max(LEAST_SHARE, (after.cpu_s - before.cpu_s) / occupied_s)) if occupied_s > 0 else 1.0


def frozen_s(late_s: float, queued_s: float, switches: int) -> float:
    """Returns the seconds by which a nap ended late because the process was stopped.

    A thread that waits for a CPU is queued, and one that waits for the GIL wakes every switch interval to ask for it;
    one that is stopped does neither.

    Args:
        late_s: seconds by which the nap ended late.
        queued_s: seconds in which the thread was runnable without a CPU meanwhile.
        switches: the thread's voluntary context switches meanwhile.

    """
    unexplained_s = late_s - queued_s
    if unexplained_s < _LATE_S or switches * sys.getswitchinterval() > unexplained_s / 2:
        return 0.0
    return unexplained_s


class ThreadFigures:
    """Reads the figures of a thread of this process from the kernel; zeros where it does not provide them.

    Args:
        native_id: the thread's id in the kernel.

    """

    def __init__(self, native_id: int) -> None:
        folder = f"/proc/self/task/{native_id}"
        self._schedstat, self._status = f"{folder}/schedstat", f"{folder}/status"

    def read(self, at: float, frozen_s: float, *, with_gil: bool) -> Reading:
        """Returns a reading; `gil_s` counts only `with_gil`, as it costs most."""
        cpu_ns, queued_ns = 0, 0
        with suppress(OSError, ValueError):
            cpu_ns, queued_ns = map(int, _content(self._schedstat).split()[:2])
        gil_s = self._switches() * sys.getswitchinterval() if with_gil else 0.0
        return Reading(at, cpu_ns / 1e9, queued_ns / 1e9, gil_s, frozen_s)

    def _switches(self) -> int:
        with suppress(OSError, ValueError):
            _, _, rest = _content(self._status).partition(b"\nvoluntary_ctxt_switches:")
            return int(rest.split(maxsplit=1)[0]) if rest else 0
        return 0


def own_switches() -> int:
    """Returns the voluntary context switches of the calling thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _content(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)
