"""What the supervisor has decided to run, out of the user's settings; pure and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowherd_supervisor.core.budget import split
from flowherd_supervisor.core.restarts import RestartPolicy

SLOTS_PER_PROCESS = 4
FEWEST_SLOTS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds.

    Attributes:
        processes: how many worker processes to keep alive.
        concurrency: the host's slots, split evenly over them.
        graceful_timeout_s: what a drain may take before the rest is given back.
        boot_timeout_s: from fork to Ready.

    """

    processes: int
    concurrency: int
    graceful_timeout_s: float = 30.0
    boot_timeout_s: float = 30.0
    restarts: RestartPolicy = field(default_factory=RestartPolicy)

    @property
    def shares(self) -> tuple[int, ...]:
        """Slots of each seat."""
        return split(self.concurrency, self.processes)


def choose_sizes(processes: int | None, concurrency: int | None, usable_cpus: int) -> tuple[int, int]:
    """Processes and slots, where None means automatic; when only one is explicit the other follows it.

    Raises:
        ValueError: both are explicit and a process would get no slot.

    """
    if processes is not None and concurrency is not None and concurrency < processes:
        raise ValueError(
            f"--concurrency {concurrency} is less than --processes {processes}: a process would have none. "
            f"Use --concurrency {processes} or more, or --processes {concurrency} or fewer"
        )
    if processes is None:
        processes = usable_cpus if concurrency is None else min(usable_cpus, concurrency)
    if concurrency is None:
        concurrency = max(FEWEST_SLOTS, SLOTS_PER_PROCESS * processes)
    return processes, concurrency
