"""What only time brings about: lapsed leases, unheard signals, overdue workflows (protocol.md §3.3, §8.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .journal import Entry
from .scheduling import Launch, write
from .scope import Run

if TYPE_CHECKING:
    import sqlite3

    from .catalog import Catalog
    from .clock import Clock
    from .journal import Journal
    from .scheduling import Scheduler

__all__ = ["Sweeper"]


class Sweeper:
    """Runs on the database thread, in one transaction per sweep."""

    def __init__(
        self,
        clock: Clock,
        catalog: Catalog,
        scheduler: Scheduler,
        journal: Journal,
        workflow_timeout_s: float,
    ) -> None:
        self._clock = clock
        self._catalog = catalog
        self._scheduler = scheduler
        self._journal = journal
        self._workflow_timeout_s = workflow_timeout_s

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Do all that is due at the engine's present time."""
        now_s = self._clock.now_s()
        self._lapse(connection, now_s)
        self._give_up_signals(connection, now_s)
        self._time_out(connection, now_s)

    def _lapse(self, connection: sqlite3.Connection, now_s: float) -> None:
        rows = connection.execute(
            "SELECT seq, workflow_seq, definition_seq, key, id, claimed_by, retry_count, max_retries"
            " FROM activities WHERE status = 'running' AND lease_ends_s < ?",
            (now_s,),
        ).fetchall()
        for seq, workflow_seq, definition_seq, key, activity_id, holder, retry_count, max_retries in rows:
            again = retry_count < max_retries
            verdict = "will_retry" if again else "failed"
            self._journal.write(
                connection, Entry(now_s, "lapse", activity_id, holder, retry_count + 1, verdict)
            )
            if again:
                # claimable at once: a lapsed lease has no backoff (protocol.md §3.2)
                connection.execute(
                    "UPDATE activities SET status = 'pending', claimed_by = NULL, claimed_at_s = NULL,"
                    " lease_ends_s = NULL, retry_count = retry_count + 1 WHERE seq = ?",
                    (seq,),
                )
                continue
            error = f"Activity timed out after {retry_count} retries (max_retries={max_retries})"
            connection.execute(
                "UPDATE activities SET status = 'failed', error = ?, completed_s = ? WHERE seq = ?",
                (error, now_s, seq),
            )
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
