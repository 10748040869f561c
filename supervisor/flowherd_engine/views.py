"""Documents that clients read: status, lists, outputs, definitions (protocol.md §13)."""

import sqlite3
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from .clock import iso
from .replies import bad_request, not_found


class Filters(NamedTuple):
    """The query of `GET /workflows`; times in seconds since the epoch."""

    status: str | None
    definition_name: str | None
    created_after_s: float | None
    created_before_s: float | None
    limit: int
    offset: int


def status(connection: sqlite3.Connection, workflow_id: str) -> dict[str, Any]:
    """The workflow and its activities (protocol.md §13); a claimed activity still shows as pending.

    Raises:
        ApiError: 404.

    """
    row = connection.execute(
        "SELECT seq, status, definition_name, created_s, updated_s, error_message"
        " FROM workflows WHERE id = ?",
        (workflow_id,),
    ).fetchone()
    if row is None:
        raise not_found(f"Workflow '{workflow_id}' not found")
    seq, status, name, created_s, updated_s, error_message = row
    activities = connection.execute(
        "SELECT key, status, outputs, error, started_s, completed_s FROM activities WHERE workflow_seq = ?"
        " ORDER BY seq",
        (seq,),
    )
    return {
        "id": workflow_id,
        "status": status,
        "definition_name": name,
        "created_at": iso(created_s),
        "updated_at": iso(updated_s),
        "activities": [_activity(activity) for activity in activities],
        "error_message": error_message,
        "state_data": {},
    }


def listing(connection: sqlite3.Connection, filters: Filters) -> dict[str, Any]:
    """One page of workflows, newest first."""
    where = (
        " WHERE (:status IS NULL OR status = :status)"
        " AND (:definition_name IS NULL OR definition_name = :definition_name)"
        " AND (:created_after_s IS NULL OR created_s >= :created_after_s)"
        " AND (:created_before_s IS NULL OR created_s < :created_before_s)"
    )
    wanted = filters._asdict()
    (total,) = connection.execute(f"SELECT count(*) FROM workflows{where}", wanted).fetchone()  # noqa: S608 - constant text
    rows = connection.execute(
        "SELECT id, status, definition_name, created_s, updated_s, coalesce((SELECT a.error FROM activities a"  # noqa: S608 - constant text
        " WHERE a.workflow_seq = workflows.seq AND a.status = 'failed' AND a.error IS NOT NULL"
        " ORDER BY a.completed_s LIMIT 1), error_message)"
        f" FROM workflows{where} ORDER BY created_s DESC, seq DESC LIMIT :limit OFFSET :offset",
        wanted,
    )
    names = ("id", "status", "definition_name", "created_at", "updated_at", "error_message")
    workflows = [dict(zip(names, (*row[:3], iso(row[3]), iso(row[4]), row[5]), strict=True)) for row in rows]
    return {
        "workflows": workflows,
        "total": total,
        "count": len(workflows),
        "limit": filters.limit,
        "offset": filters.offset,
    }


def output(connection: sqlite3.Connection, workflow_id: str) -> dict[str, Any]:
    """All outputs of a completed workflow.

    Raises:
        ApiError: 404, or 400 while it is not completed.

    """
    row = connection.execute(
        "SELECT seq, status, completed_s FROM workflows WHERE id = ?", (workflow_id,)
    ).fetchone()
    if row is None:
        raise not_found(f"Workflow '{workflow_id}' not found")
    if row[1] != "completed":
        raise bad_request("Workflow is not completed. Output is only available for completed workflows.")
    activities = connection.execute(
        "SELECT key, status, outputs, cost, completed_s FROM activities WHERE workflow_seq = ? ORDER BY seq",
        (row[0],),
    ).fetchall()
    outputs = {
        key: {
            "status": status,
            "output": _outputs(written),
            "cost_usd": cost,
            "completed_at": iso(completed_s),
            "is_terminal": True,
        }
        for key, status, written, cost, completed_s in activities
    }
    return {
        "workflow_id": workflow_id,
        "status": "completed",
        "total_cost_usd": format(sum((Decimal(row[3]) for row in activities), Decimal(0)), "f"),
        "completed_at": iso(row[2]),
        "outputs": outputs,
        "terminal_outputs": list(outputs),
    }


def activity_output(connection: sqlite3.Connection, workflow_id: str, key: str) -> dict[str, Any]:
    """The outputs of one completed activity, without its files.

    Raises:
        ApiError: 404, or 400 while it is not completed.

    """
    row = connection.execute("SELECT seq FROM workflows WHERE id = ?", (workflow_id,)).fetchone()
    if row is None:
        raise not_found(f"Workflow '{workflow_id}' not found")
    activity = connection.execute(
        "SELECT status, outputs, cost, completed_s FROM activities WHERE workflow_seq = ? AND key = ?",
        (row[0], key),
    ).fetchone()
    if activity is None:
        raise not_found(f"Activity '{key}' not found")
    status, outputs, cost, completed_s = activity
    if status != "completed":
        raise bad_request(
            f"Activity '{key}' is not completed. Output is only available for completed activities."
        )
    return {
        "workflow_id": workflow_id,
        "activity_key": key,
        "status": status,
        "output": _outputs(outputs),
        "cost_usd": cost,
        "completed_at": iso(completed_s),
    }


def _outputs(written: str | None) -> list[dict[str, Any]] | None:
    """Stored outputs in the server's shape: an array of name, type, value."""
    if written is None:
        return None
    values: dict[str, Any] = msgspec.json.decode(written)
    return [{"name": name, "type": "value", "value": value} for name, value in values.items()]


def _activity(row: tuple[str, str, str | None, str | None, float | None, float | None]) -> dict[str, Any]:
    key, status, outputs, error, started_s, completed_s = row
    return {
        "activity_key": key,
        "status": "pending" if status == "running" else status,
        "outputs": _outputs(outputs),
        "error": error,
        "started_at": iso(started_s),
        "completed_at": iso(completed_s),
    }


def definitions(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every stored version, newest first."""
    rows = connection.execute(
        "SELECT name, version, activity_count, created_s FROM definitions ORDER BY seq DESC"
    )
    return [
        {"name": name, "version": version, "activity_count": count, "created_at": iso(created_s)}
        for name, version, count, created_s in rows
    ]


def definition(connection: sqlite3.Connection, name: str, version: str | None) -> dict[str, Any] | None:
    """One stored version with its activities, or None."""
    row = connection.execute(
        "SELECT name, version, document, created_s FROM definitions"
        " WHERE name = :name AND (:version IS NULL OR version = :version) ORDER BY seq DESC LIMIT 1",
        {"name": name, "version": version},
    ).fetchone()
    if row is None:
        return None
    document = msgspec.json.decode(row[2])
    return {
        "name": row[0],
        "version": row[1],
        "activities": document["activities"],
        "created_at": iso(row[3]),
    }
