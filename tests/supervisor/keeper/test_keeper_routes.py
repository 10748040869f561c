"""Access to the keeper: TCP is read-only, the unix socket takes orders, foreign pages get nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.leases.cancellation import NotCancelled
from flowherd.ledger import Ledger
from flowherd.link.link import LinkClosed
from flowherd.link.messages import Asked, Serves, SupervisorState
from flowherd_supervisor.keeper import access_check
from flowherd_supervisor.keeper.event_stream import EventLog
from flowherd_supervisor.keeper.routes import MAX_BODY, ORDERS, PAGES, Routes, consider
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    from flowherd.link.messages import Message

JSON = {"content-type": "application/json"}


def told(**more: Any) -> SupervisorState:
    known = {"state": "running", "wanted": 2, "total_slots": 8, "restarts": {}, "most": 8} | more
    return SupervisorState(**known)


class Asking:
    """Routes, requests to them, and the orders sent to the supervisor."""

    def __init__(self) -> None:
        ledger = Ledger(processes=2, records=2)
        self.board = StatusBoard(ledger, "http://engine:8080", "0.1.0", 1, time.monotonic())
        self.board.supervisor = told()
        self.orders: list[Message] = []
        self.cancelled: list[tuple[str, bool]] = []
        self.gone = False
        self.routes = Routes(ledger, self.board, EventLog(), self._ask, self._cancel)

    def _ask(self, message: Message) -> None:
        if self.gone:
            raise LinkClosed("end of file")
        self.orders.append(message)

    async def _cancel(self, activity_id: str, *, requeue: bool) -> str:
        if self.gone:
            raise NotCancelled("nobody holds it")
        self.cancelled.append((activity_id, requeue))
        return "done"

    async def __call__(
        self, way: str, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        shown = {"host": "127.0.0.1:9464"} | (headers or {})
        path, _, query = path.partition("?")
        scope = {
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in shown.items()],
        }
        await getattr(self.routes, f"over_{way}")(scope, receive, send)
        text = sent[1]["body"]
        return sent[0]["status"], msgspec.json.decode(text) if text.startswith(b"{") else {}


@pytest.fixture
def asking() -> Asking:
    return Asking()


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET", "PATCH"])
async def test_s1_tcp_takes_no_orders_whatever_the_method(asking: Asking, order: str, method: str) -> None:
    """Faults S1: orders are taken on the unix socket alone."""
    status, said = await asking("tcp", method, f"/api/{order}", JSON, b'{"processes": 3}')
    assert status == 405
    assert said["error"]
    assert asking.orders == []


@pytest.mark.parametrize(
    ("order", "body", "asked"),
    [
        ("scale", b'{"processes": 3}', Asked("scale", 3)),
        ("reload", b"", Asked("reload")),
        ("quiet", b"", Asked("quiet")),
        ("drain", b"{}", Asked("drain")),
        ("stacks", b"", Asked("stacks")),
    ],
)
async def test_over_the_unix_socket_an_order_reaches_the_supervisor(
    asking: Asking, order: str, body: bytes, asked: Asked
) -> None:
    """As `flowherd ctl` gives it."""
    status, said = await asking("unix", "POST", f"/api/{order}", JSON, body)
    assert (status, said["accepted"], asking.orders) == (202, True, [asked])
    assert said["note"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"origin": "http://evil.example"}, 403),
        (JSON | {"origin": "http://127.0.0.1:9464"}, 403),
        ({"content-type": "application/json; charset=utf-8"}, 202),
    ],
)
async def test_s4_an_order_is_json_and_comes_from_no_page(
    asking: Asking, headers: dict[str, str], status: int
) -> None:
    """Faults S4: a request that a page's form could send is refused even on the unix socket."""
    assert (await asking("unix", "POST", "/api/reload", headers))[0] == status
    assert len(asking.orders) == (status == 202)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("10.0.3.7:9464", 200),
        ("localhost:9464", 200),
        ("flowherd:9464", 200),
        ("flowherd.jobs.svc.cluster.local:9464", 200),
        ("flowherd.jobs.svc", 200),
        ("evil.example:9464", 403),
        ("127.0.0.1.evil.example:9464", 403),
        ("local.evil.example", 403),
        ("", 403),
    ],
)
async def test_s4_a_foreign_host_name_is_refused(asking: Asking, host: str, status: int) -> None:
    """Faults S4, DNS rebinding: the browser sends the foreign name as Host."""
    assert (await asking("tcp", "GET", "/api/status", {"host": host}))[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:9464"}, 403),
        ({"origin": "http://127.0.0.1:9464"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
@pytest.mark.parametrize("page", ["/api/status", "/metrics", "/livez"])
async def test_s4_pages_of_other_origins_see_nothing(
    asking: Asking, page: str, headers: dict[str, str], status: int
) -> None:
    """Faults S4: there is no CORS, and requests that browsers send without it are refused."""
    assert (await asking("tcp", "GET", page, headers))[0] == status


async def test_no_answer_allows_another_origin(asking: Asking) -> None:
    """Faults S4: not one header of CORS."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"method": "GET", "path": "/metrics", "headers": [(b"host", b"localhost")]}
    await asking.routes.over_tcp(scope, None, send)  # type: ignore[arg-type]
    names = {name for name, _ in sent[0]["headers"]}
    assert not any(name.startswith(b"access-control") for name in names)
    assert b"x-content-type-options" in names


@given(st.binary(max_size=60), st.one_of(st.none(), st.binary(max_size=60)))
def test_s4_no_host_or_origin_makes_the_guard_fall_over(host: bytes, origin: bytes | None) -> None:
    """It replies or refuses; foreign bytes must not cause a traceback."""
    headers = {b"host": host} | ({b"origin": origin} if origin is not None else {})
    assert access_check.refusal(headers) is None or isinstance(access_check.refusal(headers), str)


@pytest.mark.parametrize(
    ("order", "body", "known", "status", "words"),
    [
        ("scale", b"", told(), 422, "processes"),
        ("scale", b'{"processes": "2"}', told(), 422, "processes"),
        ("scale", b'{"processes": 2.5}', told(), 422, "processes"),
        ("scale", b'{"processes": 3, "x": 1}', told(), 422, "x"),
        ("scale", b"[" * 900, told(), 422, "processes"),
        ("scale", b'{"processes": 0}', told(), 422, "between 1 and 8"),
        (
            "scale",
            b'{"processes": 9}',
            told(),
            422,
            "between 1 and 8 (each process needs a slot: see --concurrency",
        ),
        ("scale", b'{"processes": 70}', told(total_slots=900, most=64), 422, "between 1 and 64"),
        ("scale", b'{"processes": 2}', told(), 200, "2 processes already"),
        ("quiet", b"", told(polling=False), 200, "paused already"),
        ("resume", b"", told(), 200, "polling is on already"),
        ("resume", b"", told(polling=False), 202, "polling resumes"),
        ("drain", b"", told(state="draining"), 200, "draining already"),
        ("reload", b"", told(state="draining"), 409, "draining already"),
        ("scale", b'{"processes": 3}', told(state="finishing"), 409, "finishing already"),
        ("stacks", b"", told(state="draining"), 202, "to the log"),
        ("drain", b"", None, 503, "starting"),
    ],
)
def test_an_order_that_makes_no_sense_is_answered_with_the_reason(
    order: str, body: bytes, known: SupervisorState | None, status: int, words: str
) -> None:
    """In particular a second drain must not become a release, since scripts may repeat it."""
    answer = consider(order, body, known)
    assert answer.status == status
    assert words in answer.text
    is_passed_on = status == 202 or (status == 200 and order != "drain")  # earlier orders may be under way
    assert (answer.order is not None) == is_passed_on


async def test_a_body_without_end_is_not_read(asking: Asking) -> None:
    """An order has a few bytes."""
    assert (await asking("unix", "POST", "/api/scale", JSON, b"x" * (MAX_BODY + 1)))[0] == 413


async def test_when_the_supervisor_is_gone_the_answer_says_so(asking: Asking) -> None:
    """The keeper outlives the supervisor by some seconds."""
    asking.gone = True
    assert (await asking("unix", "POST", "/api/reload", JSON))[0] == 503


async def test_every_page_answers_on_both_ways_and_what_is_none_is_not_found(asking: Asking) -> None:
    """`/api/events` streams, and has its own test."""
    for way in ("tcp", "unix"):
        for page in PAGES - {"/api/events"}:
            assert (await asking(way, "GET", page))[0] in {200, 422, 503}, page
            assert (await asking(way, "HEAD", page))[0] in {200, 422, 503}, page
        assert (await asking(way, "GET", "/api/nothing"))[0] == 404
    assert (await asking("unix", "POST", "/api/status", JSON))[0] == 405
    assert (await asking("unix", "POST", "/api/nothing", JSON))[0] == 404
    assert (await asking("unix", "DELETE", "/api/status", JSON))[0] == 405


async def test_a_reload_reports_that_a_scaled_number_stays(asking: Asking) -> None:
    """The settings do not contain it."""
    asking.board.supervisor = told(wanted=3, configured=2)
    _, said = await asking("unix", "POST", "/api/reload", JSON)
    assert said["note"].endswith(
        "; the number of processes stays 3, as scaled, unless the settings name another"
    )
    asking.board.supervisor = told(wanted=2, configured=2)
    _, said = await asking("unix", "POST", "/api/reload", JSON)
    assert said["note"] == "replacing every process, one after the other"


async def test_what_the_activities_take_can_be_asked_for(asking: Asking) -> None:
    """For `flowherd submit`, which reports a misspelt parameter before anything is queued."""
    _, said = await asking("unix", "GET", "/api/activities")
    assert (said["worker"], said["activities"], said["polled_s_ago"]) == (None, {}, None)
    asking.board.serves = Serves("py-std", {"add": ("a", "b"), "any": None})
    _, said = await asking("unix", "GET", "/api/activities")
    assert (said["engine"], said["worker"]) == ("http://engine:8080", "py-std")
    assert said["activities"] == {"add": ["a", "b"], "any": None}


async def test_a_workflow_is_explained_by_its_id(asking: Asking) -> None:
    """With the facts about the next step."""
    status, said = await asking("tcp", "GET", "/api/explain?id=flow%2D1")
    assert (status, said["workflow_id"], said["events"], said["present"]) == (200, "flow-1", [], [])
    assert (said["engine"], said["free_slots"], said["polled_s_ago"]) == ("http://engine:8080", 0, None)
    for query in ("", "?", "?id=", "?other=1"):
        status, said = await asking("unix", "GET", f"/api/explain{query}")
        assert (status, said) == (422, {"error": "say of which workflow or activity: /api/explain?id=ID"})


async def test_one_activity_is_cancelled_by_the_keeper(asking: Asking) -> None:
    """Also while the supervisor drains, which may wait for that activity."""
    asking.board.supervisor = told(state="draining")
    status, said = await asking(
        "unix", "POST", "/api/cancel", JSON, b'{"activity_id": "a-1", "requeue": true}'
    )
    assert (status, said, asking.orders) == (200, {"note": "done", "accepted": True}, [])
    assert await asking("unix", "POST", "/api/cancel", JSON, b'{"activity_id": "a-2"}')
    assert asking.cancelled == [("a-1", True), ("a-2", False)]
    for body in (b"", b"{}", b'{"activity_id": 1}', b'{"activity_id": "a", "x": 1}'):
        assert (await asking("unix", "POST", "/api/cancel", JSON, body))[0] == 422
    asking.gone = True
    status, said = await asking("unix", "POST", "/api/cancel", JSON, b'{"activity_id": "a-1"}')
    assert (status, said["error"]) == (409, "nobody holds it")
