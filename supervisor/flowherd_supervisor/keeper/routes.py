"""The keeper's pages and orders as one plain ASGI function; it opens no socket and starts no thread."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.link.link import LinkClosed
from flowherd_supervisor.keeper import assets, control, guard
from flowherd_supervisor.keeper.event_stream import Streams
from flowherd_supervisor.keeper.inflight import BlockWatch
from flowherd_supervisor.keeper.metrics import CONTENT_TYPE, HostMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowherd.ledger import Ledger
    from flowherd.link.messages import Message
    from flowherd_supervisor.keeper.events import EventLog
    from flowherd_supervisor.keeper.status import StatusBoard

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]

JSON = "application/json"
GET = ("GET", "HEAD")
PAGES = frozenset({"/livez", "/readyz", "/metrics", "/api/status", "/api/advice", "/api/events"})
_API = "/api/"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()

    @classmethod
    def json(cls, status: int, document: object) -> Reply:
        """A document."""
        return cls(status, msgspec.json.encode(document))


class Routes:
    """What is served where. Orders are taken from the unix socket alone: TCP may only look (interface.md, Admin).

    Args:
        ask: passes an order on to the supervisor.

    """

    def __init__(
        self, ledger: Ledger, board: StatusBoard, events: EventLog, ask: Callable[[Message], None]
    ) -> None:
        self._board = board
        self._ask = ask
        self._metrics = HostMetrics(ledger, board)
        self._streams = Streams(events, board.document, BlockWatch(ledger, events))
        self._assets = assets.load()
        self._own_names = (socket.gethostname(),)

    async def over_tcp(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """For everybody who can reach the port."""
        headers = dict(scope["headers"])
        is_page = scope["path"] == "/"
        if (reason := guard.refusal(headers, self._own_names, may_be_linked=is_page)) is not None:
            await _send(send, Reply.json(403, {"error": reason}))
        elif scope["method"] not in GET:
            text = "GET only: orders are taken on the unix socket, see flowherd ctl --pid"
            await _send(
                send, Reply(405, msgspec.json.encode({"error": text}), headers=[(b"allow", b"GET, HEAD")])
            )
        else:
            await self._look(scope, headers, receive, send)

    async def over_unix(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """For this user and root, whom the connection itself has shown to be that."""
        headers = dict(scope["headers"])
        if b"origin" in headers:
            await _send(send, Reply.json(403, {"error": "no page may ask here"}))
        elif scope["method"] == "POST":
            await _send(send, await self._obey(scope["path"], headers, receive))
        else:
            await self._look(scope, headers, receive, send)

    async def _look(
        self, scope: dict[str, Any], headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        path = scope["path"]
        if scope["method"] not in GET or path.removeprefix(_API) in control.ORDERS:
            await _send(send, Reply.json(405, {"error": "this cannot be asked so"}))
        elif path == "/api/events" and scope["method"] == "GET":
            if self._streams.full:
                await _send(send, Reply.json(503, {"error": "too many watch already"}))
            else:
                await self._streams.serve(headers, receive, send)
        else:
            await _send(send, self._page(path))

    def _page(self, path: str) -> Reply:
        if path in self._assets:
            body, kind = self._assets[path]
            return Reply(200, body, kind, assets.HEADERS)
        match path:
            case "/livez":
                reply = Reply.json(200, {"status": "ok"})
            case "/readyz":
                ready = self._board.is_ready()
                reply = Reply.json(200 if ready else 503, {"ready": ready})
            case "/metrics":
                reply = Reply(200, self._metrics.page(), CONTENT_TYPE)
            case "/api/status":
                reply = Reply.json(200, self._board.document())
            case "/api/advice":
                reply = Reply.json(200, self._board.advice())
            case _:
                reply = Reply.json(404, {"error": "no such page"})
        return reply

    async def _obey(self, path: str, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        order = path.removeprefix(_API)
        if not path.startswith(_API) or order not in control.ORDERS:
            return Reply.json(405 if path in PAGES else 404, {"error": f"no such order: {path}"})
        if headers.get(b"content-type", b"").partition(b";")[0].strip() != JSON.encode():
            return Reply.json(415, {"error": f"orders are {JSON}"})
        body = await _body(receive)
        if body is None:
            return Reply.json(413, {"error": f"an order has at most {control.MAX_BODY} bytes"})
        answer = control.consider(order, body, self._board.supervisor)
        if answer.order is not None:
            try:
                self._ask(answer.order)
            except LinkClosed:
                return Reply.json(503, {"error": "the supervisor is gone"})
        return Reply.json(answer.status, answer.document)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, None when it is too long for an order."""
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
        if len(body) > control.MAX_BODY:
            return None
    return body


async def _send(send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
