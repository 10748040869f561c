"""Measures the cost of each activity while it runs as always; it must cost nearly nothing itself.

All attempts are counted. CPU, waits and memory are measured for the first attempts of an activity and for one of many
after that, since asking the kernel for a thread's CPU costs more than a light step does. The numbers reach the shared
table when the loop's lag is read, four times a second while anything runs.
"""

from __future__ import annotations

import resource
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, TypeVar

from flowherd.ledger.activity_cost_table import FIGURES, STEP_BUCKETS, Metric, Where, WorkTable
from flowherd.ledger.histogram import bucket_of
from flowherd.memory import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SAMPLED_FIRST = 64
SAMPLED_EVERY = 128  # of the others; a sample costs some 25 µs, and 2 µs a step
LONG_STEP_S = 0.001  # shorter ones delay nobody

# Looking a member up in its enum costs as much as adding to it: these are added to for every attempt or step.
_ATTEMPTS, _KEPT, _LONGEST = int(Metric.ATTEMPTS), int(Metric.KEPT_S), int(Metric.LONGEST_BLOCK_S)
_STEP_CPU, _LONG_STEPS = int(Metric.STEP_CPU), int(Metric.LONG_STEPS)

T = TypeVar("T")


class ActivityProfile:
    """The numbers of one activity in this process. The watchdog's thread calls `probed`, the loop all else."""

    __slots__ = ("_begun", "_figures")

    def __init__(self, where: Where) -> None:
        self._begun = 0
        self._figures = [float(where), *[0.0] * (FIGURES - 1)]

    def __getitem__(self, figure: Metric) -> float:
        return self._figures[figure]

    @property
    def figures(self) -> Iterable[float]:
        """All numbers, in the table's order."""
        return self._figures

    def begins(self) -> bool:
        """Counts an attempt that begins on the loop, and says whether it shall be a sample.

        By those that have ended, a whole batch that begins at once would be samples, or none of it.
        """
        self._begun += 1
        return self._begun <= SAMPLED_FIRST or not self._begun % SAMPLED_EVERY

    def kept_loop(self, kept_s: float, longest_s: float) -> None:
        """An attempt on the loop has ended: how long it had the loop, and at most at a time."""
        figures = self._figures
        figures[_ATTEMPTS] += 1.0
        figures[_KEPT] += kept_s
        figures[_LONGEST] = max(figures[_LONGEST], longest_s)

    def long_step(self, length_s: float) -> None:
        """Counts a step that blocked the loop for longer than `LONG_STEP_S`."""
        self._figures[_LONG_STEPS + bucket_of(length_s)] += length_s

    def step_cpu(self, cpu_s: float) -> None:
        """CPU of one step of a sample."""
        self._figures[_STEP_CPU + min(int(cpu_s * 1e6).bit_length(), STEP_BUCKETS - 1)] += 1.0

    def sampled(self, *, cpu_s: float, wall_s: float, wait_s: float, growth_bytes: int | None) -> None:
        """A sample has ended; `growth_bytes` is None when it did not run alone."""
        figures = self._figures
        figures[Metric.SAMPLES] += 1.0
        figures[Metric.CPU_S] += cpu_s
        figures[Metric.WALL_S] += wall_s
        figures[Metric.WAIT_S] += wait_s
        if growth_bytes is not None:
            figures[Metric.ALONE] += 1.0
            figures[Metric.GROWTH_BYTES] += growth_bytes

    def offloaded(self, *, cpu_s: float, wall_s: float, growth_bytes: int | None = None) -> None:
        """An attempt in a thread or an isolate has ended: its CPU is known as a whole, as one step."""
        self._figures[_ATTEMPTS] += 1.0
        self.step_cpu(cpu_s)
        self.sampled(cpu_s=cpu_s, wall_s=wall_s, wait_s=max(0.0, wall_s - cpu_s), growth_bytes=growth_bytes)

    def probed(self, *, waited_s: float, released: bool) -> None:
        """Counts a request for the GIL made while a handler of this activity ran."""
        figures = self._figures
        figures[Metric.PROBES] += 1.0
        if released:
            figures[Metric.RELEASED] += 1.0
        elif waited_s > figures[Metric.LONGEST_HOLD_S]:
            figures[Metric.LONGEST_HOLD_S] = waited_s


