"""Measures the cost of each activity while it runs normally, at nearly no cost of its own.

All attempts are counted. CPU, waits and memory are measured only for samples, the first attempts of an activity and
every `SAMPLED_EVERY`th one after them, because reading a thread's CPU time costs more than a light step. The numbers
reach the shared table when the loop's lag is read, four times a second while any handler runs.
"""

from __future__ import annotations

import resource
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flowherd.ledger.activity_cost_table import FIGURES, STEP_BUCKETS, Metric, Where, WorkTable
from flowherd.ledger.histogram import bucket_of
from flowherd.procfs import resident_bytes
from flowherd.thread_time import queued_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SAMPLED_FIRST = 64
SAMPLED_EVERY = 128  # among later attempts; a sample costs about 25 µs, and 2 µs per step
LONG_STEP_S = 0.001  # shorter steps do not noticeably delay others

# Module constants, because an enum lookup costs as much as the addition, which happens for every attempt or step.
_ATTEMPTS, _KEPT, _LONGEST = int(Metric.ATTEMPTS), int(Metric.KEPT_S), int(Metric.LONGEST_BLOCK_S)
_STEP_CPU, _LONG_STEPS = int(Metric.STEP_CPU), int(Metric.LONG_STEPS)

T = TypeVar("T")


class ActivityProfile:
    """The measurements of one activity in this process; the watchdog's thread calls `probed`, the loop the rest."""

    __slots__ = ("_begun", "_figures")

    def __init__(self, where: Where) -> None:
        self._begun = 0
        self._figures = [float(where), *[0.0] * (FIGURES - 1)]

    def __getitem__(self, figure: Metric) -> float:
        return self._figures[figure]

    @property
    def figures(self) -> Iterable[float]:
        """All numbers, in the order of the table."""
        return self._figures

    def begins(self) -> bool:
        """Counts an attempt that begins on the loop; returns True when it is to be sampled.

        Counting ended attempts instead would sample a whole batch that begins at once, or none of it.
        """
        self._begun += 1
        return self._begun <= SAMPLED_FIRST or not self._begun % SAMPLED_EVERY

    def kept_loop(self, kept_s: float, longest_s: float) -> None:
        """Adds an ended attempt on the loop: the seconds it occupied the loop, in total and in its longest step."""
        figures = self._figures
        figures[_ATTEMPTS] += 1.0
        figures[_KEPT] += kept_s
        figures[_LONGEST] = max(figures[_LONGEST], longest_s)

    def long_step(self, length_s: float) -> None:
        """Adds a step that occupied the loop for `LONG_STEP_S` or longer."""
        self._figures[_LONG_STEPS + bucket_of(length_s)] += length_s

    def step_cpu(self, cpu_s: float) -> None:
        """Adds the CPU seconds of one step of a sample."""
        self._figures[_STEP_CPU + min(int(cpu_s * 1e6).bit_length(), STEP_BUCKETS - 1)] += 1.0

    def sampled(self, *, cpu_s: float, wall_s: float, wait_s: float, growth_bytes: int | None) -> None:
        """Adds an ended sample; `growth_bytes` is None when it did not run alone."""
        figures = self._figures
        figures[Metric.SAMPLES] += 1.0
        figures[Metric.CPU_S] += cpu_s
        figures[Metric.WALL_S] += wall_s
        figures[Metric.WAIT_S] += wait_s
        if growth_bytes is not None:
            figures[Metric.ALONE] += 1.0
            figures[Metric.GROWTH_BYTES] += growth_bytes

    def offloaded(self, *, cpu_s: float, wall_s: float, growth_bytes: int | None = None) -> None:
        """Adds an ended attempt in a thread or an isolate; its CPU time is known only in total, so it is one step."""
        self._figures[_ATTEMPTS] += 1.0
        self.step_cpu(cpu_s)
        self.sampled(cpu_s=cpu_s, wall_s=wall_s, wait_s=max(0.0, wall_s - cpu_s), growth_bytes=growth_bytes)

    def probed(self, *, waited_s: float, released: bool) -> None:
        """Adds a probe of the GIL made while a handler of this activity was running."""
        figures = self._figures
        figures[Metric.PROBES] += 1.0
        if released:
            figures[Metric.RELEASED] += 1.0
        elif waited_s > figures[Metric.LONGEST_HOLD_S]:
            figures[Metric.LONGEST_HOLD_S] = waited_s


