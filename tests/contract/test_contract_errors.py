"""C8, C9, C15, C16: error shapes, limits and headers (protocol.md §1)."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

POLL = "/api/v1/workers/poll"
ACTIVITY = "/api/v1/activities/01930000-0000-7000-8000-000000000000"
JSON = {"content-type": "application/json"}
LIMIT = 52_428_800


def is_text(reply) -> bool:
    return reply.headers["content-type"].startswith("text/plain")


def code(reply) -> str:
    return reply.json()["error"]["code"]


def test_every_row_of_the_contract_has_a_test():
    """faults.md M20: 17 of 17."""
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    rows = {int(row) for row in re.findall(r"^def test_c(\d+)_", text, re.MULTILINE)}
    assert rows == set(range(1, 18))


@pytest.mark.parametrize(
    ("body", "status", "begins"),
    [
        (b"{", 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"\\ud800","worker_id":"w"}', 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"w","worker_id":NaN}', 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"w"}', 422, "Failed to deserialize the JSON body into the target type: "),
        (b'{"worker":1,"worker_id":"w"}', 422, "Failed to deserialize the JSON body into the target type: "),
        (b'{"worker":"w","worker_id":"w","max_activities":-1}', 422, "Failed to deserialize the JSON body"),
    ],
)
def test_c8_extractor_errors_are_text(engine, body, status, begins):
    reply = engine.http.post(POLL, content=body, headers=JSON)
    assert (reply.status_code, is_text(reply)) == (status, True)
    assert reply.text.startswith(begins)


def test_c8_bytes_after_the_document(engine):
    reply = engine.http.post(POLL, content=b'{"worker":"w","worker_id":"w"} x', headers=JSON)
    assert reply.status_code == engine.difference("trailing-bytes")


def test_c8_validation_errors_are_the_envelope(engine):
    reply = engine.http.post(POLL, json={"worker": "", "worker_id": "", "max_activities": 101})
    assert (reply.status_code, code(reply)) == (422, "VALIDATION_ERROR")
    assert reply.json()["error"]["details"]["field_errors"] == {
        "worker": ["Worker type cannot be empty"],
        "worker_id": ["Worker ID cannot be empty"],
        "max_activities": ["max_activities must be at most 100"],
    }


@pytest.mark.parametrize(
    ("verb", "body", "fields"),
    [
        ("heartbeat", {"worker_id": ""}, {"worker_id"}),
        ("complete", {"worker_id": "w", "output": None}, {"output"}),
        ("complete", {"worker_id": "w", "output": {}, "cost_usd": -1}, {"cost_usd"}),
        (
            "fail",
            {"worker_id": "w", "error": {"code": "", "message": "", "retryable": True}},
            {"error.code", "error.message"},
        ),
    ],
)
def test_c8_reports_name_their_broken_fields(engine, verb, body, fields):
    reply = engine.http.post(f"{ACTIVITY}/{verb}", json=body)
    assert (reply.status_code, set(reply.json()["error"]["details"]["field_errors"])) == (422, fields)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("complete", {"worker_id": "w"}),
        ("complete", {"worker_id": "w", "output": {}, "cost_usd": "many"}),
        (
            "complete",
            {"worker_id": "w", "output": {}, "usage": [{"provider": "p", "model": "m", "input_tokens": -1}]},
        ),
        ("fail", {"worker_id": "w", "error": {"code": "c", "message": "m"}}),
    ],
)
def test_c8_wrong_types_in_reports_are_text(engine, verb, body):
    reply = engine.http.post(f"{ACTIVITY}/{verb}", json=body)
    assert (reply.status_code, is_text(reply)) == (422, True)


@pytest.mark.parametrize(
    "content",
    [
        b'{"worker_id":"w","output":{"x":1e999}}',
        b'{"worker_id":"w","output":{"x":' + b"[" * 200 + b"]" * 200 + b"}}",
    ],
)
def test_c8_numbers_and_nesting_beyond_bounds_are_a_400(engine, content):
    reply = engine.http.post(f"{ACTIVITY}/complete", content=content, headers=JSON)
    assert (reply.status_code, is_text(reply)) == (400, True)


def test_c8_another_content_type_is_a_415(engine):
    reply = engine.http.post(POLL, content=b"{}", headers={"content-type": "text/plain"})
    assert (reply.status_code, is_text(reply)) == (415, True)
    assert reply.text.startswith("Expected request with `Content-Type: application/json`")


def test_c8_paths_and_methods(engine):
    bad = engine.http.post("/api/v1/activities/x/heartbeat", json={"worker_id": "w"})
    assert (bad.status_code, bad.text.startswith("Invalid URL: ")) == (400, True)
    assert code(engine.http.get("/api/v1/nothing/here")) == "NOT_FOUND"
    wrong = engine.http.get(POLL)
    assert (wrong.status_code, wrong.content) == (405, b"")


def test_c8_nul_is_refused_or_breaks_the_server(engine):
    flow = engine.flow()
    assert flow.complete(flow.claim(), x="\x00").status_code == engine.difference("nul-in-output")


@pytest.mark.parametrize(
    ("header", "value", "id_"),
    [("host", "evil.example", "host-header"), ("origin", "http://evil.example", "origin-header")],
)
def test_c8_browsers_are_refused_by_the_embedded_engine(engine, header, value, id_):
    assert engine.http.get("/health", headers={header: value}).status_code == engine.difference(id_)


def test_c9_the_limit_is_fifty_mebibytes(engine):
    frame = b'{"worker_id":"w","output":{"x":"%s"}}'
    fill = LIMIT - len(frame % b"")
    at = engine.http.post(f"{ACTIVITY}/complete", content=frame % (b"a" * fill), headers=JSON)
    assert at.status_code == 404
    over = engine.http.post(f"{ACTIVITY}/complete", content=frame % (b"a" * (fill + 1)), headers=JSON)
    assert (over.status_code, is_text(over)) == (413, True)
    assert over.text == "Failed to buffer the request body: length limit exceeded"


def half_sent(url: str, many: int):
    """Connections whose request lacks its last line."""
    target = urlsplit(url)
    head = f"POST {POLL} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: 0\r\n".encode()
    for _ in range(many):
        connection = socket.create_connection((target.hostname, target.port), timeout=10)
        connection.sendall(head)
        yield connection


def test_c15_a_stopping_engine_says_503_in_its_own_shape(stoppable):
    """Open connections get it; new ones are refused (protocol.md §1.4 C)."""
    pid, url = stoppable
    assert httpx.get(f"{url}/health").status_code == 200
    replies = []
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connection) for connection in half_sent(url, 60)]
        os.kill(pid, signal.SIGTERM)
        for connection in connections:  # one after the other: the signal takes its time to arrive
            threading.Event().wait(0.01)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.sendall(b"\r\n")
                reply = http.client.HTTPResponse(connection)
                reply.begin()
                replies.append((reply.status, reply.read()))
    refused = [body for status, body in replies if status == 503]
    assert refused, replies
    assert json.loads(refused[0]) == {
        "error": {"code": "service_unavailable", "message": "Server is shutting down, please retry later"}
    }


def test_c16_the_request_id_is_echoed_or_made(engine):
    mine = engine.http.get("/health", headers={"x-request-id": "mine"})
    assert mine.headers["x-request-id"] == "mine"
    assert re.fullmatch(r"[0-9a-f-]{36}", engine.http.get("/health").headers["x-request-id"])


def test_the_known_differences_say_what_they_are(engine, differences):
    """Each names its row, both behaviours and the reason."""
    for id_, difference in differences.items():
        assert set(difference) == {"row", "embedded", "server", "why"}, id_
        assert difference["embedded"] != difference["server"]
    assert engine.kind in {"embedded", "server"}
