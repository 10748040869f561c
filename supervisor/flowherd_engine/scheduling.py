"""Launches activities that are ready, skips others and ends workflows (protocol.md §11.3).

Every function runs inside the caller's transaction, so that a completion and the next step appear together.
"""

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from .clock import uuid7
from .definitions import Definition, Step
from .deployed_definitions import DeployedDefinitions
from .expressions import UNDEFINED, TemplateError
from .templates import resolve, truth

TERMINAL = ("completed", "failed", "skipped")
_LAUNCH = (
    "UPDATE activities SET status = :status, id = coalesce(:id, id), claim_document = :claim_document,"
    " scheduled_for_s = :scheduled_for_s, signal_event = :signal_event, signal_due_s = :signal_due_s,"
    " error = :error, started_s = :started_s, completed_s = :completed_s"
    " WHERE workflow_seq = :workflow_seq AND key = :key"
)
_CLOSE = (
    "UPDATE workflows SET open_count = open_count - :closed, failed_count = failed_count + :failed,"
    " updated_s = :now_s,"
    " status = CASE WHEN open_count > :closed THEN status"
    "  WHEN failed_count + :failed > 0 THEN 'failed' ELSE 'completed' END,"
    " error_message = CASE WHEN open_count = :closed AND failed_count + :failed > 0"
    "  THEN 'One or more activities failed' ELSE error_message END,"
    " completed_s = CASE WHEN open_count = :closed THEN :now_s END"
    " WHERE seq = :seq AND status = 'running'"
)
_DELAY = re.compile(r"(\d{1,9})(ms|s|mi|mo|m|h|d|w|y)")
# months and years of average length are exact enough here
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
    """The names for the templates of one step, read from the database when they are used."""

    def __init__(self, connection: sqlite3.Connection, run: Run, signal: Any = UNDEFINED) -> None:
        self._connection = connection
        self._run = run
        self._signal = signal
        self._found: dict[str, Any] = {}

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value of a top-level name (protocol.md §11.3)."""
        if name not in self._found:
            self._found[name] = self._read(name)
        value = self._found[name]
        return default if value is UNDEFINED else value

    def _read(self, name: str) -> Any:
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
                return self._activity(name)

    def _activity(self, key: str) -> Any:
        row = self._connection.execute(
            "SELECT status, outputs FROM activities WHERE workflow_seq = ? AND key = ?", (self._run.seq, key)
        ).fetchone()
        if row is None:
            return UNDEFINED
        status, outputs = row
        found = {} if outputs is None else msgspec.json.decode(outputs)
        # hides an output named `status`, as the server does (protocol.md §6.5)
        return {**found, "status": "pending" if status == "running" else status}


def scheduled_for(step: Step, scope: Scope, now_s: float) -> float:
    """Returns the time from which a step may be claimed, by `delay` or `scheduled_for` (protocol.md §8.1)."""
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


@dataclass(slots=True)
class Launch:
    """The new state of an activity whose dependencies are over; the fields are columns."""

    workflow_seq: int
    key: str
    status: str
    started_s: float | None = None
    id: str | None = None
    claim_document: str | None = None
    scheduled_for_s: float | None = None
    signal_event: str | None = None
    signal_due_s: float | None = None
    error: str | None = None
    completed_s: float | None = None


class Scheduler:
    """Decides and stores which activities run next; runs on the database thread only."""

    def __init__(self, catalog: DeployedDefinitions) -> None:
        self._catalog = catalog

    def start(self, connection: sqlite3.Connection, run: Run, now_s: float) -> None:
        """Launches the activities without dependencies."""
        ended: list[tuple[str, str]] = []
        launches: list[Launch] = []
        for step in run.definition.steps:
            if not step.dependencies:
                launch = self.launch(connection, run, step, now_s)
                launches.append(launch)
                if launch.status in TERMINAL:
                    ended.append((step.key, launch.status))
        write(connection, launches)
        if ended:
            self.settle(connection, run, ended, now_s)

    def ended(
        self, connection: sqlite3.Connection, row: tuple[int, int, str], status: str, now_s: float
    ) -> None:
        """Records that an activity, given as (workflow_seq, definition_seq, key), has reached `status`."""
        workflow_seq, definition_seq, key = row
        definition = self._catalog.load(connection, definition_seq)
        if key not in definition.dependents:
            _close(connection, workflow_seq, (status,), now_s)
            return
        found = connection.execute(
            "SELECT id, status FROM workflows WHERE seq = ?", (workflow_seq,)
        ).fetchone()
        if (
            found[1] == "running"
        ):  # after the workflow's end a late report schedules nothing (protocol.md §6.3)
            self.settle(connection, Run(workflow_seq, found[0], definition), [(key, status)], now_s)

    def settle(
        self, connection: sqlite3.Connection, run: Run, ended: list[tuple[str, str]], now_s: float
    ) -> None:
        """Follows the edges from ended activities: launches, skips, and ends the workflow if all are over."""
        statuses: list[str] = []
        while ended:
            key, status = ended.pop()
            statuses.append(status)
            launches: list[Launch] = []
            for dependent in run.definition.dependents.get(key, ()):
                (waiting_for,) = connection.execute(
                    "UPDATE activities SET open_dependencies = open_dependencies - 1"
                    " WHERE workflow_seq = ? AND key = ? RETURNING open_dependencies",
                    (run.seq, dependent),
                ).fetchone()
                if waiting_for == 0:
                    launches.append(self._turn(connection, run, run.definition.by_key[dependent], now_s))
            write(connection, launches)
            ended.extend((launch.key, launch.status) for launch in launches if launch.status in TERMINAL)
        _close(connection, run.seq, statuses, now_s)

    def _turn(self, connection: sqlite3.Connection, run: Run, step: Step, now_s: float) -> Launch:
        """Launches or skips a step whose dependencies are all over."""
        try:
            applicable = self._applicable(connection, run, step)
        except (TemplateError, MemoryError) as error:
            return _failed(run, step, error, now_s)
        if not applicable:
            return Launch(run.seq, step.key, "skipped")
        return self.launch(connection, run, step, now_s)

    @staticmethod
    def _applicable(connection: sqlite3.Connection, run: Run, step: Step) -> bool:
        scope = Scope(connection, run)
        found = False
        for dependency in step.dependencies:
            if dependency.tests is None:
                if scope.get(dependency.activity_key)["status"] != "completed":
                    return False
                found = True
            elif all(truth(resolve(condition, scope)) for condition in dependency.tests):
                found = True
        return found

    def launch(
        self, connection: sqlite3.Connection, run: Run, step: Step, now_s: float, signal: Any = UNDEFINED
    ) -> Launch:
        """Makes `step` claimable, or lets it wait for its signal; a template error fails it at once."""
        wait = step.settings.wait_for_signal
        if wait is not None and signal is UNDEFINED:
            due_s = now_s + wait.timeout_seconds
            return Launch(
                run.seq, step.key, "waiting", now_s, signal_event=wait.event_name, signal_due_s=due_s
            )
        try:
            scope = Scope(connection, run, signal)
            parameters = step.fixed_parameters
            if parameters is None:
                parameters = msgspec.json.encode(resolve(step.parameters, scope)).decode()
            scheduled_for_s = scheduled_for(step, scope, now_s)
        except (TemplateError, msgspec.MsgspecError, OverflowError, MemoryError) as error:
            return _failed(run, step, error, now_s)
        activity_id = uuid7()
        document = (
            f'{{"activity_id":"{activity_id}","workflow_id":"{run.id}","parameters":{parameters},{_signal(signal)}'
            f"{step.claim_tail}"
        )
        return Launch(run.seq, step.key, "pending", now_s, activity_id, document, scheduled_for_s)


def _signal(signal: Any) -> str:
    if signal is UNDEFINED or signal is None:
        return ""
    return f'"signal_data":{msgspec.json.encode(signal).decode()},'


def _failed(run: Run, step: Step, error: Exception, now_s: float) -> Launch:
    return Launch(
        run.seq,
        step.key,
        "failed",
        now_s,
        error=f"Failed to resolve templates in activity {step.key}: {error}",
        completed_s=now_s,
    )


def write(connection: sqlite3.Connection, launches: Iterable[Launch]) -> None:
    rows = [{field: getattr(launch, field) for field in Launch.__dataclass_fields__} for launch in launches]
    if rows:
        connection.executemany(_LAUNCH, rows)


def _close(connection: sqlite3.Connection, workflow_seq: int, statuses: Iterable[str], now_s: float) -> None:
    ended = list(statuses)
    connection.execute(
        _CLOSE, {"closed": len(ended), "failed": ended.count("failed"), "now_s": now_s, "seq": workflow_seq}
    )
