"""Replies against the real server's OpenAPI document: `--engine-openapi FILE|URL`, for it is not stored here.

The tests call every documented route that workers and users need. Differences are listed in
`openapi_differences.toml`; an unlisted difference fails, and so does a listed one that does not occur.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openapi_kit import Document

if TYPE_CHECKING:
    from collections.abc import Iterator

API = "/api/v1"
TOKEN = f"{API}/oauth/token"
ACTIVITY = f"{API}/activities/{{activity_id}}"
WORKFLOW = f"{API}/workflows/{{workflow_id}}"
OUTPUT = f"{WORKFLOW}/activities/{{activity_key}}/output"
FILE = f"{WORKFLOW}/activities/{{activity_key}}/files/{{filename}}"
UNKNOWN = "01930000-0000-7000-8000-000000000000"
Seen = tuple[str, str, httpx.Response]  # method, template of the path, reply


@pytest.fixture
def document(request) -> Document:
    where = request.config.getoption("engine_openapi", default=None)
    if where is None:
        pytest.skip("needs --engine-openapi FILE|URL: the server's document is not stored here")
    if where.startswith(("http://", "https://")):
        return Document(httpx.get(where, trust_env=False).raise_for_status().json())
    return Document(json.loads(Path(where).read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def listed() -> list[dict[str, str]]:
    path = Path(__file__).with_name("openapi_differences.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))["difference"]


class Walk:
    """Calls an engine and stores the replies by the template of their route."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.seen: list[Seen] = []

    def call(self, method: str, template: str, names: dict[str, str] | None = None, **request: Any) -> Any:
        reply = self.engine.http.request(method, template.format(**(names or {})), **request)
        self.seen.append((method, template, reply))
        return reply.json() if "json" in reply.headers.get("content-type", "") else None

    def whole(self) -> list[Seen]:
        """Every route that a worker or its user calls, with its usual replies and refusals."""
        for path in ("/health", "/health/ready", f"{API}/info"):
            self.call("GET", path)
        self._definitions()
        self._an_activity()
        self._refusals()
        return self.seen

    def _definitions(self) -> None:
        definition = self.engine.definition(
            {"key": "a", "settings": {"cache": False}}, worker=self.engine.name()
        )
        for _ in range(2):  # created, and unchanged
            self.call("POST", f"{API}/workflow_definitions", json=definition)
        self.call("GET", f"{API}/workflow_definitions")
        self.call("GET", f"{API}/workflow_definitions/{{name}}", {"name": definition["name"]})
        submitted = {"definition_name": definition["name"], "input": {}}
        made = self.call("POST", f"{API}/workflows", json=submitted)
        self.call("GET", WORKFLOW, {"workflow_id": made["workflow_id"]})
        self.call("GET", f"{API}/workflows", params={"definition_name": definition["name"]})

    def _an_activity(self) -> None:
        outputs = [{"name": "x"}]
        settings = {"timeout_seconds": 60, "retry": {"max_attempts": 3}}
        flow = self.engine.flow(
            {"key": "a", "outputs": outputs, "settings": settings, "parameters": {"n": 1}}
        )
        body = {"worker": flow.worker, "worker_id": "w1", "max_activities": 1}
        names = {"workflow_id": flow.workflow_id, "activity_key": "a", "filename": "f.bin"}
        names["activity_id"] = flow.claim()["activity_id"]
        self.call("POST", f"{API}/workers/poll", json=body)
        self.call("POST", f"{ACTIVITY}/heartbeat", names, json={"worker_id": "w1"})
        error = {"code": "E", "message": "it broke", "retryable": True}
        self.call("POST", f"{ACTIVITY}/fail", names, json={"worker_id": "w1", "error": error})
        flow.claim()
        self._poll_of_another()
        self.call("GET", WORKFLOW, names)
        self.call("POST", FILE, names, content=b"content", headers={"content-type": "image/png"})
        self.call("GET", FILE, names)
        usage = [{"provider": "p", "model": "m", "input_tokens": 1, "cost_usd": "0.5"}]
        done = {"worker_id": "w1", "output": {"x": 1}, "cost_usd": "0.25", "usage": usage}
        self.call("POST", f"{ACTIVITY}/complete", names, json=done)
        flow.ended()
        for template in (WORKFLOW, f"{WORKFLOW}/output", OUTPUT):
            self.call("GET", template, names)
        self.call("POST", f"{ACTIVITY}/heartbeat", names, json={"worker_id": "w2"})  # by another worker
        for verb, told in (("token", {"text": "t", "index": 0}), ("complete", {"result": 1})):
            self.call("POST", f"{ACTIVITY}/ws/{verb}", names, json=told)
        self.call("GET", f"{ACTIVITY}/ws/subscribers", names)

    def _poll_of_another(self) -> None:
        """A poll that brings something; its activity ends as failed."""
        flow = self.engine.flow({"key": "a", "settings": {"retry": {"max_attempts": 1}}})
        body = {"worker": flow.worker, "worker_id": "w1"}
        while not (found := self.call("POST", f"{API}/workers/poll", json=body)["activities"]):
            self.seen.pop()
        flow.fail(found[0], retryable=False)
        flow.ended()
        self.call("GET", WORKFLOW, {"workflow_id": flow.workflow_id})

    def _refusals(self) -> None:
        names = {"workflow_id": UNKNOWN, "activity_id": UNKNOWN, "activity_key": "a", "filename": "none"}
        self.call("POST", f"{API}/workers/poll", json={"worker": "", "worker_id": "w"})
        self.call("POST", f"{ACTIVITY}/complete", names, json={"worker_id": "w", "output": {}})
        self.call("POST", f"{API}/workflow_definitions", json={"name": "a b", "activities": []})
        self.call("POST", f"{API}/workflows", json={"definition_name": self.engine.name(), "input": {}})
        self.call("GET", f"{API}/workflows", params={"limit": 0})
        for template in (WORKFLOW, f"{WORKFLOW}/output", OUTPUT, FILE):
            self.call("GET", template, names)


