"""Documents for clients: status, lists, outputs, definitions (protocol.md §13)."""

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
    """Returns a workflow with its activities (protocol.md §13); a claimed activity is still shown as pending.

    Raises:
        ApiError: 404.

    """
    workflow = _workflow(connection, workflow_id)
    activities = connection.execute(
        "SELECT key AS activity_key, CASE status WHEN 'running' THEN 'pending' ELSE status END AS status, outputs,"
        " error, started_s, completed_s FROM activities WHERE workflow_seq = ? ORDER BY seq",
        (workflow.pop("seq"),),
    )
    del workflow["completed_at"]
    return {**workflow, "activities": _documents(activities), "state_data": {}}


def listing(connection: sqlite3.Connection, filters: Filters) -> dict[str, Any]:
    """Returns a page of workflows, newest first."""
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
        " ORDER BY a.completed_s LIMIT 1), error_message) AS error_message"
        f" FROM workflows{where} ORDER BY created_s DESC, seq DESC LIMIT :limit OFFSET :offset",
        wanted,
    )
    found = _documents(rows)
    page = {"total": total, "count": len(found), "limit": filters.limit, "offset": filters.offset}
    return {"workflows": found, **page}


def output(connection: sqlite3.Connection, workflow_id: str) -> dict[str, Any]:
    """Returns all outputs of a completed workflow.

    Raises:
        ApiError: 404, or 400 if it is not completed.

    """
    workflow = _workflow(connection, workflow_id)
    if workflow["status"] != "completed":
        raise bad_request("Workflow is not completed. Output is only available for completed workflows.")
    activities = _documents(
        connection.execute(
            "SELECT key, status, outputs AS output, cost AS cost_usd, completed_s FROM activities"
            " WHERE workflow_seq = ? ORDER BY seq",
            (workflow["seq"],),
        )
    )
    outputs = {activity.pop("key"): {**activity, "is_terminal": True} for activity in activities}
    total = sum((Decimal(activity["cost_usd"]) for activity in activities), Decimal(0))
    return {
        "workflow_id": workflow_id,
        "status": "completed",
        "total_cost_usd": format(total, "f"),
        "completed_at": workflow["completed_at"],
        "outputs": outputs,
        "terminal_outputs": list(outputs),
    }


def activity_output(connection: sqlite3.Connection, workflow_id: str, key: str) -> dict[str, Any]:
    """Returns the outputs of one completed activity, without its files.

    Raises:
        ApiError: 404, or 400 if it is not completed.

    """
    workflow = _workflow(connection, workflow_id)
    found = _documents(
        connection.execute(
            "SELECT key AS activity_key, status, outputs AS output, cost AS cost_usd, completed_s FROM activities"
            " WHERE workflow_seq = ? AND key = ?",
            (workflow["seq"], key),
        )
    )
    if not found:
        raise not_found(f"Activity '{key}' not found")
    if found[0]["status"] != "completed":
        raise bad_request(
            f"Activity '{key}' is not completed. Output is only available for completed activities."
        )
    return {"workflow_id": workflow_id, **found[0]}


def definitions(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Returns every stored version, newest first."""
    return _documents(
        connection.execute(
            "SELECT name, version, activity_count, created_s FROM definitions ORDER BY seq DESC"
        )
    )


def definition(connection: sqlite3.Connection, name: str, version: str | None) -> dict[str, Any] | None:
    """Returns a stored version with its activities, None if there is none."""
    found = _documents(
        connection.execute(
            "SELECT name, version, document, created_s FROM definitions"
            " WHERE name = :name AND (:version IS NULL OR version = :version) ORDER BY seq DESC LIMIT 1",
            {"name": name, "version": version},
        )
    )
    if not found:
        return None
    return {**found[0], "activities": msgspec.json.decode(found[0].pop("document"))["activities"]}


def _workflow(connection: sqlite3.Connection, workflow_id: str) -> dict[str, Any]:
    found = _documents(
        connection.execute(
            "SELECT seq, id, status, definition_name, created_s, updated_s, completed_s, error_message"
            " FROM workflows WHERE id = ?",
            (workflow_id,),
        )
    )
    if not found:
        raise not_found(f"Workflow '{workflow_id}' not found")
    return found[0]


def _documents(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    """Converts rows to the API's form: times end in `_at`, outputs are arrays of name, type and value."""
    names = [column[0] for column in cursor.description]
    return [dict(map(_member, names, row)) for row in cursor]


def _member(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_s"):
        return f"{name[:-2]}_at", iso(value)
    if name in {"output", "outputs"} and value is not None:
        values: dict[str, Any] = msgspec.json.decode(value)
        return name, [{"name": key, "type": "value", "value": item} for key, item in values.items()]
    return name, value
