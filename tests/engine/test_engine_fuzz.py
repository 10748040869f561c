"""Any request gets a documented answer, never a 5xx (faults.md M16, FLOWHERD_FUZZ_CASES=2000 there)."""

from __future__ import annotations

import asyncio
import os
from urllib.parse import quote

import httpx
import msgspec
import pytest
from engine_document import document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowherd_engine.app import build_app
from flowherd_engine.engine import Engine
from flowherd_engine.settings import EngineSettings

CASES = int(os.environ.get("FLOWHERD_FUZZ_CASES", "300"))
STEP = {"key": "a", "worker": "py"}
VALID = {
    "poll": {"worker": "py", "worker_id": "w", "max_activities": 1},
    "heartbeat": {"worker_id": "w"},
    "complete": {"worker_id": "w", "output": {}, "usage": [{"provider": "p", "model": "m"}]},
    "fail": {"worker_id": "w", "error": {"code": "c", "message": "m", "retryable": True}},
    "stream_token": {"text": "t", "index": 0},
    "stream_complete": {"result": 1},
    "stream_error": {"error": "e"},
    "deploy": {"name": "f", "activities": [STEP, {**STEP, "key": "b", "depends_on": ["a"]}]},
    "submit": {"definition_name": "f", "input": {}, "unique_key": "k"},
    "signal": {"activity_key": "a", "event_name": "e"},
    "token": {"grant_type": "client_credentials", "client_id": "c", "client_secret": "s"},
}
TEXT = st.text(max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bent(draw, valid):
    """A valid body with a few of its values replaced, removed or added to."""
    body = msgspec.json.decode(msgspec.json.encode(valid))
    for _ in range(draw(st.integers(0, 2))):
        place = body
        while True:
            key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) and place else None
            if key is None or not isinstance(place[key], dict) or draw(st.booleans()):
                break
            place = place[key]
        if key is None:
            break
        if draw(st.booleans()):
            place[key] = draw(JSON)
        elif draw(st.booleans()):
            del place[key]
        else:
            place[draw(TEXT)] = draw(JSON)
    return msgspec.json.encode(body)


@pytest.fixture(scope="module")
def world():
    """(run, client, operations, ids): one engine for all cases, with work in it."""
    with asyncio.Runner() as runner:
        engine = runner.run(Engine.open(EngineSettings()))
        transport = httpx.ASGITransport(build_app(engine), raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

        async def prepare():
            await client.post("/api/v1/workflow_definitions", json=VALID["deploy"])
            made = await client.post("/api/v1/workflows", json={**VALID["submit"], "unique_key": None})
            claim = await client.post("/api/v1/workers/poll", json=VALID["poll"])
            ids = [made.json()["workflow_id"], claim.json()["activities"][0]["activity_id"]]
            operations = [
                (method, path, operation)
                for path, methods in document(engine)["paths"].items()
                for method, operation in methods.items()
            ]
            return operations, ids

        operations, ids = runner.run(prepare())
        yield runner.run, client, operations, ids
        runner.run(client.aclose())
        runner.run(engine.close())


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_answer_is_a_documented_one(world, data):
    run, client, operations, ids = world
    method, path, operation = data.draw(st.sampled_from(operations))
    name = operation["operationId"]
    segment = st.sampled_from([*ids, "a", "f", "%00", "..%2f", "x" * 300]) | TEXT.map(
        lambda text: quote(text, safe="")
    )
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", data.draw(segment) or "0")
    query = {
        parameter["name"]: data.draw(TEXT | st.integers(-5, 2000).map(str) | st.just("2026-01-01T00:00:00Z"))
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query" and data.draw(st.booleans())
    }
    body = (
        data.draw(bent(VALID[name]) | JSON.map(msgspec.json.encode) | st.binary(max_size=20))
        if name in VALID
        else b""
    )
    headers = {"content-type": data.draw(st.sampled_from(["application/json"] * 5 + ["text/plain"]))}

    async def send():
        return await client.request(method, path, params=query, content=body, headers=headers)

    reply = run(send())
    said = f"{method} {path} {query} {body!r} -> {reply.status_code} {reply.text[:200]}"
    assert reply.status_code < 500, said
    if reply.status_code in {404, 405} and str(reply.status_code) not in operation["responses"]:
        return  # the drawn segment led to no route at all
    documented = operation["responses"].get(str(reply.status_code))
    assert documented is not None, said
    media = reply.headers.get("content-type", "").partition(";")[0]
    assert "*/*" in documented.get("content", {}) or media in {*documented.get("content", {}), ""}, said
    if media == "application/json" and name != "download":
        msgspec.json.decode(reply.content)
