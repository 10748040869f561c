"""The public routes: health, info and the token endpoint (protocol.md §2.3, §13)."""

import sqlite3
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from . import bodies
from .engine import Engine
from .replies import TextError, json_reply


class SystemApi:
    """Answers without a token."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def health(self, _request: Request) -> Response:
        """The process answers."""
        return json_reply(self._marked({"status": "ok"}))

    async def ready(self, _request: Request) -> Response:
        """The store answers too."""
        await self._engine.database.transact(_nothing)
        parts = ("database", "event_source", "queue", "orchestrator")
        checks = {part: {"status": "healthy"} for part in parts}
        return json_reply({"status": "ready", "checks": checks})

    async def info(self, _request: Request) -> Response:
        """Who this is."""
        features = ["workflows", "workers", "authentication", "embedded"]
        features += ["insecure-dev"] if self._engine.authority.open else []
        document = {
            "version": package_version(),
            "build_timestamp": "unknown",
            "build_git_hash": "unknown",
            "api_version": "v1",
            "features": features,
        }
        return json_reply(self._marked(document))

    def _marked(self, document: dict[str, Any]) -> dict[str, Any]:
        """`insecure_dev` is there only when it is true (protocol.md §2.2)."""
        return {**document, "insecure_dev": True} if self._engine.authority.open else document

    async def token(self, request: Request) -> Response:
        """Grant a token for client credentials (protocol.md §2.3)."""
        try:
            body = await bodies.read_body(request)
        except TextError as error:  # here too large a body is called malformed
            raise TextError(400, "Invalid JSON: Failed to buffer the request body") from error
        return self._engine.authority.token(request.headers.get("content-type", ""), body)


def _nothing(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT 1").fetchone()


def package_version() -> str:
    """The version of flowherd, or 0 in a clone that was not installed."""
    try:
        return version("flowherd")
    except PackageNotFoundError:
        return "0"
