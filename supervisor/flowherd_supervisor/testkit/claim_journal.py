"""The engine's record of claims and verdicts, which tests read with `GET /__test__/ledger`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowherd_engine.queue import Claim, Failure, Queue, Report, Verdict

if TYPE_CHECKING:
    import sqlite3

TABLE = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY, at_s REAL NOT NULL, event TEXT NOT NULL, activity_id TEXT NOT NULL,
    worker_id TEXT NOT NULL, attempt INTEGER, verdict TEXT NOT NULL)
"""
_COLUMNS = ("seq", "at_s", "event", "activity_id", "worker_id", "attempt", "verdict")


class JournaledQueue(Queue):
    """A queue that records each claim, heartbeat, completion, failure and lapse with the engine's time.

    An entry is written in the transaction that it records, so a kill loses both or neither. Its `attempt` counts
    from 1 and is None for a refused or repeated call.
    """

    def claim(self, connection: sqlite3.Connection, worker: str, worker_id: str, limit: int) -> list[Claim]:
        claims = super().claim(connection, worker, worker_id, limit)
        for claim in claims:
            self._note(connection, "claim", claim.activity_id, worker_id, claim.retry_count + 1, "accepted")
        return claims

    def heartbeat(self, connection: sqlite3.Connection, activity_id: str, worker_id: str) -> Verdict:
        verdict = super().heartbeat(connection, activity_id, worker_id)
        self._note(connection, "heartbeat", activity_id, worker_id, None, verdict.name.lower())
        return verdict

    def complete(
        self, connection: sqlite3.Connection, activity_id: str, worker_id: str, outputs: str, report: Report
    ) -> Verdict:
        attempt = _attempt(connection, activity_id, worker_id)
        verdict = super().complete(connection, activity_id, worker_id, outputs, report)
        shown = "repeated" if attempt is None and verdict is Verdict.ACCEPTED else verdict.name.lower()
        self._note(connection, "complete", activity_id, worker_id, attempt, shown)
        return verdict

    def fail(
        self,
        connection: sqlite3.Connection,
        activity_id: str,
        worker_id: str,
        failure: Failure,
        report: Report,
    ) -> Verdict:
        attempt = _attempt(connection, activity_id, worker_id)
        verdict = super().fail(connection, activity_id, worker_id, failure, report)
        shown = "failed" if verdict is Verdict.ACCEPTED else verdict.name.lower()
        self._note(connection, "fail", activity_id, worker_id, attempt, shown)
        return verdict

    def _lapse(self, connection: sqlite3.Connection, now_s: float) -> None:
        rows = connection.execute(
            "SELECT id, claimed_by, retry_count, max_retries FROM activities"
            " WHERE status = 'running' AND lease_ends_s < ?",
            (now_s,),
        ).fetchall()
        for activity_id, worker_id, retry_count, max_retries in rows:
            shown = "will_retry" if retry_count < max_retries else "failed"
            self._note(connection, "lapse", activity_id, worker_id, retry_count + 1, shown)
        super()._lapse(connection, now_s)

    def _note(self, connection: sqlite3.Connection, *entry: str | int | None) -> None:
        connection.execute(
            "INSERT INTO journal (at_s, event, activity_id, worker_id, attempt, verdict) VALUES (?, ?, ?, ?, ?, ?)",
            (self.clock.now_s(), *entry),
        )


def _attempt(connection: sqlite3.Connection, activity_id: str, worker_id: str) -> int | None:
    """The number of the attempt that this worker holds."""
    row = connection.execute(
        "SELECT retry_count + 1 FROM activities WHERE id = ? AND claimed_by = ? AND status = 'running'",
        (activity_id, worker_id),
    ).fetchone()
    return None if row is None else int(row[0])


def entries(connection: sqlite3.Connection, after: int, activity_id: str | None) -> list[dict[str, Any]]:
    """The entries after sequence number `after`, oldest first, of one activity or of all."""
    rows = connection.execute(
        "SELECT seq, at_s, event, activity_id, worker_id, attempt, verdict FROM journal"
        " WHERE seq > :after AND (:id IS NULL OR activity_id = :id) ORDER BY seq",
        {"after": after, "id": activity_id},
    )
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
