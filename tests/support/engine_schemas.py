"""Requests and replies of the embedded engine as JSON Schema, for its OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_DECIMAL: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
_OBJECT: Schema = {"type": "object"}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


ERROR = _object(
    {"error": _object({"code": _STRING, "message": _STRING}, {"details": _OBJECT})},
)
STREAM_TOKEN = _object({"text": _STRING, "index": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}})
STREAM_RESULT = _object({"result": {}})
STREAM_ERROR = _object({"error": _STRING})

_OUTPUTS = {
    "type": ["array", "null"],
    "items": _object({"name": _STRING, "type": _STRING, "value": {}}),
}
_CLAIM = _object(
    {
        "activity_id": _STRING,
        "workflow_id": _STRING,
        "activity_key": _STRING,
        "worker": _STRING,
        "activity_name": _STRING,
        "parameters": {},
        "settings": _OBJECT,
        "timeout_seconds": {"type": ["integer", "null"]},
    },
    {"output_definitions": _array(_OBJECT), "signal_data": {}},
)
_ACTIVITY = _object(
    {
        "activity_key": _STRING,
        "status": _STRING,
        "outputs": _OUTPUTS,
        "error": _TEXT_OR_NULL,
        "started_at": _TEXT_OR_NULL,
        "completed_at": _TEXT_OR_NULL,
    }
)
_SUMMARY = {
    "id": _STRING,
    "status": _STRING,
    "definition_name": _STRING,
    "created_at": _STRING,
    "updated_at": _STRING,
    "error_message": _TEXT_OR_NULL,
}
_FILE = {"filename": _STRING, "size": _INTEGER, "content_type": _TEXT_OR_NULL}
_OUTPUT = {
    "status": _STRING,
    "output": _OUTPUTS,
    "cost_usd": _DECIMAL,
    "completed_at": _TEXT_OR_NULL,
}
_DEPLOYED = _object({"name": _STRING, "version": _STRING, "created_at": _STRING}, {"unchanged": _BOOLEAN})
_VERSION = {"name": _STRING, "version": _STRING, "created_at": _STRING}
_STEP = _object(
    {"key": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}},
    {"worker": _STRING, "activity_name": _STRING, "parameters": _OBJECT, "settings": _OBJECT},
)
_DEFINITION = _object(
    {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
        "activities": {"type": "array", "items": _STEP, "minItems": 1},
    }
)
_SUBMIT = _object({"definition_name": _STRING, "input": _OBJECT}, {"version": _STRING, "unique_key": _STRING})
_SIGNAL = _object({"activity_key": _STRING, "event_name": _STRING}, {"data": {}})
_TOKEN = _object({"grant_type": _STRING}, {"client_id": _STRING, "client_secret": _STRING})


class Operation(NamedTuple):
    """One call: its body and parameters, its successful replies, and its error statuses."""

    summary: str
    replies: Mapping[str, tuple[str, Schema]]
    errors: Sequence[str] = ()
    empty: Sequence[str] = ()
    body: Schema | None = None
    query: Sequence[Schema] = ()


def _json(schema: Schema, status: str = "200") -> dict[str, tuple[str, Schema]]:
    return {status: ("application/json", schema)}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _takes(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


_BODY_ERRORS = ("400", "413", "415", "422")
_REPORT_ERRORS = ("400", "404", "409", "413", "415", "422")
_ACKNOWLEDGED = {"acknowledged": _BOOLEAN}
_TIME = {"type": "string", "format": "date-time"}

OPERATIONS: dict[str, Operation] = {
    "health": Operation("Liveness", _json(_object({"status": _STRING}))),
    "ready": Operation("Readiness", _json(_object({"status": _STRING, "checks": _OBJECT}))),
    "info": Operation("About this engine", _json(_object({"version": _STRING, "api_version": _STRING}))),
    "token": Operation(
        "Grant a token",
        _json(_object({"access_token": _STRING, "token_type": _STRING, "expires_in": _INTEGER})),
        ("400", "401", "413", "415"),
        body={**_takes(_TOKEN), "application/x-www-form-urlencoded": {"schema": _TOKEN}},
    ),
    "poll": Operation(
        "Claim activities", _json(_object({"activities": _array(_CLAIM), "count": _INTEGER})), _BODY_ERRORS
    ),
    "heartbeat": Operation(
        "Extend a lease",
        _json(_object({**_ACKNOWLEDGED, "next_heartbeat_seconds": _INTEGER})),
        _REPORT_ERRORS,
    ),
    "complete": Operation("Report a success", _json(_object(_ACKNOWLEDGED)), _REPORT_ERRORS),
    "fail": Operation(
        "Report a failure", _json(_object({**_ACKNOWLEDGED, "will_retry": _BOOLEAN})), _REPORT_ERRORS
    ),
    "stream_token": Operation("Stream a token", _json(_object({"subscribers": _INTEGER})), _BODY_ERRORS),
    "stream_complete": Operation("End a stream", {}, _BODY_ERRORS, ("200",)),
    "stream_error": Operation("End a stream with an error", {}, _BODY_ERRORS, ("200",)),
    "stream_subscribers": Operation("Count subscribers", _json(_object({"count": _INTEGER})), ("400",)),
    "deploy": Operation(
        "Store a definition",
        {**_json(_DEPLOYED), **_json(_DEPLOYED, "201")},
        ("400", "413", "422"),
        body=_takes(_DEFINITION),
    ),
    "definitions": Operation(
        "List definitions",
        _json(
            _object(
                {
                    "definitions": _array(_object({**_VERSION, "activity_count": _INTEGER})),
                    "total": _INTEGER,
                }
            )
        ),
    ),
    "definition": Operation(
        "One definition",
        _json(_object({**_VERSION, "activities": _array(_OBJECT)})),
        ("400", "404"),
        query=(_query("version", _STRING),),
    ),
    "submit": Operation(
        "Run a definition",
        _json(
            _object(
                {
                    "workflow_id": _STRING,
                    "definition_name": _STRING,
                    "definition_version": _STRING,
                    "status": _STRING,
                    "created_at": _STRING,
                }
            ),
            "201",
        ),
        ("400", "404", "409", "413", "415", "422"),
        body=_takes(_SUBMIT),
    ),
    "listing": Operation(
        "List workflows",
        _json(
            _object(
                {
                    "workflows": _array(_object(_SUMMARY)),
                    "total": _INTEGER,
                    "count": _INTEGER,
                    "limit": _INTEGER,
                    "offset": _INTEGER,
                }
            )
        ),
        ("400", "422"),
        query=(
            _query("status", _STRING),
            _query("definition_name", _STRING),
            _query("created_after", _TIME),
            _query("created_before", _TIME),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
            _query("offset", {"type": "integer", "minimum": 0}),
        ),
    ),
    "status": Operation(
        "One workflow",
        _json(_object({**_SUMMARY, "activities": _array(_ACTIVITY), "state_data": _OBJECT})),
        ("400", "404"),
    ),
    "signal": Operation(
        "Signal a waiting activity",
        _json(_object({"signaled": _BOOLEAN, "message": _STRING})),
        _BODY_ERRORS,
        body=_takes(_SIGNAL),
    ),
    "output": Operation(
        "All outputs",
        _json(
            _object(
                {
                    "workflow_id": _STRING,
                    "status": _STRING,
                    "total_cost_usd": _DECIMAL,
                    "completed_at": _STRING,
                    "outputs": _OBJECT,
                    "terminal_outputs": _array(_STRING),
                }
            )
        ),
        ("400", "404"),
    ),
    "activity_output": Operation(
        "One activity's outputs",
        _json(
            _object(
                {
                    "workflow_id": _STRING,
                    "activity_key": _STRING,
                    **_OUTPUT,
                    "files": _array(_object({**_FILE, "download_url": _STRING})),
                }
            )
        ),
        ("400", "404"),
    ),
    "upload": Operation(
        "Store a file",
        _json(
            _object({"workflow_id": _STRING, "activity_key": _STRING, **_FILE, "created_at": _STRING}), "201"
        ),
        ("400",),
        body={"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    ),
    "download": Operation("A file's content", {"200": ("*/*", {})}, ("400", "404")),
}