class ActivityProfiles:
    """The measurements of one worker's activities.

    Args:
        places: where the handler of each activity runs; activities that the table has no room for are not measured.
        table: the shared table for the numbers, None for a private one.

    Attributes:
        by_name: the profile of each activity in its current place.

    """

    def __init__(self, places: Mapping[str, Where], table: WorkTable | None = None) -> None:
        self.by_name: dict[str, ActivityProfile] = {}
        self._table = table or WorkTable.private()
        self._profiles: dict[tuple[str, Where], tuple[ActivityProfile, int]] = {}
        for name, where in places.items():
            self._set(name, where)

    def __repr__(self) -> str:
        return f"<ActivityProfiles [{len(self.by_name)} activities]>"

    def move(self, name: str) -> None:
        """Measures an activity from now on as one in an isolate."""
        self._set(name, Where.PROCESS)

    def move_back(self, name: str) -> None:
        """Measures an activity from now on as one on the loop again."""
        self._set(name, Where.LOOP)

    def _set(self, name: str, where: Where) -> None:
        """Makes another profile of an activity the current one; a full table has no room for new ones."""
        key = name, where
        if key not in self._profiles and (entry := self._table.add(name, where)) is not None:
            self._profiles[key] = ActivityProfile(where), entry
        if key in self._profiles:
            self.by_name[name] = self._profiles[key][0]
        else:
            self.by_name.pop(name, None)

    def publish(self, load: Iterable[float]) -> None:
        """Copies all numbers, and the load of the whole process, into the table."""
        for profile, entry in self._profiles.values():
            self._table.store(entry, profile.figures)
        self._table.store_load(load)


class LoopSample:
    """A sampled attempt on the loop.

    Args:
        measure: receives the result.
        alone: True when nothing else runs, so that the growth of the process's memory can be attributed to it.

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
        """Begins a step; `busy_s` is the loop's total busy time, so that steps of other handlers are not waits."""
        self._resumed_at = now = perf_counter()
        if self._paused_at:
            self._wait_s += max(0.0, now - self._paused_at - (busy_s - self._busy_s))
        self._cpu_at = thread_time()

    def pause(self, busy_s: float) -> None:
        """Ends a step."""
        cpu_s = thread_time() - self._cpu_at
        self._paused_at = now = perf_counter()
        self._busy_s = busy_s
        self._kept_s += now - self._resumed_at
        self._cpu_s += cpu_s
        self._measure.step_cpu(cpu_s)

    def end(self, *, alone: bool) -> None:
        """Adds the sample of the ended attempt to its profile."""
        growth = resident_bytes() - self._resident if alone and self._resident else None
        self._measure.sampled(
            cpu_s=self._cpu_s,
            wall_s=self._kept_s + self._wait_s,
            wait_s=self._wait_s,
            growth_bytes=growth,
        )


class Stay:
    """An attempt in a thread: created and ended on the loop, measured in the thread.

    Args:
        measure: receives the result, None when the activity is not measured.
        alone: as for `LoopSample`.

    Attributes:
        cpu_s: CPU seconds of the attempt, set at its end.

    """

    __slots__ = ("_measure", "_resident", "_wall_s", "cpu_s")

    def __init__(self, measure: ActivityProfile | None, *, alone: bool) -> None:
        self._measure = measure
        self._resident = resident_bytes() if alone and measure is not None else 0
        self.cpu_s = self._wall_s = 0.0

    def run(self, call: Callable[[], T]) -> T:
        """Runs the call in the current thread and measures the thread's CPU time as the handler's."""
        began, cpu_at = perf_counter(), thread_time()
        try:
            return call()
        finally:
            self.cpu_s, self._wall_s = thread_time() - cpu_at, perf_counter() - began

    def end(self, *, alone: bool) -> None:
        """Adds the ended attempt to its profile; called on the loop."""
        if self._measure is not None:
            growth = resident_bytes() - self._resident if alone and self._resident else None
            self._measure.offloaded(cpu_s=self.cpu_s, wall_s=self._wall_s, growth_bytes=growth)


class Taken(NamedTuple):
    """The usage of a process in a time: CPU, wall-clock and run-queue seconds, and bytes of resident memory."""

    cpu_s: float
    wall_s: float
    queued_s: float
    growth_bytes: int


class WholeProcess:
    """The usage of this process and its child programs from now on; in an isolate, the usage of one attempt."""

    def __init__(self) -> None:
        self._began, self._cpu_at, self._resident = perf_counter(), _cpu_s(), resident_bytes()
        self._queued_at = queued_s()

    def taken(self) -> Taken:
        """Returns the usage since the start; the calling thread, the same one as then, stands for the run queue."""
        wall_s = perf_counter() - self._began
        queued = min(max(queued_s() - self._queued_at, 0.0), wall_s)
        return Taken(_cpu_s() - self._cpu_at, wall_s, queued, resident_bytes() - self._resident)


def _cpu_s() -> float:
    """Returns the CPU seconds of all threads, and of the children that have been waited for."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
