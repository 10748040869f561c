"""The life of a queue row: claim, heartbeat, complete, fail, sweep (protocol.md §3-§8).

Every method runs on the database thread inside one transaction; the only fencing token is `claimed_by`
(protocol.md §0, fact 8).
"""

import sqlite3
from decimal import Decimal
from enum import Enum, auto
from typing import NamedTuple

from .clock import Clock
from .definition_schema import Retry
from .deployed_definitions import DeployedDefinitions
from .scheduling import Launch, Run, Scheduler, write


class Verdict(Enum):
    """The engine's answer to a report about one activity."""

    ACCEPTED = auto()
    WILL_RETRY = auto()
    OTHER_WORKER = auto()
    SETTLED = auto()
    UNKNOWN = auto()


class Claim(NamedTuple):
    """An activity claimed by a worker: its position in the order, and the encoded item of the poll reply."""

    scheduled_for_s: float
    seq: int
    activity_id: str
    retry_count: int
    document: str


class Report(NamedTuple):
    """The checked cost of an attempt; `cost` is a decimal, `usage` encoded JSON."""

    cost: str = "0"
    usage: str | None = None


NO_COST = Report()


class Failure(NamedTuple):
    """An error as the worker reported it."""

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
WHERE id = :id AND claimed_by = :worker_id AND status = 'running'
"""
_COMPLETE = """
UPDATE activities SET status = 'completed', outputs = :outputs, completed_s = :now_s
WHERE id = :id AND claimed_by = :worker_id AND status = 'running'
RETURNING workflow_seq, definition_seq, key
"""
_REQUEUE = """
UPDATE activities SET status = 'pending', claimed_by = NULL, claimed_at_s = NULL, lease_ends_s = NULL,
    retry_count = retry_count + 1, scheduled_for_s = coalesce(?, scheduled_for_s) WHERE seq = ?
