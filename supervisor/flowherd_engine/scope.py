"""What templates of a running workflow can see, and the times they may name; it schedules nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from .expressions import UNDEFINED
from .templates import TemplateError, resolve

if TYPE_CHECKING:
    import sqlite3

    from .definitions import Definition, Step

__all__ = ["Run", "Scope", "scheduled_for"]

_DELAY = re.compile(r"(\d{1,9})(ms|s|mi|mo|m|h|d|w|y)")
# months and years of average length: this engine lives for a demo
_UNIT_S = {
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "mi": 60,
    "h": 3600,
    "d": 86_400,
    "w": 604_800,
    "mo": 2_629_746,
    "y": 31_556_952,
}


@dataclass(frozen=True, slots=True)
class Run:
    """A running workflow as the scheduler needs it."""

    seq: int
    id: str
    definition: Definition


class Scope:
    """The names a template sees, read from the database when they are used."""

    def __init__(self, connection: sqlite3.Connection, run: Run, signal: Any = UNDEFINED) -> None:
        self._connection = connection
        self._run = run
        self._signal = signal

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a top-level name (protocol.md §11.3)."""
        match name:
            case "INPUT":
                row = self._connection.execute("SELECT input FROM workflows WHERE seq = ?", (self._run.seq,))
                return msgspec.json.decode(row.fetchone()[0])
            case "WORKFLOW":
                return {"id": self._run.id, "status": "running"}
            case "SIGNAL":
                return self._signal
            case "SECRET":
                return {}
            case _:
                return self._activity(name, default)

    def _activity(self, key: str, default: Any) -> Any:
        row = self._connection.execute(
            "SELECT status, outputs FROM activities WHERE workflow_seq = ? AND key = ?", (self._run.seq, key)
        ).fetchone()
        if row is None:
            return default
        status, outputs = row
        found = {} if outputs is None else msgspec.json.decode(outputs)
        # an output of that name is hidden, as on the server (protocol.md §6.5)
        return {**found, "status": "pending" if status == "running" else status}


def scheduled_for(step: Step, scope: Scope, now_s: float) -> float:
    """The moment a step may be claimed: `delay` or `scheduled_for`, maybe templates (protocol.md §8.1)."""
    if step.settings.delay is not None:
        written = str(resolve(step.settings.delay, scope))
        found = _DELAY.fullmatch(written)
        if found is None:
            raise TemplateError(f"Invalid duration format: '{written}'")
        return now_s + int(found[1]) * _UNIT_S[found[2]]
    if step.settings.scheduled_for is not None:
        written = str(resolve(step.settings.scheduled_for, scope))
        try:
            moment = datetime.fromisoformat(written)
        except ValueError as error:
            raise TemplateError(f"Invalid ISO 8601 timestamp: {error}") from error
        if moment.tzinfo is None:
            raise TemplateError(f"Invalid ISO 8601 timestamp: '{written}' names no time zone")
        return moment.timestamp()
    return now_s
