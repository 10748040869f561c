"""The engine's own record of claims and verdicts, an oracle for tests; without test hooks it writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Journal"]

_COLUMNS = ("seq", "at_s", "event", "activity_id", "worker_id", "attempt", "verdict")


class Journal:
    """Written in the transaction it tells about, so that it survives a kill exactly as far as the facts do."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def write(
        self,
        connection: sqlite3.Connection,
        at_s: float,
        event: str,
        activity_id: str,
        worker_id: str,
        attempt: int | None,
        verdict: str,
    ) -> None:
        """Note one claim, heartbeat, completion, failure or lapse."""
        if self._enabled:
            connection.execute(
                "INSERT INTO journal (at_s, event, activity_id, worker_id, attempt, verdict)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (at_s, event, activity_id, worker_id, attempt, verdict),
            )

    @staticmethod
    def read(connection: sqlite3.Connection, after: int, activity_id: str | None) -> list[dict[str, Any]]:
        """The entries after sequence number `after`, oldest first."""
        rows = connection.execute(
            "SELECT seq, at_s, event, activity_id, worker_id, attempt, verdict FROM journal"
            " WHERE seq > ? AND (? IS NULL OR activity_id = ?) ORDER BY seq",
            (after, activity_id, activity_id),
        )
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
