"""What runner and context share about one attempt; it must not decide anything."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from flowherd.activity import Activity
    from flowherd.files.attempt_files import AttemptFiles
    from flowherd.running.environment import RunEnvironment
    from flowherd.sdk.costs import Costs


class CancelReason(Enum):
    """Why a handler is told to stop."""

    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"


class RunState:
    """What runner and context share about one attempt; written by the runner's loop, read by any thread."""

    __slots__ = (
        "activity",
        "cancel_reason",
        "costs",
        "environment",
        "files",
        "has_ended",
        "heartbeat_at",
        "limit_s",
        "logger",
    )

    def __init__(self, activity: Activity, environment: RunEnvironment) -> None:
        self.activity = activity
        self.environment = environment
        self.limit_s = 0.0
        self.cancel_reason: CancelReason | None = None
        self.has_ended = False  # the handler has: what it left behind gets nothing any more
        self.costs: Costs | None = None
        self.files: AttemptFiles | None = None
        self.heartbeat_at = 0.0  # monotonic seconds of the handler's last heartbeat()
        self.logger: logging.LoggerAdapter[logging.Logger] | None = None
