"""The ids of an attempt in the log, and the context variable with the current attempt."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

HANDLERS = "flowherd.activity"  # the logger behind `ctx.logger`


class History(Protocol):
    """Counts the claims of activities that this host has not completed."""

    def earlier(self, activity_id: str) -> int:
        """Returns how often this host claimed the activity without completing it."""
        ...


class AttemptIds(msgspec.Struct):
    """The ids of one attempt, without its parameters.

    Attributes:
        history: counts earlier attempts, None when they are not counted.
        seen: how often this host has claimed the activity, this attempt included; 0 before it is computed.
        is_last: True when it was logged that the activity has failed for good.

    """

    activity_id: str
    workflow_id: str
    activity_key: str
    activity_name: str
    history: History | None = None
    seen: int = 0
    is_last: bool = False

    def fields(self) -> dict[str, Any]:
        """Returns the fields of a log line; `activity_name` is shown as `name`, which a `LogRecord` has already."""
        if not self.seen:
            self.seen = 1 + (0 if self.history is None else self.history.earlier(self.activity_id))
        return {
            "activity_name": self.activity_name,
            "seen": self.seen,
            "workflow_id": self.workflow_id,
            "activity_id": self.activity_id,
            "activity_key": self.activity_key,
        }


working_for: ContextVar[AttemptIds | None] = ContextVar("flowherd_working_for", default=None)
"""The attempt whose handler runs in this context, for log lines of user code and libraries."""
