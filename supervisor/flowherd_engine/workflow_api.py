"""The routes for clients: definitions (protocol.md §11), workflows (§12, §13) and signals (§8.3)."""

import re
import sqlite3
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from . import client_documents, files, request_bodies
from .client_documents import Filters
from .clock import iso
from .definitions import DefinitionInvalid, parse
from .engine import Engine
from .replies import TextError, bad_request, invalid, json_reply, not_found, refuse
from .submit_and_signal import Submission

_VERSION = re.compile(r"\d{8}\.\d{6}\.\d{6}")


class _Submit(msgspec.Struct):
    definition_name: str
    input: Any
    version: str | None = None
    unique_key: str | None = None


class _Signal(msgspec.Struct):
    activity_key: str
    event_name: str
    data: Any = None


_SUBMIT = msgspec.json.Decoder(_Submit)
_SIGNAL = msgspec.json.Decoder(_Signal)


class WorkflowApi:
    """The routes for clients: decode, check, one transaction, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._database = engine.database

    async def deploy(self, request: Request) -> Response:
        """Stores a definition, YAML or JSON whatever the content type (protocol.md §11.1)."""
        body = await request_bodies.read_body(request)
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise TextError(400, f"Request body didn't contain valid UTF-8: {error}") from error
        try:
            definition = parse(text)
        except DefinitionInvalid as error:
            raise invalid(error.field_errors) from error
        deployed, new = await self._database.transact(
            self._engine.catalog.deploy, definition, self._engine.clock.now_s()
        )
        reply: dict[str, Any] = {
            "name": deployed.name,
            "version": deployed.version,
            "created_at": iso(deployed.created_s),
        }
        if not new:
            reply["unchanged"] = True
        return json_reply(reply, 201 if new else 200)

    async def definitions(self, _request: Request) -> Response:
        """Replies with all stored versions."""
        found = await self._database.transact(client_documents.definitions)
        return json_reply({"definitions": found, "total": len(found)})

    async def definition(self, request: Request) -> Response:
        """Replies with a version, by default the one deployed last."""
        name, version = request.path_params["name"], request.query_params.get("version")
        if version is not None and not _VERSION.fullmatch(version):
            raise bad_request(_malformed(version))
        found = await self._database.transact(client_documents.definition, name, version)
        if found is None:
            suffix = "" if version is None else f" version '{version}'"
            raise not_found(f"Workflow definition '{name}'{suffix} not found")
        return json_reply(found)

    async def submit(self, request: Request) -> Response:
        """Starts a workflow of a definition (protocol.md §12)."""
        wanted, body = await request_bodies.read_json(request, _SUBMIT)
        too_long = len((wanted.unique_key or "").encode()) > 255
        refuse(
            {
                "definition_name": not wanted.definition_name and "Definition name cannot be empty",
                "input": not isinstance(wanted.input, dict) and "Input must be a JSON object",
                "unique_key": (wanted.unique_key == "" and "Unique key cannot be empty if provided")
                or (too_long and "Unique key must be 255 characters or less"),
            }
        )
        request_bodies.refuse_nul(body, "input")
        if wanted.version is not None and not _VERSION.fullmatch(wanted.version):
            raise bad_request(_malformed(wanted.version))  # the server replies 500 (protocol.md §12)
        submission = Submission(
            wanted.definition_name,
            wanted.version,
            msgspec.json.encode(wanted.input).decode(),
            wanted.unique_key,
        )
        created = await self._database.transact(self._engine.workflows.submit, submission)
        return json_reply(created, 201)

    async def status(self, request: Request) -> Response:
        """Replies with a workflow (protocol.md §13)."""
        workflow_id = request_bodies.path_uuid(request, "workflow_id")
        return json_reply(await self._database.transact(client_documents.status, workflow_id))

    async def listing(self, request: Request) -> Response:
        """Replies with a page of workflows."""
        filters = _filters(request)
        return json_reply(await self._database.transact(client_documents.listing, filters))

    async def output(self, request: Request) -> Response:
        """Replies with all outputs of a completed workflow."""
        workflow_id = request_bodies.path_uuid(request, "workflow_id")
        return json_reply(await self._database.transact(client_documents.output, workflow_id))

    async def activity_output(self, request: Request) -> Response:
        """Replies with an activity's outputs and files."""
        workflow_id = request_bodies.path_uuid(request, "workflow_id")
        key = request.path_params["activity_key"]

        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            found = client_documents.activity_output(connection, workflow_id, key)
            return {**found, "files": files.listing(connection, workflow_id, key)}

        return json_reply(await self._database.transact(read))

    async def signal(self, request: Request) -> Response:
        """Passes data to a waiting activity; always 200 (protocol.md §8.3)."""
        workflow_id = request_bodies.path_uuid(request, "workflow_id")
        wanted, body = await request_bodies.read_json(request, _SIGNAL)
        refuse(
            {
                "activity_key": not wanted.activity_key and "Activity key cannot be empty",
                "event_name": not wanted.event_name and "Event name cannot be empty",
            }
        )
        request_bodies.refuse_nul(body, "data")
        key, event = wanted.activity_key, wanted.event_name
        signaled = await self._database.transact(
            self._engine.workflows.signal, workflow_id, key, event, wanted.data
        )
        message = "Activity signaled successfully"
        if not signaled:
            message = (
                f"No waiting activity found for workflow {workflow_id} with key '{key}' and event '{event}'"
            )
        return json_reply({"signaled": signaled, "message": message})


def _malformed(version: str) -> str:
    return f"Invalid version format '{version}'. Expected format: YYYYmmdd.HHMMSS.uuuuuu"


def _filters(request: Request) -> Filters:
    query = request.query_params
    after_s, before_s = _moment(query.get("created_after")), _moment(query.get("created_before"))
    limit, offset = _whole(query.get("limit"), 100), _whole(query.get("offset"), 0)
    empty = after_s is not None and before_s is not None and after_s >= before_s
    refuse(
        {
            "limit": (limit < 1 and "Limit must be at least 1")
            or (limit > 1000 and "Limit must be at most 1000"),
            "offset": offset < 0 and "Offset must be non-negative",
            "created_after": empty and "created_after must be before created_before",
        }
    )
    return Filters(query.get("status"), query.get("definition_name"), after_s, before_s, limit, offset)


def _whole(written: str | None, default: int) -> int:
    if written is None:
        return default
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", written) or not -(2**63) <= int(written) < 2**63:
        raise TextError(400, "Failed to deserialize query string: invalid digit found in string")
    return int(written)


def _moment(written: str | None) -> float | None:
    if written is None:
        return None
    try:
        moment = datetime.fromisoformat(written)
        if moment.tzinfo is None:
            raise ValueError("no time zone")  # noqa: TRY301 - handled where all malformed times are
        return moment.astimezone(UTC).timestamp()
    except (ValueError, OverflowError) as error:
        raise TextError(400, f"Failed to deserialize query string: {error}") from error
