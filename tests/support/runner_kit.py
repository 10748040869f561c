"""Attempts without an engine, for tests of handlers: a runner starts runs."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from flowherd.activities_and_outcomes import Completed, Lost
from flowherd.ledger.states_and_cells import Handler
from flowherd.sdk.run_state import CancelReason
from flowherd.worker.attempt import ADMITTED
from flowherd.worker.attempt_table_types import Stop
from flowherd.worker.run_without_engine import WithoutEngine

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Activity, Outcome
    from flowherd.worker.attempt import Attempt

__all__ = ["CancelReason", "Phase", "Run", "Runner"]


class Phase(Enum):
    """The phase of an attempt."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    DETACHED = "detached"
    ENDED = "ended"


class Runner:
    """Starts attempts."""

    def __init__(self, *places: Any) -> None:
        self.worker = WithoutEngine(*places)
        self._ids: set[str] = set()

    def start(self, activity: Activity) -> Run:
        if any(one.id == activity.activity_id for one in self.worker.table.slots.attempts):
            # Two at once; tests of handlers do not depend on it.
            activity = replace(activity, activity_id=f"{activity.activity_id}-{len(self._ids)}")
        self._ids.add(activity.activity_id)
        return Run(self.worker, self.worker.start(activity))

    def permits_changed(self) -> None:
        self.worker.executors.permits_changed()

    @property
    def dropped(self) -> int:
        return self.worker.table.dropped


class Run:
    """One attempt."""

    def __init__(self, worker: WithoutEngine, attempt: Attempt) -> None:
        self._worker = worker
        self.attempt = self._state = attempt

    def __repr__(self) -> str:
        return f"<Run {self.attempt!r}>"

    @property
    def activity(self) -> Activity:
        return self.attempt.activity

    @property
    def limit_s(self) -> float:
        return self.attempt.limit_s

    @property
    def heartbeat_at(self) -> float:
        return self.attempt.heartbeat_at

    @property
    def spent(self) -> Any:
        return self.attempt.spent

    @property
    def has_ended(self) -> bool:
        return self.attempt.handler is Handler.ENDED

    @property
    def is_detached(self) -> bool:
        return self.phase is Phase.DETACHED

    @property
    def known_outcome(self) -> Outcome | None:
        if not self.attempt.is_decided:
            return None
        return self.attempt.outcome or Lost("the lease is somebody else's")

    @property
    def dropped(self) -> bool:
        return self.attempt.cancel_reason is not None and not isinstance(self.attempt.outcome, Completed)

    @property
    def phase(self) -> Phase:
        handler = self.attempt.handler
        if handler is Handler.ENDED:
            return Phase.ENDED
        if handler is Handler.STOPPING:
            return Phase.STOPPING if self.attempt.is_held else Phase.DETACHED
        return Phase.RUNNING if handler is Handler.RUNNING else Phase.WAITING

    async def outcome(self) -> Outcome:
        return await self._worker.outcome(self.attempt)

    async def ended(self) -> None:
        await self._worker.ended(self.attempt)

    def cancel(self, reason: CancelReason) -> None:
        """Stops this run only, as a lost lease, a limit or the end of a drain does."""
        attempt, table, performer = self.attempt, self._worker.table, self._worker.performer
        if self.has_ended:
            return
        if reason is CancelReason.LEASE_LOST:
            performer.lost(attempt)
        elif attempt.pair <= ADMITTED:
            attempt.cancel_reason = reason
            table._requeue(attempt, "WORKER_SHUTDOWN", "stopped before it had begun")
            performer.perform(table._given())
        elif attempt.is_held:
            attempt.stop(reason)
            table._time_limits.grant_grace(attempt, performer._clock())
            performer.perform([Stop(attempt)])
