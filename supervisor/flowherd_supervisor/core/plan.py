"""The supervisor's plan of what to run, made of the user's settings; pure and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from flowherd_supervisor.core.restart_backoff import RestartPolicy
from flowherd_supervisor.core.slot_shares import split

FEWEST_SEATS = 64  # room for scaling up later


class Preload(Enum):
    """The choice between one process that imports the app for all and an import in each."""

    IF_SAFE = "if safe"
    ALWAYS = "always"  # also when it has found something that does not survive a fork
    NEVER = "never"  # each process imports the app itself


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds.

    Attributes:
        processes: how many worker processes to keep alive.
        threads: workers in the one process there is then, each a thread; None where each worker is a process.
        concurrency: the host's slots, split evenly over them.
        graceful_timeout_s: what a drain may take before the rest is given back.
        boot_timeout_s: from fork to Ready.
        cancel_grace_s: from a handler's limit to the hang rule.
        max_tasks_per_child: activities after which a worker is replaced, None for never.
        max_memory_mb_per_child: growth in MB after which a worker is replaced, None for never.
        most_processes: what the ledger has room for.
        burst_idle_s: how long there must be nothing to do before it drains and ends by itself, None for never.
        preload: whether workers are forked from a process that has imported the app.

    """

    processes: int
    concurrency: int
    graceful_timeout_s: float = 30.0
    boot_timeout_s: float = 30.0
    cancel_grace_s: float = 5.0
    max_tasks_per_child: int | None = None
    max_memory_mb_per_child: int | None = None
    most_processes: int = FEWEST_SEATS
    burst_idle_s: float | None = None
    preload: Preload = Preload.NEVER
    threads: int | None = None
    restarts: RestartPolicy = field(default_factory=RestartPolicy)

    def __post_init__(self) -> None:
        """The ledger has room for at least what is wanted."""
        object.__setattr__(self, "most_processes", max(self.most_processes, self.workers))

    @property
    def workers(self) -> int:
        """The number of processes that poll: users call them processes."""
        return self.threads or self.processes

    def scaled(self, workers: int) -> Plan:
        """The same with another number of workers."""
        return replace(self, processes=workers) if self.threads is None else replace(self, threads=workers)

    @property
    def most(self) -> int:
        """The largest number of workers: each needs a slot and room in the ledger."""
        return min(self.most_processes, self.concurrency)

    @property
    def shares(self) -> tuple[int, ...]:
        """Slots of each process."""
        return split(self.concurrency, self.processes)
