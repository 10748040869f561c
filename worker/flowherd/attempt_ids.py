"""The names of an attempt in the log, and the attempt that a context works for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

HANDLERS = "flowherd.activity"  # the logger behind `ctx.logger`


class History(Protocol):
    """The memory of activities that this host was given and has not completed."""

    def earlier(self, activity_id: str) -> int:
        """The number of times, for this one."""
        ...


class AttemptIds(msgspec.Struct):
    """The names of one attempt; they are kept without its parameters.

    Attributes:
        history: counts earlier attempts, None where nobody does.
        seen: how often this host has been given the activity, with this attempt; 0 until somebody asks.
        is_last: the log has said that it has failed for good.

    """

    activity_id: str
    workflow_id: str
    activity_key: str
    activity_name: str
    history: History | None = None
    seen: int = 0
    is_last: bool = False

    def fields(self) -> dict[str, Any]:
        """The fields of each line about it; `logs` shows `activity_name` as `name`, which a `LogRecord` has already."""
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
"""The attempt whose handler has begun this context: other code than ours logs about it here."""
