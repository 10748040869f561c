"""What has happened lately, for whoever watches: a short memory that threads may share; it decides nothing."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEPT = 200
# Of the keeper's own log: what an operator wants to see beside the supervisor's lines.
OWN = frozenset(
    {
        "activity_settled", "activity_poisonous", "settlement_given_up", "settlement_delayed", "lease_lost",
        "lease_too_short", "token_not_granted", "token_granted", "engine_unreachable", "engine_reachable_again",
        "engine_misconfigured", "engine_refuses_our_token",
    }
)  # fmt: skip


class EventLog:
    """The newest events, each with a number that only grows, also from one keeper to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._listeners: list[Callable[[], None]] = []
        self._last = 0

    def add(self, at: float, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Remembers one event. `at` is in seconds since 1970, and makes its number: a repeat is known by it."""
        with self._lock:
            self._last = max(self._last + 1, int(at * 1e6))
            self._newest.append({**fields, "id": self._last, "at": at, "level": level, "event": event})
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def after(self, number: int) -> list[dict[str, Any]]:
        """All that are remembered and came later than the one with this number."""
        with self._lock:
            return [one for one in self._newest if one["id"] > number]

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener`, from any thread, after each event; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def leave() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return leave


class OwnLog(logging.Handler):
    """Takes from this process's own log what belongs to the events."""

    def __init__(self, events: EventLog) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers the record if its event is one to watch."""
        said = record.msg
        if isinstance(said, dict) and said.get("event") in OWN:
            fields = {
                name: value
                for name, value in said.items()
                if not name.startswith("_") and isinstance(value, str | int | float | None)
            }
            for name in ("event", "level", "time", "timestamp"):
                fields.pop(name, None)
            if fields.get("process") == "keeper":
                del fields["process"]  # it speaks of the whole host
            self._events.add(record.created, record.levelname.lower(), said["event"], fields)
