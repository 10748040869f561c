"""The life of a queue row: claim, heartbeat, complete, fail, sweep (protocol.md §3-§7); it knows no HTTP.

Every method runs on the database thread inside one transaction; the only fence is `claimed_by`
(protocol.md §0, fact 8).
"""

from __future__ import annotations

from decimal import Decimal
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from .documents import Retry
from .journal import Entry

if TYPE_CHECKING:
    import sqlite3

    from .catalog import Catalog
    from .clock import Clock
    from .journal import Journal
    from .scheduling import Scheduler

__all__ = ["NO_COST", "Claim", "Failure", "Queue", "Report", "Verdict"]


class Verdict(Enum):
    """The engine's answer to a report about one activity."""

    ACCEPTED = auto()
    WILL_RETRY = auto()
    OTHER_WORKER = auto()
    SETTLED = auto()
    UNKNOWN = auto()


class Claim(NamedTuple):
    """One activity handed to a worker: its place in the order, and the encoded item of the poll reply."""

    scheduled_for_s: float
    seq: int
    activity_id: str
    retry_count: int
    document: str


class Report(NamedTuple):
    """What a worker says about cost, already checked; `cost` is a decimal, `usage` encoded JSON."""

    cost: str = "0"
    usage: str | None = None


NO_COST = Report()


class Failure(NamedTuple):
    """What went wrong, in the worker's words."""

    code: str
    message: str
    retryable: bool


_CLAIM = """
UPDATE activities SET status = 'running', claimed_by = :worker_id, claimed_at_s = :now_s,
    lease_ends_s = :now_s + lease_s, retry_count = retry_count + (status = 'running')
WHERE seq IN (
    SELECT seq FROM (
        SELECT * FROM (
            SELECT seq, scheduled_for_s FROM activities
            WHERE worker = :worker AND status = 'pending' AND scheduled_for_s <= :now_s
            ORDER BY scheduled_for_s, seq LIMIT :limit)
        UNION ALL
        SELECT seq, scheduled_for_s FROM activities
        WHERE worker = :worker AND status = 'running' AND lease_ends_s < :now_s AND retry_count < max_retries)
    ORDER BY scheduled_for_s, seq LIMIT :limit)
RETURNING scheduled_for_s, seq, id, retry_count, claim_document
"""
_BEAT = """
UPDATE activities SET claimed_at_s = :now_s, lease_ends_s = :now_s + lease_s
WHERE id = :id AND claimed_by = :worker_id AND status = 'running' RETURNING retry_count
"""
_COMPLETE = """
UPDATE activities SET status = 'completed', outputs = :outputs, completed_s = :now_s
WHERE id = :id AND claimed_by = :worker_id AND status = 'running'
RETURNING workflow_seq, definition_seq, key, retry_count
"""
_REQUEUE = """
UPDATE activities SET status = 'pending', claimed_by = NULL, claimed_at_s = NULL, lease_ends_s = NULL,
    retry_count = retry_count + 1, scheduled_for_s = ? WHERE seq = ?
"""
_FAILED = "UPDATE activities SET status = 'failed', error = ?, completed_s = ? WHERE seq = ?"


