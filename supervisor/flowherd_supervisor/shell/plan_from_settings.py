"""Derives the plan of a host from its settings and its usable CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.settings.sizes_and_warnings import choose_sizes
from flowherd_supervisor.core.plan import Plan, Preload
from flowherd_supervisor.core.restart_backoff import RestartPolicy
from flowherd_supervisor.processes.cpus import usable_cpus

if TYPE_CHECKING:
    from flowherd.settings.model import Settings


def plan_of(settings: Settings) -> Plan:
    """Returns the plan for these settings."""
    workers, concurrency = choose_sizes(settings.processes, settings.concurrency, usable_cpus())
    are_threads = settings.parallel == "threads"
    return Plan(
        processes=1 if are_threads else workers,
        threads=workers if are_threads else None,
        concurrency=concurrency,
        graceful_timeout_s=settings.graceful_timeout,
        boot_timeout_s=settings.boot_timeout,
        cancel_grace_s=settings.cancel_grace,
        max_tasks_per_child=settings.max_tasks_per_child,
        max_memory_mb_per_child=settings.max_memory_per_child,
        restarts=RestartPolicy(settings.max_restarts, settings.restart_window),
        offload=None if settings.offload_blockers is None else settings.offload_blockers == "auto",
        preload={None: Preload.IF_SAFE, True: Preload.ALWAYS, False: Preload.NEVER}[settings.preload],
    )