"""
_FAILED = "UPDATE activities SET status = 'failed', error = ?, completed_s = ? WHERE seq = ?"


class Queue:
    """The queue rows of all workflows."""

    def __init__(
        self, clock: Clock, catalog: DeployedDefinitions, scheduler: Scheduler, workflow_timeout_s: float
    ) -> None:
        self.clock = clock
        self._catalog = catalog
        self._scheduler = scheduler
        self._workflow_timeout_s = workflow_timeout_s

    def claim(self, connection: sqlite3.Connection, worker: str, worker_id: str, limit: int) -> list[Claim]:
        """Claims at most `limit` activities, oldest first; a lapsed lease counts as a retry (§3, §4)."""
        wanted = {"worker": worker, "worker_id": worker_id, "limit": limit, "now_s": self.clock.now_s()}
        return sorted(map(Claim._make, connection.execute(_CLAIM, wanted).fetchall()))

    def heartbeat(self, connection: sqlite3.Connection, activity_id: str, worker_id: str) -> Verdict:
        """Extends the lease of a running activity; a finished one accepts any worker (protocol.md §5)."""
        beat = {"id": activity_id, "worker_id": worker_id, "now_s": self.clock.now_s()}
        if connection.execute(_BEAT, beat).rowcount:
            return Verdict.ACCEPTED
        status, verdict = _refusal(connection, activity_id, worker_id)
        return Verdict.ACCEPTED if status in {"completed", "failed"} else verdict

    def complete(
        self, connection: sqlite3.Connection, activity_id: str, worker_id: str, outputs: str, report: Report
    ) -> Verdict:
        """Accepts the first completion and schedules the next steps; a repeated one changes nothing (§6)."""
        now_s = self.clock.now_s()
        done = {"id": activity_id, "worker_id": worker_id, "outputs": outputs, "now_s": now_s}
        row = connection.execute(_COMPLETE, done).fetchone()
        if row is None:
            return _refusal(connection, activity_id, worker_id)[1]
        _add_cost(connection, activity_id, report)
        self._scheduler.ended(connection, row, "completed", now_s)
        return Verdict.ACCEPTED

    def fail(
        self,
        connection: sqlite3.Connection,
        activity_id: str,
        worker_id: str,
        failure: Failure,
        report: Report,
    ) -> Verdict:
        """Requeues the activity with backoff, or ends it; a second report is refused (protocol.md §7)."""
        now_s = self.clock.now_s()
        row = connection.execute(
            "SELECT seq, workflow_seq, definition_seq, key, retry_count, max_retries FROM activities"
            " WHERE id = ? AND claimed_by = ? AND status = 'running'",
            (activity_id, worker_id),
        ).fetchone()
        if row is None:
            verdict = _refusal(connection, activity_id, worker_id)[1]
            return Verdict.SETTLED if verdict is Verdict.ACCEPTED else verdict
        seq, workflow_seq, definition_seq, key, retry_count, max_retries = row
        _add_cost(connection, activity_id, report)
        if failure.retryable and retry_count < max_retries:
            step = self._catalog.load(connection, definition_seq).by_key[key]
            delay_s = (step.settings.retry or Retry()).backoff_s(retry_count + 1)
            connection.execute(_REQUEUE, (now_s + delay_s, seq))
            return Verdict.WILL_RETRY
        connection.execute(_FAILED, (failure.message, now_s, seq))
        self._scheduler.ended(connection, (workflow_seq, definition_seq, key), "failed", now_s)
        return Verdict.ACCEPTED

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Processes what is due: lapsed leases, signals that did not come, overdue workflows (§3.3, §8.2)."""
        now_s = self.clock.now_s()
        self._lapse(connection, now_s)
        self._give_up_signals(connection, now_s)
        self._time_out(connection, now_s)

    def _lapse(self, connection: sqlite3.Connection, now_s: float) -> None:
        rows = connection.execute(
            "SELECT seq, workflow_seq, definition_seq, key, retry_count, max_retries"
            " FROM activities WHERE status = 'running' AND lease_ends_s < ?",
            (now_s,),
        ).fetchall()
        for seq, workflow_seq, definition_seq, key, retry_count, max_retries in rows:
            if retry_count < max_retries:
                connection.execute(_REQUEUE, (None, seq))  # claimable at once: no backoff (protocol.md §3.2)
                continue
            error = f"Activity timed out after {retry_count} retries (max_retries={max_retries})"
            connection.execute(_FAILED, (error, now_s, seq))
            self._scheduler.ended(connection, (workflow_seq, definition_seq, key), "failed", now_s)

    def _give_up_signals(self, connection: sqlite3.Connection, now_s: float) -> None:
        rows = connection.execute(
            "SELECT a.workflow_seq, w.id, a.definition_seq, a.key FROM activities a"
            " JOIN workflows w ON w.seq = a.workflow_seq WHERE a.status = 'waiting' AND a.signal_due_s < ?",
            (now_s,),
        ).fetchall()
        for workflow_seq, workflow_id, definition_seq, key in rows:
            run = Run(workflow_seq, workflow_id, self._catalog.load(connection, definition_seq))
            step = run.definition.by_key[key]
            wait = step.settings.wait_for_signal
            match wait and wait.on_timeout:
                case "continue":
                    launch = self._scheduler.launch(connection, run, step, now_s, signal=None)
                case "skip":
                    launch = Launch(workflow_seq, key, "skipped")
                case _:
                    error = f"Signal '{wait.event_name if wait else ''}' not received before timeout"
                    launch = Launch(workflow_seq, key, "failed", now_s, error=error, completed_s=now_s)
            write(connection, [launch])
            if launch.status != "pending":
                self._scheduler.settle(connection, run, [(key, launch.status)], now_s)

    def _time_out(self, connection: sqlite3.Connection, now_s: float) -> None:
        rows = connection.execute(
            "SELECT seq FROM workflows WHERE status = 'running' AND created_s < ?",
            (now_s - self._workflow_timeout_s,),
        ).fetchall()
        for (workflow_seq,) in rows:
            (unclaimed,) = connection.execute(
                "SELECT count(*) FROM activities WHERE workflow_seq = ? AND status = 'pending'",
                (workflow_seq,),
            ).fetchone()
            connection.execute(
                "UPDATE activities SET status = 'failed', error = 'Workflow failed', completed_s = ?"
                " WHERE workflow_seq = ? AND status IN ('pending', 'waiting')",
                (now_s, workflow_seq),
            )
            connection.execute(
                "UPDATE workflows SET status = 'failed', error_message = ?, updated_s = ?, completed_s = ?"
                " WHERE seq = ?",
                (self._reason(unclaimed), now_s, now_s, workflow_seq),
            )

    def _reason(self, unclaimed: int) -> str:
        head = f"Workflow timeout after {self._workflow_timeout_s:g}s: "
        if unclaimed:
            ending = "y was" if unclaimed == 1 else "ies were"
            return (
                f"{head}{unclaimed} queued activit{ending} never claimed by any worker — "
                "is a worker for this queue running?"
            )
        return f"{head}activities stopped making progress"


def _refusal(connection: sqlite3.Connection, activity_id: str, worker_id: str) -> tuple[str | None, Verdict]:
    """Returns the row's status and why this worker has no such running row; its own completed one is ACCEPTED."""
    row = connection.execute(
        "SELECT status, claimed_by FROM activities WHERE id = ?", (activity_id,)
    ).fetchone()
    if row is None:
        return None, Verdict.UNKNOWN
    status, holder = row
    if holder != worker_id:
        return status, Verdict.OTHER_WORKER
    verdicts = {"completed": Verdict.ACCEPTED, "failed": Verdict.SETTLED}
    return status, verdicts.get(status, Verdict.OTHER_WORKER)


def _add_cost(connection: sqlite3.Connection, activity_id: str, report: Report) -> None:
    """Adds the cost of an attempt to the total, in exact decimals (protocol.md §13)."""
    if report == NO_COST:
        return
    (before,) = connection.execute("SELECT cost FROM activities WHERE id = ?", (activity_id,)).fetchone()
    total = format(Decimal(before) + Decimal(report.cost), "f")
    connection.execute(
        "UPDATE activities SET cost = ?, usage = ? WHERE id = ?", (total, report.usage, activity_id)
    )
