"""The state that runner and context share about one attempt; it must not decide anything."""

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
    """The state that runner and context share; written by the runner's loop, read by any thread."""

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
            self.environment = environment  # else whoever starts the handler sets it
        self.keeper = keeper  # of what is spent, None where a crash is nobody's to settle
        self.limit_s = 0.0
        self.cancel_reason: CancelReason | None = None
        self.is_told = False  # the handler has got the exception that stops it
        self.is_decided = False  # the outcome is known: what is spent from now on is not in it
        self.has_ended = False  # the handler has: what it left behind gets nothing any more
        self.costs: Costs | None = None
        self.files: Transfers | None = None
        self.heartbeat_at = 0.0  # monotonic seconds of the handler's last heartbeat()
        self.logger: logging.LoggerAdapter[logging.Logger] | None = None
        self.trace: Trace | Any | None = None  # in an isolate, the W3C headers of its worker's

    @property
    def ids(self) -> dict[str, Any]:
        """The fields of each line about it in the log."""
        return self.who.fields()

    def open_costs(self) -> Costs:
        """The sums of this attempt's spending, made at their first use; from any thread."""
        if self.costs is None:
            with _ending:
                if self.has_ended:
                    return Costs()  # nobody asks for these sums any more
                if self.costs is None:
                    self.costs = Costs(self.keeper)
        return self.costs

    @property
    def spent(self) -> tuple[str | None, tuple[Usage, ...]]:
        """Cost and usage recorded so far."""
        return (None, ()) if self.costs is None else (self.costs.cost_usd, self.costs.usage)

    def note_end(self) -> None:
        """The handler has ended: `costs` and `files` stay what they are."""
        with _ending:
            self.has_ended = True
            self.keeper = None  # which knows the run: what is over shall not wait for a collection of garbage
