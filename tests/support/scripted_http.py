"""A web server with scripted replies that stores its requests."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_CEILING_S = 40.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A received request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply for a path, sent once `after` is set."""

    status: int = 200
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: threading.Event | None = None


@dataclass(slots=True)
class ScriptedServer:
    """Replies by path, whatever the method; each of a list once, the last one always; else an empty 404."""

    url: str
    replies: dict[str, Reply | list[Reply]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def next_reply(self, path: str) -> Reply:
        """Returns the reply for the next request of a path."""
        reply = self.replies.get(path, Reply(404))
        if isinstance(reply, list):
            return reply.pop(0) if len(reply) > 1 else reply[0]
        return reply


@contextmanager
def scripted_server(
    replies: Mapping[str, Reply | list[Reply]] | None = None, *, path: Path | None = None
) -> Iterator[ScriptedServer]:
    """A server on loopback, or on a unix socket, that ends with the block."""
    server: ThreadingHTTPServer | ThreadingUnixStreamServer
    if path is None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        url = f"http://127.0.0.1:{server.server_port}"
    else:
        server, url = ThreadingUnixStreamServer(str(path), _Handler), f"unix:{path}"
    server.daemon_threads = True
    server.script = ScriptedServer(url, dict(replies or {}))  # type: ignore[union-attr]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.script  # type: ignore[union-attr]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        script: ScriptedServer = self.server.script  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.seen.append(Seen(self.command, self.path, headers, body))
        reply = script.next_reply(self.path)
        if reply.after is not None:
            reply.after.wait(_CEILING_S)
        body_of: Any = reply.body if isinstance(reply.body, str | bytes) else json.dumps(reply.body)
        data = body_of.encode() if isinstance(body_of, str) else body_of
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815 - the base class names them so

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Logs nothing."""
