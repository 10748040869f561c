"""Submits workflows and signals their activities (protocol.md §8.3, §12)."""

import sqlite3
from typing import Any, NamedTuple

from .clock import Clock, iso, uuid7
from .deployed_definitions import Deployed, DeployedDefinitions
from .replies import conflict, not_found
from .scheduling import Run, Scheduler, write


class Submission(NamedTuple):
    """A request to run a definition; `input_json` is an encoded object."""

    definition_name: str
    version: str | None
    input_json: str
    unique_key: str | None


class Workflows:
    """Submits and signals; runs on the database thread, each method in one transaction."""

    def __init__(
        self,
        clock: Clock,
        catalog: DeployedDefinitions,
        scheduler: Scheduler,
        default_lease_s: float,
        default_retries: int,
    ) -> None:
        self._clock = clock
        self._catalog = catalog
        self._scheduler = scheduler
        self._default_lease_s = default_lease_s
        self._default_retries = default_retries

    def submit(self, connection: sqlite3.Connection, wanted: Submission) -> dict[str, Any]:
        """Creates a workflow and launches its first activities.

        Raises:
            ApiError: 404 for an unknown definition, 409 for a unique_key in use.

        """
        deployed = self._catalog.find(connection, wanted.definition_name, wanted.version)
        if deployed is None:
            detail = (
                f"'{wanted.definition_name}' not found. No versions deployed."
                if wanted.version is None
                else f"'{wanted.definition_name}' version '{wanted.version}' not found"
            )
            raise not_found(f"Workflow definition {detail}")
        now_s = self._clock.now_s()
        run = self._create(connection, wanted, deployed, now_s)
        self._lay_out(connection, run, deployed.seq)
        self._scheduler.start(connection, run, now_s)
        return {
            "workflow_id": run.id,
            "definition_name": deployed.name,
            "definition_version": deployed.version,
            "status": "created",
            "created_at": iso(now_s),
        }

    def _create(
        self, connection: sqlite3.Connection, wanted: Submission, deployed: Deployed, now_s: float
    ) -> Run:
        definition = self._catalog.load(connection, deployed.seq)
        row = {
            "id": uuid7(),
            "definition_seq": deployed.seq,
            "name": deployed.name,
            "version": deployed.version,
            "input": wanted.input_json,
            "unique_key": wanted.unique_key,
            "open_count": len(definition.steps),
            "now_s": now_s,
        }
        try:
            cursor = connection.execute(
                "INSERT INTO workflows (id, definition_seq, definition_name, definition_version, status,"
                " input, unique_key, open_count, created_s, updated_s) VALUES (:id, :definition_seq, :name,"
                " :version, 'running', :input, :unique_key, :open_count, :now_s, :now_s)",
                row,
            )
        except sqlite3.IntegrityError as error:
            raise conflict(f"Workflow with unique_key '{wanted.unique_key}' already exists") from error
        return Run(cursor.lastrowid or 0, str(row["id"]), definition)

    def _lay_out(self, connection: sqlite3.Connection, run: Run, definition_seq: int) -> None:
        rows = []
        for step in run.definition.steps:
            timeout_s, retry = step.settings.timeout_seconds, step.settings.retry
            rows.append(
                (
                    run.seq,
                    definition_seq,
                    step.key,
                    step.worker,
                    len(step.upstream),
                    self._default_lease_s if timeout_s is None else timeout_s,
                    self._default_retries if retry is None else max(retry.max_attempts - 1, 0),
                )
            )
        connection.executemany(
            "INSERT INTO activities (workflow_seq, definition_seq, key, worker, open_dependencies, lease_s,"
            " max_retries) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def signal(
        self, connection: sqlite3.Connection, workflow_id: str, key: str, event: str, data: Any
    ) -> bool:
        """Passes `data` to the activity that waits for `event`; False if none does (protocol.md §8.3)."""
        row = connection.execute(
            "SELECT w.seq, w.definition_seq FROM workflows w JOIN activities a ON a.workflow_seq = w.seq"
            " WHERE w.id = ? AND w.status = 'running'"
            " AND a.key = ? AND a.status = 'waiting' AND a.signal_event = ?",
            (workflow_id, key, event),
        ).fetchone()
        if row is None:
            return False
        now_s = self._clock.now_s()
        run = Run(row[0], workflow_id, self._catalog.load(connection, row[1]))
        launch = self._scheduler.launch(connection, run, run.definition.by_key[key], now_s, signal=data)
        write(connection, [launch])
        if launch.status == "failed":
            self._scheduler.settle(connection, run, [(key, "failed")], now_s)
        return True