class Queue:
    """The queue rows of all workflows."""

    def __init__(self, clock: Clock, catalog: Catalog, scheduler: Scheduler, journal: Journal) -> None:
        self._clock = clock
        self._catalog = catalog
        self._scheduler = scheduler
        self._journal = journal

    def claim(self, connection: sqlite3.Connection, worker: str, worker_id: str, limit: int) -> list[Claim]:
        """Hand out at most `limit` activities, oldest first; takes over lapsed leases with +1 (§3, §4)."""
        now_s = self._clock.now_s()
        rows = connection.execute(
            _CLAIM, {"worker": worker, "worker_id": worker_id, "limit": limit, "now_s": now_s}
        ).fetchall()
        claims = sorted(map(Claim._make, rows))
        for claim in claims:
            self._journal.write(
                connection,
                Entry(now_s, "claim", claim.activity_id, worker_id, claim.retry_count + 1, "accepted"),
            )
        return claims

    def heartbeat(self, connection: sqlite3.Connection, activity_id: str, worker_id: str) -> Verdict:
        """Extend the lease of a running activity; a finished one accepts anybody (protocol.md §5)."""
        now_s = self._clock.now_s()
        row = connection.execute(
            _BEAT, {"id": activity_id, "worker_id": worker_id, "now_s": now_s}
        ).fetchone()
        if row is not None:
            verdict = Verdict.ACCEPTED
        else:
            verdict = self._refusal(connection, activity_id, worker_id)
            if self._is_over(connection, activity_id):
                verdict = Verdict.ACCEPTED
        self._journal.write(
            connection, Entry(now_s, "heartbeat", activity_id, worker_id, None, verdict.name.lower())
        )
        return verdict

    def complete(
        self, connection: sqlite3.Connection, activity_id: str, worker_id: str, outputs: str, report: Report
    ) -> Verdict:
        """Accept the first completion and schedule what follows; a repeated one changes nothing (§6)."""
        now_s = self._clock.now_s()
        row = connection.execute(
            _COMPLETE,
            {"id": activity_id, "worker_id": worker_id, "outputs": outputs, "now_s": now_s},
        ).fetchone()
        if row is not None:
            workflow_seq, definition_seq, key, retry_count = row
            self._journal.write(
                connection, Entry(now_s, "complete", activity_id, worker_id, retry_count + 1, "accepted")
            )
            _add_cost(connection, activity_id, report)
            self._scheduler.ended(connection, (workflow_seq, definition_seq, key), "completed", now_s)
            return Verdict.ACCEPTED
        verdict = self._refusal(connection, activity_id, worker_id)
        word = "repeated" if verdict is Verdict.ACCEPTED else verdict.name.lower()
        self._journal.write(connection, Entry(now_s, "complete", activity_id, worker_id, None, word))
        return verdict

    def fail(
        self,
        connection: sqlite3.Connection,
        activity_id: str,
        worker_id: str,
        failure: Failure,
        report: Report,
    ) -> Verdict:
        """Put the activity back with backoff, or end it; a second report is refused (protocol.md §7)."""
        now_s = self._clock.now_s()
        row = connection.execute(
            "SELECT seq, workflow_seq, definition_seq, key, retry_count, max_retries FROM activities"
            " WHERE id = ? AND claimed_by = ? AND status = 'running'",
            (activity_id, worker_id),
        ).fetchone()
        if row is None:
            verdict = self._refusal(connection, activity_id, worker_id)
            verdict = Verdict.SETTLED if verdict is Verdict.ACCEPTED else verdict
            self._journal.write(
                connection, Entry(now_s, "fail", activity_id, worker_id, None, verdict.name.lower())
            )
            return verdict
        seq, workflow_seq, definition_seq, key, retry_count, max_retries = row
        retry = failure.retryable and retry_count < max_retries
        self._journal.write(
            connection,
            Entry(
                now_s, "fail", activity_id, worker_id, retry_count + 1, "will_retry" if retry else "failed"
            ),
        )
        _add_cost(connection, activity_id, report)
        if retry:
            step = self._catalog.load(connection, definition_seq).by_key[key]
            delay_s = (step.settings.retry or Retry()).backoff_s(retry_count + 1)
            connection.execute(_REQUEUE, (now_s + delay_s, seq))
            return Verdict.WILL_RETRY
        connection.execute(_FAILED, (failure.message, now_s, seq))
        self._scheduler.ended(connection, (workflow_seq, definition_seq, key), "failed", now_s)
        return Verdict.ACCEPTED

    def _is_over(self, connection: sqlite3.Connection, activity_id: str) -> bool:
        row = connection.execute("SELECT status FROM activities WHERE id = ?", (activity_id,)).fetchone()
        return row is not None and row[0] in {"completed", "failed"}

    def _refusal(self, connection: sqlite3.Connection, activity_id: str, worker_id: str) -> Verdict:
        """Why a report found no running row of this worker; a completed one of its own is ACCEPTED."""
        row = connection.execute(
            "SELECT status, claimed_by FROM activities WHERE id = ?", (activity_id,)
        ).fetchone()
        match row:
            case None:
                return Verdict.UNKNOWN
            case ("completed", holder) if holder == worker_id:
                return Verdict.ACCEPTED
            case ("failed", holder) if holder == worker_id:
                return Verdict.SETTLED
            case _:
                return Verdict.OTHER_WORKER


def _add_cost(connection: sqlite3.Connection, activity_id: str, report: Report) -> None:
    """Costs of all attempts add up; the decimals stay decimals (protocol.md §13)."""
    if report == NO_COST:
        return
    (before,) = connection.execute("SELECT cost FROM activities WHERE id = ?", (activity_id,)).fetchone()
    total = format(Decimal(before) + Decimal(report.cost), "f")
    connection.execute(
        "UPDATE activities SET cost = ?, usage = ? WHERE id = ?", (total, report.usage, activity_id)
    )
