"""The state of one attempt that its runner and its context share."""

from __future__ import annotations

import threading
from enum import Enum
from typing import TYPE_CHECKING, Any

from flowherd.attempt_ids import AttemptIds
from flowherd.sdk.spending import Costs

if TYPE_CHECKING:
    import logging

    from flowherd.activities_and_outcomes import Activity, Usage
    from flowherd.execution.run_environment import RunEnvironment, Trace, Transfers
    from flowherd.sdk.spending import SpendingKeeper

_ending = threading.Lock()


class CancelReason(Enum):
    """The reasons for which a handler is told to stop."""

    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"


class RunState:
    """The state of one attempt; written by the runner's loop, read from any thread."""

    __slots__ = (
        "activity",
        "cancel_reason",
        "costs",
        "environment",
        "files",
        "has_ended",
        "heartbeat_at",
        "is_decided",
        "is_told",
        "keeper",
        "limit_s",
        "logger",
        "trace",
        "who",
    )

    environment: RunEnvironment

    def __init__(
        self,
        activity: Activity,
        environment: RunEnvironment | None = None,
        keeper: SpendingKeeper | None = None,
    ) -> None:
        self.activity = activity
        self.who = AttemptIds(activity.activity_id, activity.workflow_id, activity.key, activity.name)
        if environment is not None:
            self.environment = environment  # otherwise set where the handler is started
        self.keeper = keeper  # stores spending; None where no keeper settles a crash
        self.limit_s = 0.0
        self.cancel_reason: CancelReason | None = None
        self.is_told = False  # the exception that stops the handler has been raised in it
        self.is_decided = False  # the outcome is known: later spending is not in it
        self.has_ended = False  # the handler has ended: tasks it left running get no files or costs
        self.costs: Costs | None = None
        self.files: Transfers | None = None
        self.heartbeat_at = 0.0  # monotonic seconds of the handler's last heartbeat()
        self.logger: logging.LoggerAdapter[logging.Logger] | None = None
        self.trace: Trace | Any | None = None  # in an isolate, the W3C headers of its worker's trace

    @property
    def ids(self) -> dict[str, Any]:
        """The fields of each log line about this attempt."""
        return self.who.fields()

    def open_costs(self) -> Costs:
        """Returns the costs of this attempt, created at first use; callable from any thread."""
        if self.costs is None:
            with _ending:
                if self.has_ended:
                    return Costs()  # never reported
                if self.costs is None:
                    self.costs = Costs(self.keeper)
        return self.costs

    @property
    def spent(self) -> tuple[str | None, tuple[Usage, ...]]:
        """Cost and usage recorded so far."""
        return (None, ()) if self.costs is None else (self.costs.cost_usd, self.costs.usage)

    def note_end(self) -> None:
        """Marks the end of the handler; afterwards `costs` and `files` do not change."""
        with _ending:
            self.has_ended = True
            self.keeper = (
                None  # breaks a reference cycle with the run, which would wait for garbage collection
            )
