"""The first layer of every request: request ids, the Host allow-list, no browsers."""

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .clock import uuid7
from .replies import ApiError
from .settings import EngineSettings


class Gate:
    """Adds request ids; refuses unknown hosts and requests from browsers (faults.md S4)."""

    def __init__(self, app: ASGIApp, settings: EngineSettings) -> None:
        self._app = app
        self._hosts: frozenset[bytes] | None = None
        if settings.loopback:  # beyond loopback the token protects, and the valid names are unknown
            names = {"localhost", "127.0.0.1", "[::1]", settings.host, *settings.allowed_hosts}
            self._hosts = frozenset(name.lower().encode() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = host = origin = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        mark = (b"x-request-id", request_id or uuid7().encode())

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], mark]}
            await send(message)

        refusal = self._refusal(host, origin)
        if refusal is not None:
            await refusal.reply()(scope, receive, marked)
            return
        raw_path: bytes = scope["raw_path"]
        if b"%2f" in raw_path.lower():
            scope = {**scope, "path": _path(raw_path)}
        await self._app(scope, receive, marked)

    def _refusal(self, host: bytes | None, origin: bytes | None) -> ApiError | None:
        """Refuses pages in a browser, which send an Origin, or their own Host when their name points to 127.0.0.1."""
        if origin is not None:
            return ApiError(403, "FORBIDDEN", "Forbidden: requests from web pages are refused")
        if self._hosts is not None and _hostname(host or b"") not in self._hosts:
            return ApiError(403, "FORBIDDEN", "Forbidden: the Host header names another host")
        return None


def _hostname(host: bytes) -> bytes:
    if host.startswith(b"["):
        return host.partition(b"]")[0].lower() + b"]"
    return host.partition(b":")[0].lower()


def _path(raw_path: bytes) -> str:
    """Returns the path for routing: an encoded slash stays in its segment; handlers read it from `raw_path`."""
    kept = raw_path.replace(b"%2f", b"%1F").replace(b"%2F", b"%1F")
    return unquote_to_bytes(kept).decode("utf-8", "replace")
