"""The supervisor's plan of what to run, derived from the user's settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from flowherd_supervisor.core.restart_backoff import RestartPolicy
from flowherd_supervisor.core.slot_shares import split

ROOM_AT_LEAST = 64  # room for scaling up later


class Preload(Enum):
    """The choice between one import of the app in a zygote and an import in each process."""

    IF_SAFE = "if safe"
    ALWAYS = "always"  # even if something in the app does not survive a fork
    NEVER = "never"  # each process imports the app itself


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds.

    Attributes:
        processes: number of worker processes to keep alive.
        threads: number of workers if they are threads of a single process, None if each is a process.
        concurrency: the host's slots, split evenly over the processes.
        graceful_timeout_s: duration of a drain before the rest is released.
        boot_timeout_s: limit from fork to Ready.
        cancel_grace_s: time from a handler's limit to the hang rule.
        max_tasks_per_child: activities after which a worker is replaced, None for never.
        max_memory_mb_per_child: growth in MB after which a worker is replaced, None for never.
        most_processes: the most processes that the ledger has room for.
        burst_idle_s: time without work after which the host drains and ends by itself, None for never.
        offload: True if what blocks the loop is moved to isolates, False if nothing is; None if it is with two
            processes or more, since nobody may rely on shared memory there.
        preload: rule for forking workers from a zygote that has imported the app.

    """

    processes: int
    concurrency: int
    graceful_timeout_s: float = 30.0
    boot_timeout_s: float = 30.0
    cancel_grace_s: float = 5.0
    max_tasks_per_child: int | None = None
    max_memory_mb_per_child: int | None = None
    most_processes: int = ROOM_AT_LEAST
    burst_idle_s: float | None = None
    offload: bool | None = None
    preload: Preload = Preload.NEVER
    threads: int | None = None
    restarts: RestartPolicy = field(default_factory=RestartPolicy)

    def __post_init__(self) -> None:
        """Raises `most_processes` to at least the number of workers."""
        object.__setattr__(self, "most_processes", max(self.most_processes, self.workers))

    @property
    def workers(self) -> int:
        """The number of workers, processes or threads; users call both processes."""
        return self.threads or self.processes

    @property
    def moves_blockers(self) -> bool:
        """True if what blocks the loop is moved to isolates."""
        return self.processes > 1 if self.offload is None else self.offload

    def scaled(self, workers: int) -> Plan:
        """Returns the same plan with another number of workers."""
        return replace(self, processes=workers) if self.threads is None else replace(self, threads=workers)

    @property
    def most(self) -> int:
        """The largest number of workers: each needs a slot and a segment."""
        return min(self.most_processes, self.concurrency)

    @property
    def shares(self) -> tuple[int, ...]:
        """The slots of each process."""
        return split(self.concurrency, self.processes)