class ActivityProfiles:
    """The measures of one worker's activities.

    Args:
        places: where the handler of each activity runs; those beyond the table's room are not measured.
        table: where others read the numbers, None for nowhere.

    Attributes:
        by_name: the measure of each activity.

    """

    def __init__(self, places: Mapping[str, Where], table: WorkTable | None = None) -> None:
        self.by_name: dict[str, ActivityProfile] = {}
        self._table = table or WorkTable.private()
        self._entries: dict[str, int] = {}
        for name, where in places.items():
            if (entry := self._table.add(name, where)) is not None:
                self.by_name[name] = ActivityProfile(where)
                self._entries[name] = entry

    def __repr__(self) -> str:
        return f"<ActivityProfiles [{len(self.by_name)} activities]>"

    def publish(self, load: Iterable[float]) -> None:
        """Copies all numbers, and those of the whole process, into the table."""
        for name, entry in self._entries.items():
            self._table.store(entry, self.by_name[name].figures)
        self._table.store_load(load)


class LoopSample:
    """An attempt on the loop, measured closely.

    Args:
        measure: gets the result.
        alone: whether nothing else runs, so that the process's memory says something about it.

    """

    __slots__ = (
        "_busy_s",
        "_cpu_at",
        "_cpu_s",
        "_kept_s",
        "_measure",
        "_paused_at",
        "_resident",
        "_resumed_at",
        "_wait_s",
    )

    def __init__(self, measure: ActivityProfile, *, alone: bool) -> None:
        self._measure = measure
        self._resident = resident_bytes() if alone else 0
        self._cpu_at = self._cpu_s = self._kept_s = self._wait_s = 0.0
        self._resumed_at = self._paused_at = self._busy_s = 0.0

    def resume(self, busy_s: float) -> None:
        """A step begins; `busy_s` is how long the loop has ever been busy. What others had of it was no wait."""
        self._resumed_at = now = perf_counter()
        if self._paused_at:
            self._wait_s += max(0.0, now - self._paused_at - (busy_s - self._busy_s))
        self._cpu_at = thread_time()

    def pause(self, busy_s: float) -> None:
        """The step has ended."""
        cpu_s = thread_time() - self._cpu_at
        self._paused_at = now = perf_counter()
        self._busy_s = busy_s
        self._kept_s += now - self._resumed_at
        self._cpu_s += cpu_s
        self._measure.step_cpu(cpu_s)

    def end(self, *, alone: bool) -> None:
        """The attempt has ended."""
        growth = resident_bytes() - self._resident if alone and self._resident else None
        self._measure.sampled(
            cpu_s=self._cpu_s,
            wall_s=self._kept_s + self._wait_s,
            wait_s=self._wait_s,
            growth_bytes=growth,
        )


class Stay:
    """An attempt in a thread: made and ended on the loop, measured in the thread.

    Args:
        measure: receives the result; None to measure nothing.
        alone: as `LoopSample`.

    Attributes:
        cpu_s: seconds of CPU that it has taken, once it has ended.

    """

    __slots__ = ("_measure", "_resident", "_wall_s", "cpu_s")

    def __init__(self, measure: ActivityProfile | None, *, alone: bool) -> None:
        self._measure = measure
        self._resident = resident_bytes() if alone and measure is not None else 0
        self.cpu_s = self._wall_s = 0.0

    def run(self, call: Callable[[], T]) -> T:
        """Calls it in the present thread, whose CPU is then the handler's."""
        began, cpu_at = perf_counter(), thread_time()
        try:
            return call()
        finally:
            self.cpu_s, self._wall_s = thread_time() - cpu_at, perf_counter() - began

    def end(self, *, alone: bool) -> None:
        """The attempt has ended, and its outcome is on the loop."""
        if self._measure is not None:
            growth = resident_bytes() - self._resident if alone and self._resident else None
            self._measure.offloaded(cpu_s=self.cpu_s, wall_s=self._wall_s, growth_bytes=growth)


class WholeProcess:
    """The use of this whole process from now on, with the programs it has run: in an isolate it is one attempt's."""

    def __init__(self) -> None:
        self._began, self._cpu_at, self._resident = perf_counter(), _cpu_s(), resident_bytes()

    def taken(self) -> tuple[float, float, int]:
        """Seconds of CPU, seconds, and bytes of resident memory more than at the start."""
        return _cpu_s() - self._cpu_at, perf_counter() - self._began, resident_bytes() - self._resident


def _cpu_s() -> float:
    """Of all threads, and of the children that have been waited for."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
