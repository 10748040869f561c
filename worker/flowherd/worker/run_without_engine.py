"""Runs attempts as a worker does, but without an engine, a ledger or a limit of slots, for tests of handlers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Died, Lost
from flowherd.background import Changes
from flowherd.client.engine_protocol import Batch
from flowherd.ledger.crash_history import CrashHistory
from flowherd.worker.admission import Admission
from flowherd.worker.attempt_table import AttemptTable
from flowherd.worker.attempt_table_types import Ending, Rules
from flowherd.worker.executor_choice import Executors
from flowherd.worker.perform_commands import Performer

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowherd.activities_and_outcomes import Activity, Failed, Outcome
    from flowherd.execution.in_thread import ThreadPool
    from flowherd.execution.run_environment import RunEnvironment
    from flowherd.isolates.isolate_pool import Isolates
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.admission import Crowd, Obstacle
    from flowherd.worker.attempt import Attempt
    from flowherd.worker.attempt_table_types import Reject, WakePoller

_MOST = 1 << 30  # slots and records


class _NoRecords:
    """`flowherd.worker.attempt_table_types.Records` that stores nothing."""

    def __init__(self) -> None:
        self._last = 0
        self.newest: Attempt | None = None

    free = _MOST

    def claim(self, activity: Activity, *, now: float, lease_s: float) -> tuple[int, int]:
        del activity, now, lease_s
        self._last += 1
        return self._last, self._last

    def follow(self, attempt: Attempt) -> None:
        self.newest = attempt

    def rebind(self, attempt: Attempt, worker_id: str, *, now: float) -> None:
        """Does nothing: no engine hands an activity out again."""

    def closed(self, attempt: Attempt, ending: Ending, told: Failed | None) -> None:
        """Does nothing: there is no history."""

    def keeper_of(self, attempt: Attempt) -> None:
        """Returns None: no keeper settles for this process."""

    def earlier(self, activity_id: str) -> int:
        del activity_id
        return 0

    def not_completed(self, activity_id: str) -> None:
        """Does nothing: no engine hands an activity out again."""

    def begun_at(self, name: str) -> float:
        del name
        return _now()

    def busy_until(self, names: Collection[str]) -> float:
        del names
        return _now()


class _Always(Admission):
    """Admission without obstacles."""

    def obstacle(self, *_: object) -> Obstacle | None:
        return None

    def room(self, crowd: Crowd) -> int:
        del crowd
        return _MOST


class WithoutEngine:
    """Runs activities on the running loop.

    Args:
        registry: the handlers.
        config: limits, such as `activity_timeout_s` and `cancel_grace_s`.
        threads: the pool for blocking handlers.
        environment: the environment of the handlers.
        isolates: the pool for handlers with offload="process".

    """

    def __init__(
        self,
        registry: Registry,
        config: WorkerConfig,
        threads: ThreadPool,
        environment: RunEnvironment,
        isolates: Isolates | None = None,
    ) -> None:
        self.executors = Executors(registry, config, threads, environment, isolates)
        self._records = _NoRecords()
        rules = Rules(cancel_grace_s=config.cancel_grace_s, warn_after_s=config.activity_timeout_s)
        admission = _Always(rules, self._records, self.executors, environment.meter, CrashHistory.none())
        self.table = AttemptTable(rules, self._records, admission, _MOST)
        self.changes = Changes()
        self.performer = Performer(
            self.table,
            self.executors,
            self,
            clock=_now,
            log_completed=config.log_activities,
        )

    def start(self, activity: Activity) -> Attempt:
        """Starts an attempt."""
        now, batch = _now(), Batch([activity])
        commands = self.table.polled(0, batch.activities, asked_at=now)
        attempt = self._records.newest
        assert attempt is not None
        self.performer.perform(commands)
        return attempt

    async def outcome(self, attempt: Attempt) -> Outcome:
        """Waits for the outcome and returns it; the handler may still run then."""
        await self.changes.until(lambda: attempt.is_decided)
        known = attempt.outcome
        return Lost("the lease is somebody else's") if known is None else known

    async def ended(self, attempt: Attempt) -> None:
        """Waits until the handler has ended."""
        await self.changes.until(lambda: attempt.has_ended)

    def deliver(self, attempt: Attempt) -> None:
        """See `Surroundings.deliver`; counts as delivered at once."""
        ending = Ending.LOST if isinstance(attempt.outcome, Died) else Ending.COMPLETED
        self.performer.perform(self.table.delivered(attempt, ending))

    def reject(self, command: Reject) -> None:
        """See `Surroundings.reject`."""

    def wake(self, _: WakePoller) -> None:
        """See `Surroundings.wake`."""

    def changed(self) -> None:
        """See `Surroundings.changed`."""
        self.changes.note()


def _now() -> float:
    return asyncio.get_running_loop().time()
