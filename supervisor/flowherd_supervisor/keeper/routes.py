"""The keeper's pages and orders as plain ASGI functions."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

import msgspec

from flowherd.counted import counted
from flowherd.leases.cancellation import NotCancelled
from flowherd.link.link import LinkClosed, LinkFull
from flowherd.link.messages import Asked
from flowherd_supervisor.keeper import access_check
from flowherd_supervisor.keeper.event_stream import BlockWatch, Streams
from flowherd_supervisor.keeper.metrics import CONTENT_TYPE, HostMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from flowherd.ledger import Ledger
    from flowherd.link.messages import Message, SupervisorState
    from flowherd_supervisor.keeper.event_stream import EventLog
    from flowherd_supervisor.keeper.status import StatusBoard

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]

    class Cancel(Protocol):
        """Cancels one activity."""

        def __call__(self, activity_id: str, *, requeue: bool) -> Awaitable[str]:
            """Returns a sentence about what was done."""
            ...


JSON = "application/json"
GET = ("GET", "HEAD")
PAGES = frozenset(
    {
        "/livez", "/readyz", "/metrics", "/api/status", "/api/advice", "/api/activities", "/api/events",
        "/api/failures", "/api/trend", "/api/explain",
    }
)  # fmt: skip
_API = "/api/"
ORDERS = frozenset({"scale", "reload", "quiet", "resume", "drain", "stacks", "cancel", "keep"})
MAX_BODY = 1024
_FULL = "the supervisor reads no orders now: try again in a moment"
_ALREADY = {"quiet": False, "resume": True}  # value of `polling` at which the order changes nothing
_ACCEPTED = {
    "reload": "replacing every process, one after the other",
    "drain": "draining: waiting for running activities; what is left is requeued",
    "quiet": "polling pauses; running activities go on",
    "resume": "polling resumes",
}
# Resources from this host only, no inline script or style, no embedding in frames.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'"
)
_PAGE_HEADERS = ((b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer"))
_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/uplot.css": ("vendor/uplot.css", "text/css; charset=utf-8"),
    "/page/uplot.js": ("vendor/uplot.js", "text/javascript; charset=utf-8"),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to a request."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()

    @classmethod
    def json(cls, status: int, document: object) -> Reply:
        """Returns a reply with a JSON document."""
        return cls(status, msgspec.json.encode(document))


class Routes:
    """The routes of the keeper. Orders are taken from the unix socket only; TCP is read-only (faults.md S1).

    Args:
        ask: sends an order to the supervisor.
        cancel: cancels one activity and returns what was done, or raises NotCancelled.

    """

    def __init__(
        self,
        ledger: Ledger,
        board: StatusBoard,
        events: EventLog,
        ask: Callable[[Message], None],
        cancel: Cancel,
    ) -> None:
        self._cancel = cancel
        self._board = board
        self._ask = ask
        self._metrics = HostMetrics(ledger, board)
        self._streams = Streams(events, board.document, BlockWatch(ledger, events))
        self._assets = _page_files()
        self._own_names = (socket.gethostname(),)

    async def over_tcp(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serves TCP clients, which may only read."""
        headers = dict(scope["headers"])
        is_page = scope["path"] == "/"
        if (reason := access_check.refusal(headers, self._own_names, may_be_linked=is_page)) is not None:
            await _send(send, Reply.json(403, {"error": reason}))
        elif scope["method"] not in GET:
            text = "GET only: orders are accepted on the unix socket, see flowherd ctl --pid"
            await _send(
                send, Reply(405, msgspec.json.encode({"error": text}), headers=[(b"allow", b"GET, HEAD")])
            )
        else:
            await self._look(scope, headers, receive, send)

    async def over_unix(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serves this user and root, whose identity the connection has proved."""
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
        if scope["method"] not in GET or path.removeprefix(_API) in ORDERS:
            await _send(send, Reply.json(405, {"error": "this cannot be asked so"}))
        elif path == "/api/events" and scope["method"] == "GET":
            if self._streams.full:
                await _send(send, Reply.json(503, {"error": "too many watch already"}))
            else:
                await self._streams.serve(headers, receive, send)
        else:
            await _send(send, self._page(path, scope.get("query_string", b"")))

    def _page(self, path: str, query: bytes) -> Reply:
        if path in self._assets:
            body, kind = self._assets[path]
            return Reply(200, body, kind, _PAGE_HEADERS)
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
            case "/api/activities":
                reply = Reply.json(200, self._board.activities())
            case "/api/failures":
                reply = Reply.json(200, self._board.history.failures())
            case "/api/trend":
                reply = Reply.json(200, self._board.history.trend())
            case "/api/explain":
                reply = self._explained(query)
            case "/api/advice":
                reply = Reply.json(200, self._board.advice())
            case _:
                reply = Reply.json(404, {"error": "no such page"})
        return reply

    def _explained(self, query: bytes) -> Reply:
        words = parse_qs(query.decode("latin-1"))
        wanted, first = (words.get(name, [""])[0] for name in ("id", "first"))
        if not wanted:
            return Reply.json(422, {"error": "say of which workflow or activity: /api/explain?id=ID"})
        return Reply.json(200, {**self._board.activities(), **self._board.history.explain(wanted, first)})

    async def _obey(self, path: str, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        order = path.removeprefix(_API)
        if not path.startswith(_API) or order not in ORDERS:
            return Reply.json(405 if path in PAGES else 404, {"error": f"no such order: {path}"})
        if headers.get(b"content-type", b"").partition(b";")[0].strip() != JSON.encode():
            return Reply.json(415, {"error": f"orders are {JSON}"})
        body = await _body(receive)
        if body is None:
            return Reply.json(413, {"error": f"an order has at most {MAX_BODY} bytes"})
        if order == "cancel":
            return await self._cancelled(body)
        names = self._board.serves.takes if self._board.serves else {}
        answer = consider(order, body, self._board.supervisor, names)
        if answer.order is not None:
            try:
                self._ask(answer.order)
            except LinkClosed as error:
                text = _FULL if isinstance(error, LinkFull) else "the host is gone"
                return Reply.json(503, {"error": text})
        return Reply.json(answer.status, answer.document)

    async def _cancelled(self, body: bytes) -> Reply:
        """Cancels an activity here, since the keeper holds its lease."""
        try:
            wanted = msgspec.json.decode(body, type=_Cancel)
            answer = Answer(200, await self._cancel(wanted.activity_id, requeue=wanted.requeue))
        except (msgspec.DecodeError, RecursionError) as error:
            answer = Answer(422, f'expected a body such as {{"activity_id": "…", "requeue": false}}: {error}')
        except NotCancelled as error:
            answer = Answer(409, str(error))
        return Reply.json(answer.status, answer.document)


async def _body(receive: Receive) -> bytes | None:
    """Returns the whole body, None if it is too long for an order."""
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
        if len(body) > MAX_BODY:
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


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status, its text, and the order for the supervisor, if any."""

    status: int
    text: str
    order: Asked | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The body: `note` if the order was accepted, else `error`."""
        return {"note" if self.status < 400 else "error": self.text, "accepted": self.status < 400}


class _Cancel(msgspec.Struct, forbid_unknown_fields=True):
    activity_id: str
    requeue: bool = False


class _Keep(msgspec.Struct, forbid_unknown_fields=True):
    activity: str


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    processes: int


def consider(order: str, body: bytes, told: SupervisorState | None, names: Collection[str] = ()) -> Answer:
    """Checks an order against the supervisor's last state and answers it; the supervisor checks it again.

    The state may be older than orders under way, so an order that seems to change nothing is passed on too.

    Args:
        order: one of `ORDERS`.
        body: JSON; `{"processes": N}` for `scale`, `{"activity": NAME}` for `keep`, nothing for the others.
        told: the supervisor's last state.
        names: the app's activities.

    """
    if told is None:
        return Answer(503, "the host is starting: try again in a moment")
    if order == "stacks":
        return Answer(202, "every process writes what it is doing to the log", Asked(order))
    if told.state != "running":
        return Answer(200 if order == "drain" else 409, f"the host is {told.state} already")
    if order in {"scale", "keep"}:
        return _scale(body, told) if order == "scale" else _keep(body, told, names)
    if order in _ALREADY and told.polling is _ALREADY[order]:
        text = "polling is on already" if told.polling else "polling is paused already"
        return Answer(200, text, Asked(order))  # an earlier order may be under way
    kept = order == "reload" and told.configured not in {0, told.wanted}
    scaled = (
        f"; the number of processes stays {told.wanted}, as scaled, unless the settings name another"
        if kept
        else ""
    )
    return Answer(202, _ACCEPTED[order] + scaled, Asked(order))


def _keep(body: bytes, told: SupervisorState, names: Collection[str]) -> Answer:
    try:
        name = msgspec.json.decode(body, type=_Keep).activity
    except (msgspec.DecodeError, RecursionError) as error:
        return Answer(422, f'expected a body such as {{"activity": "resize"}}: {error}')
    if name not in names:
        close = get_close_matches(name, names, 1)
        known = (
            f"did you mean {close[0]!r}?"
            if close
            else f"the app has {', '.join(sorted(names)) or 'none yet'}"
        )
        return Answer(422, f"there is no activity {name!r}: {known}")
    if name in told.kept:
        return Answer(
            200, f"{name} is kept on the event loop already, until a reload", Asked("keep", activity=name)
        )
    back = "moves back to the event loop and stays there" if name in told.moved else "stays on the event loop"
    return Answer(202, f"{name} {back} until a reload", Asked("keep", activity=name))


def _scale(body: bytes, told: SupervisorState) -> Answer:
    try:
        wanted = msgspec.json.decode(body, type=_Scale).processes
    except (msgspec.DecodeError, RecursionError) as error:
        return Answer(422, f'expected a body such as {{"processes": 4}}: {error}')
    if not 1 <= wanted <= told.most:
        why = (
            "each process needs a slot: see --concurrency" if told.most == told.total_slots else "as started"
        )
        return Answer(422, f"{wanted} processes: it must be between 1 and {told.most} ({why})")
    if wanted == told.wanted:
        return Answer(200, f"{counted(wanted, 'process')} already", Asked("scale", wanted))
    return Answer(202, f"scaling from {told.wanted} to {counted(wanted, 'process')}", Asked("scale", wanted))


def _page_files() -> dict[str, tuple[bytes, str]]:
    """Returns body and content type of the static files by path, read once; they contain no data of the host."""
    folder = files("flowherd_supervisor.keeper") / "page"
    return {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _PAGE_FILES.items()}