def found(document: Document, seen: list[Seen]) -> Iterator[tuple[str, str, str]]:
    """Route, place in the body, and what differs."""
    for method, template, reply in seen:
        body = reply.json() if "json" in reply.headers.get("content-type", "") else reply.text
        for at, what in document.findings(method, template, reply.status_code, body):
            yield f"{method} {template}", at, what


def known(listed: list[dict[str, str]], kind: str) -> set[tuple[str, str, str]]:
    """What is listed for this kind of engine."""
    mine = [entry for entry in listed if entry["engine"] in {kind, "both"}]
    return {(entry["route"], entry["at"], entry["what"]) for entry in mine}


def test_every_documented_reply_is_as_documented_but_for_the_listed_differences(engine, document, listed):
    """The embedded engine satisfies a generated client of the real server."""
    seen = Walk(engine).whole()
    differences = set(found(document, seen))
    expected = {entry for entry in known(listed, engine.kind) if TOKEN not in entry[0]}
    print(
        f"{len(seen)} replies of {len({(m, t) for m, t, _ in seen})} routes, {len(differences)} differences"
    )
    assert sorted(differences - expected) == []
    assert sorted(expected - differences) == []


def test_token_replies_are_as_documented_but_for_the_listed_differences(closed, engine, document, listed):
    """The grant, and its refusals."""
    http, client_id, secret = closed
    good = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    forms = [good, good | {"client_secret": "wrong"}, {"grant_type": "client_credentials"}]
    seen = [("POST", TOKEN, http.post(TOKEN, data=form)) for form in forms]
    assert [reply.status_code for _, _, reply in seen] == [200, 401, 400]
    expected = {entry for entry in known(listed, engine.kind) if TOKEN in entry[0]}
    assert set(found(document, seen)) == expected


def test_the_comparison_itself_finds_what_differs():
    """A comparison that finds nothing proves nothing."""
    item = {"type": "object", "required": ["n", "id"], "properties": {"n": {"type": ["integer", "null"]}}}
    item["properties"]["id"] = {"type": "string", "format": "uuid"}
    content = {
        "application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}}}
    }
    operation = {"get": {"responses": {"200": {"content": content}}}}
    document = Document({"paths": {"/x": operation}, "components": {"schemas": {"Item": item}}})
    assert document.findings("GET", "/x", 200, [{"n": 1, "id": UNKNOWN}, {"n": None, "id": UNKNOWN}]) == []
    assert document.findings("GET", "/x", 200, [{"n": True, "id": "7", "more": 1}, {}]) == [
        ("$[].id", "missing"),
        ("$[].id", "no uuid"),
        ("$[].more", "not documented"),
        ("$[].n", "boolean instead of integer or null"),
        ("$[].n", "missing"),
    ]
    assert document.findings("GET", "/x", 201, []) == [("", "status 201 is not documented")]
    assert document.findings("GET", "/y", 200, []) == [("", "the route is not documented")]
