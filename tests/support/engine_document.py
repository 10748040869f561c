"""The OpenAPI document of the embedded engine, for tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from engine_schemas import ERROR, OPERATIONS, STREAM_ERROR, STREAM_RESULT, STREAM_TOKEN

from flowherd_engine import request_bodies
from flowherd_engine.app import routes

if TYPE_CHECKING:
    from flowherd_engine.engine import Engine

_STRUCTS: dict[str, Any] = {
    "poll": request_bodies.Poll,
    "heartbeat": request_bodies.Heartbeat,
    "complete": request_bodies.Complete,
    "fail": request_bodies.Fail,
}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_JSON_ERROR = {"application/json": {"schema": ERROR}}


def document(engine: Engine) -> dict[str, Any]:
    """Describes the routes of `engine`."""
    _, components = msgspec.json.schema_components(
        _STRUCTS.values(), ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler, protected in routes(engine):
        paths.setdefault(path, {})[method.lower()] = _operation(path, handler.__name__, protected=protected)
    schemes = {"bearer_auth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "flowherd embedded engine", "version": "1"},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": schemes},
    }


def _operation(path: str, name: str, *, protected: bool) -> dict[str, Any]:
    told = OPERATIONS[name]
    responses: dict[str, Any] = {
        status: {"description": "as asked", "content": {media: {"schema": schema}}}
        for status, (media, schema) in told.replies.items()
    }
    for status in told.empty:
        responses[status] = {"description": "done; the body is empty"}
    for status in told.errors:
        responses[status] = {"description": "refused", "content": {**_JSON_ERROR, **_TEXT}}
    responses["403"] = {"description": "a web page, or another Host", "content": _JSON_ERROR}
    operation: dict[str, Any] = {"operationId": name, "summary": told.summary, "responses": responses}
    parameters = [_path_parameter(found) for found in re.findall(r"\{(\w+)\}", path)] + list(told.query)
    if parameters:
        operation["parameters"] = parameters
    body = _body(name)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    if protected:
        operation["security"] = [{"bearer_auth": []}, {}]
        responses["401"] = {"description": "no token, or a bad one", "content": _JSON_ERROR}
        responses["503"] = {"description": "shutting down", "content": _JSON_ERROR}
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if name.endswith("_id"):
        schema = {"type": "string", "format": "uuid"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _body(name: str) -> dict[str, Any] | None:
    if name in _STRUCTS:
        reference = f"#/components/schemas/{_STRUCTS[name].__name__}"
        return {"application/json": {"schema": {"$ref": reference}}}
    streams = {"stream_token": STREAM_TOKEN, "stream_complete": STREAM_RESULT, "stream_error": STREAM_ERROR}
    if name in streams:
        return {"application/json": {"schema": streams[name]}}
    return OPERATIONS[name].body
