"""The place where an activity should run, from its measurements.

It should leave plain asyncio only if three conditions hold: the computation is significant, the loop (or the
interpreter) is the bottleneck and not the network, and the move gains more than it costs. The first is not required of
a handler that blocks the loop without computing:

    on the loop without delaying others                         stays
    keeps the loop, but releases the GIL                        thread: it blocks in I/O, or computes in such code
    keeps the loop and the GIL, and its CPU is significant      process
    keeps the loop with many short attempts                     stays: more processes are the remedy
    in a thread, and keeps the GIL                              process
    in an isolate                                               stays: it may need to be killed or bounded
"""

from __future__ import annotations

from dataclasses import dataclass

from flowherd.counted import counted
from flowherd_supervisor.advise.measurements import ENOUGH_PROBES, Measured, Place, Steps, residual_p95_s

ENOUGH_SAMPLES = 30
CPU_MS = 5.0  # per attempt; below this a thread or an isolate costs as much
BLOCK_MS = 20.0  # at a time, which other handlers begin to notice
HOLD_MS = 100.0  # longest hold of the GIL; leaves room for one unlucky probe
SHARE = 0.5  # of the loop, or of the interpreter
RELEASED = 0.5  # share of probes that find the GIL free
SWITCH_MS = 5.0  # time for which pure Python in a thread keeps the GIL from the loop


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts about the processes that it ran in.

    Attributes:
        active_s: seconds in which workers had a handler, over all processes.
        lag_s_p95: lag of their loops, 95th percentile.
        others: steps of the other activities.

    """

    active_s: float
    lag_s_p95: float = 0.0
    others: tuple[Steps, ...] = ()


@dataclass(frozen=True, slots=True)
class Criterion:
    """A condition in numbers, met at the threshold and above."""

    metric: str
    value: float
    threshold: float

    @property
    def is_met(self) -> bool:
        return self.value >= self.threshold


@dataclass(frozen=True, slots=True)
class Gain:
    """The milliseconds that others wait now and would wait after a move, and its cost."""

    now_ms: float
    estimated_ms: float
    cost: str


@dataclass(frozen=True, slots=True)
class Advice:
    """The place where an activity should run and the reason; UNKNOWN while there are too few samples."""

    measured: Measured
    verdict: Place
    reason: str
    cpu_bound: Criterion
    bottleneck: Criterion
    gain: Gain

    @property
    def is_change(self) -> bool:
        """True if the activity should move."""
        return self.verdict not in {Place.UNKNOWN, self.measured.place}


def advise(measured: Measured, around: Surroundings) -> Advice:
    """Returns the advice about one activity."""
    cpu_bound = Criterion("CPU ms of an attempt", measured.cpu_ms, CPU_MS)
    bottleneck = _bottleneck(measured, around.active_s)
    verdict, reason = _verdict(measured, cpu_bound, bottleneck)
    return Advice(measured, verdict, reason, cpu_bound, bottleneck, _gain(measured, around, verdict))


def _bottleneck(measured: Measured, active_s: float) -> Criterion:
    """Measures how far it fills the loop, or for a thread the interpreter; returns the stronger of two criteria."""
    active_s = max(active_s, 1e-9)
    match measured.place:
        case Place.ASYNC:
            ways = (
                Criterion("ms on the loop at a time", measured.block_ms, BLOCK_MS),
                Criterion("share of the loop", min(1.0, measured.kept_s / active_s), SHARE),
            )
        case Place.THREAD:
            held_share = 1.0 - (measured.released_share or 0.0)
            its_s = measured.wall_ms / 1e3 * measured.attempts  # a full machine would make less of its CPU
            ways = (
                Criterion("longest hold of the GIL, ms", 1e3 * measured.longest_hold_s, HOLD_MS),
                Criterion("share of the interpreter", held_share * min(1.0, its_s / active_s), SHARE),
            )
        case _:
            return Criterion("share of the loop", 0.0, SHARE)
    return max(ways, key=lambda way: way.value / way.threshold)


def _verdict(measured: Measured, cpu_bound: Criterion, bottleneck: Criterion) -> tuple[Place, str]:
    if measured.samples < ENOUGH_SAMPLES:
        return Place.UNKNOWN, f"needs {counted(ENOUGH_SAMPLES - measured.samples, 'more measured run')}"
    if (reason := _stays(measured, cpu_bound, bottleneck)) is not None:
        return measured.place, reason
    if measured.released_share is None:
        return Place.UNKNOWN, f"needs {counted(ENOUGH_PROBES - measured.probes, 'more sample')} of the GIL"
    return _offloaded(measured, measured.released_share, cpu_bound.value)


def _stays(measured: Measured, cpu_bound: Criterion, bottleneck: Criterion) -> str | None:
    """Returns why it should stay where it is, None if it should move."""
    match measured.place:
        case Place.ASYNC if not bottleneck.is_met:
            return f"others wait {measured.block_ms:.1f} ms for it at a time: nothing to gain"
        case Place.ASYNC if measured.kept_ms < CPU_MS or (measured.computes and not cpu_bound.is_met):
            return f"{measured.kept_ms:.2f} ms an attempt are too little to move: it is their number"
        case Place.THREAD if not (cpu_bound.is_met and bottleneck.is_met):
            return f"{cpu_bound.value:.1f} ms of CPU in {measured.wall_ms:.0f} ms delay no others"
        case Place.PROCESS:
            return f"its {cpu_bound.value:.1f} ms of CPU in its own process delay no others"
    return None


def _offloaded(measured: Measured, released: float, cpu_ms: float) -> tuple[Place, str]:
    """Returns a place for an activity that delays others: a thread if it releases the GIL, else a process."""
    if released < RELEASED:
        return Place.PROCESS, f"it computes {cpu_ms:.0f} ms and keeps the GIL ({released:.0%} released)"
    if measured.place is Place.THREAD:
        return Place.THREAD, f"it gives the GIL up ({released:.0%} of the time), so others run beside it"
    if measured.computes:
        return Place.THREAD, f"it computes {cpu_ms:.0f} ms, but gives the GIL up ({released:.0%} of the time)"
    return (
        Place.THREAD,
        f"it blocks the loop for {measured.kept_ms:.0f} ms to wait, with {cpu_ms:.1f} ms of CPU",
    )


def _gain(measured: Measured, around: Surroundings, verdict: Place) -> Gain:
    """Estimates the time that others wait for the loop, the 95th percentile, now and after a move."""
    beside_it_s = residual_p95_s((measured.steps,), sum(measured.steps.seconds))
    now_ms = 1e3 * max(around.lag_s_p95, beside_it_s)
    if verdict in {Place.UNKNOWN, measured.place}:
        return Gain(now_ms, now_ms, "none")
    without_ms = 1e3 * residual_p95_s(around.others, around.active_s)
    if verdict is Place.THREAD:
        without_ms = max(without_ms, SWITCH_MS * (1 - (measured.released_share or 0.0)))
        return Gain(now_ms, min(now_ms, without_ms), "a thread for each that runs, 0.1 ms an attempt")
    cost = "a process for each that runs, some MB and 1 ms an attempt"
    return Gain(now_ms, min(now_ms, without_ms), cost)
