"""The engine's record of claims and verdicts, an oracle for tests; without test hooks it writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Entry", "Journal"]

_COLUMNS = ("seq", "at_s", "event", "activity_id", "worker_id", "attempt", "verdict")


class Entry(NamedTuple):
    """One claim, heartbeat, completion, failure or lapse, at the engine's time.

    `attempt` counts from 1 and is None where a call was refused or repeated.
    """

    at_s: float
    event: str
    activity_id: str
    worker_id: str
    attempt: int | None
    verdict: str


class Journal:
    """Written in the transaction it tells about: it survives a kill exactly as far as the facts do."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def write(self, connection: sqlite3.Connection, entry: Entry) -> None:
        """Note one fact."""
        if self._enabled:
            connection.execute(
                "INSERT INTO journal (at_s, event, activity_id, worker_id, attempt, verdict)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                entry,
            )

    @staticmethod
    def read(connection: sqlite3.Connection, after: int, activity_id: str | None) -> list[dict[str, Any]]:
        """The entries after sequence number `after`, oldest first."""
        rows = connection.execute(
            "SELECT seq, at_s, event, activity_id, worker_id, attempt, verdict FROM journal"
            " WHERE seq > :after AND (:id IS NULL OR activity_id = :id) ORDER BY seq",
            {"after": after, "id": activity_id},
        )
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
