"""What is measured: loads, numbers of processes and of activities; pure, it starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowherd_supervisor.demo.programs import App

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOADS = ("cpu", "io", "mixed")
SLOTS_EACH = 4  # the next activity is there when one ends
LEAST_SLOTS = 16
CPU_MS, MIXED_CPU_MS = 50.0, 25.0  # long beside what an activity costs the engine, which has the same CPUs
IO_S, MIXED_WAIT_S = 0.2, 0.1
LEAST_ACTIVITIES = 40
_GOLDEN = 0.618_033_988_75
OURS = App("flowherd_supervisor.bench.activities:registry", "flowherd-bench")


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of work.

    Attributes:
        name: as the table and the picture call it.
        app: who hosts it.
        activity: which activity is queued.
        cpu_s: seconds of CPU of each activity; 0: unknown, or none.
        wait_s: mean seconds each waits without the CPU.
        rounds: what `cpu_s` is in rounds of our own activity.
        parameters: of the user's own activity.
        count: of activities in each run; None: as many as fill the time.

    """

    name: str
    app: App
    activity: str
    cpu_s: float = 0.0
    wait_s: float = 0.0
    rounds: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether we know what its activities do."""
        return self.app is OURS

    def inputs(self, index: int) -> dict[str, Any]:
        """The parameters of activity number `index`; waits differ, or all would end at the same time."""
        if not self.is_ours:
            return dict(self.parameters)
        spread = 0.5 + index * _GOLDEN % 1.0
        return {"wait_s": round(self.wait_s * spread, 4), "rounds": self.rounds}

    def activities(self, processes: int, cpus: int, slots: int, seconds: float) -> int:
        """How many activities keep so many processes busy for about so many seconds."""
        if self.count is not None:
            return self.count
        each_s = self.cpu_s + self.wait_s
        by_slots = slots / each_s
        by_cpu = min(processes, cpus) / self.cpu_s if self.cpu_s else by_slots
        return max(LEAST_ACTIVITIES, round(seconds * min(by_slots, by_cpu)))


def our_loads(names: Sequence[str], rounds_a_ms: float) -> list[Load]:
    """Computing, waiting, and both, by an activity of our own.

    Args:
        names: of `LOADS`.
        rounds_a_ms: see `activities.rounds_a_ms`.

    """
    shapes = {"cpu": (CPU_MS, 0.0), "io": (0.0, IO_S), "mixed": (MIXED_CPU_MS, MIXED_WAIT_S)}
    return [
        Load(name, OURS, "step", cpu_ms / 1e3, wait_s, round(cpu_ms * rounds_a_ms))
        for name, (cpu_ms, wait_s) in shapes.items()
        if name in names
    ]


def process_counts(cpus: int, most: int | None = None) -> tuple[int, ...]:
    """1, 2, 4, … up to the usable CPUs, and one number beyond, to see that more does not help.

    `most` ends the row, and is the last in it.
    """
    if cpus <= 4:
        counts = list(range(1, cpus + 1))
    else:
        counts = [1 << power for power in range(cpus.bit_length()) if 1 << power < cpus] + [cpus]
    counts.append(cpus + max(1, cpus // 4))
    if most is not None:
        counts = [*(count for count in counts if count < most), most]
    return tuple(counts)


def slots_for(counts: Sequence[int]) -> int:
    """The same number for all: more processes must not look better because they may hold more."""
    return max(LEAST_SLOTS, SLOTS_EACH * max(counts))
