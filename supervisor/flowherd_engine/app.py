"""The HTTP application: its routes and the order of its layers (protocol.md §1.1, §1.2)."""

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

from . import request_bodies
from .engine import Engine
from .files import FilesApi
from .hot_routes import HotRoutes
from .replies import EMPTY, SHUTTING_DOWN, ApiError, TextError, json_reply, not_found
from .request_check import Gate
from .worker_api import WorkerApi
from .workflow_api import WorkflowApi

Handler = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger(__name__)
_API = "/api/v1"
HOT = {"poll", "heartbeat", "complete", "fail"}  # the frequent calls of workers
_KNOWN = (ApiError, TextError, ClientDisconnect, sqlite3.Error)
_ACTIVITY = f"{_API}/activities/{{activity_id}}"
_WORKFLOW = f"{_API}/workflows/{{workflow_id}}"
_FILE = f"{_WORKFLOW}/activities/{{activity_key}}/files/{{filename}}"


def build_app(engine: Engine) -> ASGIApp:
    """Returns the ASGI application of `engine`."""
    app = FastAPI(
        title="flowherd embedded engine",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        exception_handlers=dict.fromkeys((*_KNOWN, Exception), _answer_error),
    )
    app.router.redirect_slashes = False
    hot: dict[str, Handler] = {}
    public: set[str] = set()
    for method, path, handler, protected in routes(engine):
        endpoint = _guarded(engine, handler) if protected else _plain(handler)
        app.add_api_route(path, endpoint, methods=[method], name=handler.__name__)
        if handler.__name__ in HOT:
            hot[handler.__name__] = endpoint
        if not protected:
            public.add(path)
    app.add_exception_handler(HTTPException, _unrouted(engine, public))
    return Gate(HotRoutes(app, hot, reply_to), engine.settings)


def routes(engine: Engine) -> list[tuple[str, str, Handler, bool]]:
    """Returns method, path and handler of every route, and True if it needs a token."""
    public, worker, workflow, files = (
        PublicApi(engine),
        WorkerApi(engine),
        WorkflowApi(engine),
        FilesApi(engine),
    )
    return [
        ("GET", "/health", public.health, False),
        ("GET", "/health/ready", public.ready, False),
        ("GET", f"{_API}/info", public.info, False),
        ("POST", f"{_API}/oauth/token", public.token, False),
        ("POST", f"{_API}/workers/poll", worker.poll, True),
        ("POST", f"{_ACTIVITY}/complete", worker.complete, True),
        ("POST", f"{_ACTIVITY}/heartbeat", worker.heartbeat, True),
        ("POST", f"{_ACTIVITY}/fail", worker.fail, True),
        ("POST", f"{_ACTIVITY}/ws/token", worker.stream_token, True),
        ("POST", f"{_ACTIVITY}/ws/complete", worker.stream_complete, True),
        ("POST", f"{_ACTIVITY}/ws/error", worker.stream_error, True),
        ("GET", f"{_ACTIVITY}/ws/subscribers", worker.stream_subscribers, True),
        ("POST", f"{_API}/workflow_definitions", workflow.deploy, True),
        ("GET", f"{_API}/workflow_definitions", workflow.definitions, True),
        ("GET", f"{_API}/workflow_definitions/{{name}}", workflow.definition, True),
        ("POST", f"{_API}/workflows", workflow.submit, True),
        ("GET", f"{_API}/workflows", workflow.listing, True),
        ("GET", _WORKFLOW, workflow.status, True),
        ("POST", f"{_WORKFLOW}/signal", workflow.signal, True),
        ("GET", f"{_WORKFLOW}/output", workflow.output, True),
        ("GET", f"{_WORKFLOW}/activities/{{activity_key}}/output", workflow.activity_output, True),
        ("POST", _FILE, files.upload, True),
        ("GET", _FILE, files.download, True),
    ]


class PublicApi:
    """The routes that need no token: health, info and the token endpoint (protocol.md §2.3, §13)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def health(self, _request: Request) -> Response:
        """Replies as long as the process runs."""
        return json_reply(self._marked({"status": "ok"}))

    async def ready(self, _request: Request) -> Response:
        """Replies if the database works, too."""
        await self._engine.database.transact(lambda connection: connection.execute("SELECT 1").fetchone())
        parts = ("database", "event_source", "queue", "orchestrator")
        checks = {part: {"status": "healthy"} for part in parts}
        return json_reply({"status": "ready", "checks": checks})

    async def info(self, _request: Request) -> Response:
        """Replies with the version and features of this engine."""
        features = ["workflows", "workers", "authentication", "embedded"]
        features += ["insecure-dev"] if self._engine.authority.open else []
        document = {
            "version": _version(),
            "build_timestamp": "unknown",
            "build_git_hash": "unknown",
            "api_version": "v1",
            "features": features,
        }
        return json_reply(self._marked(document))

    def _marked(self, document: dict[str, Any]) -> dict[str, Any]:
        """Adds `insecure_dev`, which is present only if it is true (protocol.md §2.2)."""
        return {**document, "insecure_dev": True} if self._engine.authority.open else document

    async def token(self, request: Request) -> Response:
        """Grants a token for client credentials (protocol.md §2.3)."""
        try:
            body = await request_bodies.read_body(request)
        except TextError as error:  # this route reports too large a body as malformed
            raise TextError(400, "Invalid JSON: Failed to buffer the request body") from error
        return self._engine.authority.token(request.headers.get("content-type", ""), body)


def _version() -> str:
    """Returns the version of flowherd, 0 if it is not installed."""
    try:
        return version("flowherd")
    except PackageNotFoundError:
        return "0"


def _plain(handler: Handler) -> Handler:
    async def endpoint(request: Request) -> Response:
        return await handler(request)

    return endpoint


def _guarded(engine: Engine, handler: Handler) -> Handler:
    """Adds the token check and the shutdown check before the handler (protocol.md §1.2)."""

    async def endpoint(request: Request) -> Response:
        engine.authority.check(request.headers.get("authorization"))
        if engine.draining:
            return SHUTTING_DOWN
        return await handler(request)

    return endpoint


def reply_to(error: Exception) -> Response:
    """Returns the reply for an error."""
    match error:
        case ApiError() | TextError():
            return error.reply()
        case ClientDisconnect():
            return EMPTY  # the client is gone
        case sqlite3.Error():
            _log.error("the database refused a request: %s", error)
            return ApiError(500, "DATABASE_ERROR", f"Database error: {error}").reply()
        case _:
            _log.error("a request failed", exc_info=error)
            return ApiError(500, "INTERNAL_ERROR", "Internal server error").reply()


async def _answer_error(_request: Request, error: Exception) -> Response:
    return reply_to(error)


def _unrouted(engine: Engine, public: set[str]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Returns the handler for unknown routes: 404 without a token check; a wrong method is 401, then an empty 405."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != 405:
            return not_found("The requested resource was not found").reply()
        if request.url.path not in public:
            try:
                engine.authority.check(request.headers.get("authorization"))
            except ApiError as refusal:
                return refusal.reply()
        return Response(b"", 405, dict(error.headers or {}))

    return answer
