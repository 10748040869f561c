"""Error bodies, limits and headers exactly as the server sends them: protocol.md §1."""

from __future__ import annotations

import json

import pytest

POLL = "/api/v1/workers/poll"
ACTIVITY = "/api/v1/activities/01930000-0000-7000-8000-000000000000"
JSON = {"content-type": "application/json"}


def nested(depth: int) -> bytes:
    """A body for `complete` whose output nests to `depth` levels in all."""
    inner = b"[" * (depth - 2) + b"]" * (depth - 2)
    return b'{"worker_id":"w","output":{"x":' + inner + b"}}"


@pytest.mark.parametrize(
    ("body", "status", "begins"),
    [
        (b"{", 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"py","worker_id":"w"}x', 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"\\ud800","worker_id":"w"}', 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"\xff","worker_id":"w"}', 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"py","worker_id":"w","z":NaN}', 400, "Failed to parse the request body as JSON: "),
        (b'{"worker":"py"}', 422, "Failed to deserialize the JSON body into the target type: "),
        (b'{"worker":1,"worker_id":"w"}', 422, "Failed to deserialize the JSON body into the target type: "),
        (b'{"worker":"py","worker_id":"w","max_activities":-1}', 422, "Failed to deserialize the JSON body"),
        (b"[]", 422, "Failed to deserialize the JSON body into the target type: "),
    ],
)
async def test_what_comes_before_a_handler_is_refused_in_text(api, body, status, begins):
    """C8, shape B."""
    reply = await api.http.post(POLL, content=body, headers=JSON)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert reply.text.startswith(begins)


async def test_a_number_beyond_a_double_is_a_syntax_error(api):
    """protocol.md §1.4 B."""
    body = b'{"worker_id":"w","output":{"x":1e999}}'
    reply = await api.http.post(f"{ACTIVITY}/complete", content=body, headers=JSON)
    assert (reply.status_code, reply.text.startswith("Failed to parse")) == (400, True)


async def test_broken_rules_are_refused_in_the_envelope_field_by_field(api):
    """C8, shape A."""
    reply = await api.http.post(POLL, json={"worker": "", "worker_id": "", "max_activities": 101})
    assert reply.status_code == 422
    assert reply.json() == {
        "error": {
            "code": "VALIDATION_ERROR",
            "message": "Validation failed",
            "details": {
                "field_errors": {
                    "worker": ["Worker type cannot be empty"],
                    "worker_id": ["Worker ID cannot be empty"],
                    "max_activities": ["max_activities must be at most 100"],
                }
            },
        }
    }


@pytest.mark.parametrize(
    ("verb", "body", "fields"),
    [
        ("heartbeat", {"worker_id": ""}, {"worker_id"}),
        ("complete", {"worker_id": "w", "output": None}, {"output"}),
        ("complete", {"worker_id": "w", "output": []}, {"output"}),
        ("complete", {"worker_id": "", "output": {}, "cost_usd": -1}, {"worker_id", "cost_usd"}),
        (
            "complete",
            {"worker_id": "w", "output": {}, "usage": [{"provider": "", "model": "", "cost_usd": "-2"}]},
            {"usage[0].provider", "usage[0].model", "usage[0].cost_usd"},
        ),
        (
            "fail",
            {"worker_id": "w", "error": {"code": "", "message": "", "retryable": True}},
            {"error.code", "error.message"},
        ),
    ],
)
async def test_reports_name_the_fields_they_break(api, verb, body, fields):
    reply = await api.http.post(f"{ACTIVITY}/{verb}", json=body)
    assert reply.status_code == 422
    assert set(reply.json()["error"]["details"]["field_errors"]) == fields


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("complete", {"worker_id": "w"}),
        ("complete", {"worker_id": "w", "output": {}, "cost_usd": "many"}),
        ("complete", {"worker_id": "w", "output": {}, "cost_usd": "NaN"}),
        ("complete", {"worker_id": "w", "output": {}, "cost_usd": "1e40"}),
        (
            "complete",
            {"worker_id": "w", "output": {}, "usage": [{"provider": "p", "model": "m", "input_tokens": -1}]},
        ),
        (
            "complete",
            {
                "worker_id": "w",
                "output": {},
                "usage": [{"provider": "p", "model": "m", "output_tokens": 2**32}],
            },
        ),
        ("fail", {"worker_id": "w", "error": {"code": "c", "message": "m"}}),
    ],
)
async def test_wrong_types_in_reports_are_a_422_of_text(api, verb, body):
    """Both 422 shapes exist (protocol.md §1.4)."""
    reply = await api.http.post(f"{ACTIVITY}/{verb}", json=body)
    assert (reply.status_code, reply.headers["content-type"]) == (422, "text/plain; charset=utf-8")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_another_content_type_is_refused(api, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    reply = await api.http.post(POLL, content=b"{}", headers=headers)
    assert reply.status_code == 415
    assert reply.text == "Expected request with `Content-Type: application/json`"


@pytest.mark.parametrize("content_type", ["application/vnd.x+json", "Application/JSON; charset=utf-8"])
async def test_json_by_another_name_is_json(api, content_type):
    body = json.dumps({"worker": "py", "worker_id": "w"})
    assert (
        await api.http.post(POLL, content=body, headers={"content-type": content_type})
    ).status_code == 200


async def test_fifty_mebibytes_pass_and_one_byte_more_does_not(api, step):
    """C9."""
    await api.run(step())
    activity_id = await api.claim()
    frame = b'{"worker_id":"w1","output":{"x":"%s"}}'
    fill = 52_428_800 - len(frame % b"")
    url = f"/api/v1/activities/{activity_id}/complete"
    over = await api.http.post(url, content=frame % (b"a" * (fill + 1)), headers=JSON)
    assert (over.status_code, over.text) == (413, "Failed to buffer the request body: length limit exceeded")
    assert over.headers["content-type"].startswith("text/plain")
    assert (await api.http.post(url, content=frame % (b"a" * fill), headers=JSON)).status_code == 200


async def test_a_body_in_parts_is_read_whole(api):
    async def parts():
        yield b'{"worker":"py",'
        yield b'"worker_id":"w"}'

    assert (await api.http.post(POLL, content=parts(), headers=JSON)).status_code == 200


async def test_nesting_ends_at_the_servers_depth(api, step):
    """protocol.md §6.5; a bracket inside a string is no level."""
    await api.run(step())
    url = f"/api/v1/activities/{await api.claim()}/complete"
    deep = await api.http.post(url, content=nested(128), headers=JSON)
    assert (deep.status_code, "recursion limit" in deep.text) == (400, True)
    text = b'{"worker_id":"stranger","output":{"x":"' + b"[" * 500 + b'\\"]"}}'
    assert (await api.http.post(url, content=text, headers=JSON)).status_code == 409
    assert (await api.http.post(url, content=b"[" * 100_000, headers=JSON)).status_code in {400, 422}
    right = nested(127).replace(b'"w"', b'"w1"')
    assert (await api.http.post(url, content=right, headers=JSON)).status_code == 200


async def test_integers_beyond_64_bits_become_floats(api, step):
    """protocol.md §6.5: silently, as on the server."""
    workflow_id = await api.run(step())
    numbers = [2**64 - 1, 2**64, -(2**63), -(2**63) - 1]
    assert await api.complete(await api.claim(), n=numbers) == 200
    (state,) = (await api.status(workflow_id))["activities"]
    found = state["outputs"][0]["value"]
    assert [type(number) for number in found] == [int, float, int, float]
    assert found == [2**64 - 1, float(2**64), -(2**63), float(-(2**63) - 1)]


async def test_nul_is_refused_where_the_server_would_hang(api, step):
    """protocol.md §0 fact 15; an escaped backslash before u0000 is no NUL."""
    await api.run(step())
    url = f"/api/v1/activities/{await api.claim()}/complete"
    for bad in ('{"worker_id":"w1","output":{"x":"a\\u0000"}}', '{"worker_id":"w1","output":{"\\u0000":1}}'):
        reply = await api.http.post(url, content=bad, headers=JSON)
        assert (reply.status_code, list(reply.json()["error"]["details"]["field_errors"])) == (
            422,
            ["output"],
        )
    good = '{"worker_id":"w1","output":{"x":"a\\\\u0000"}}'
    assert (await api.http.post(url, content=good, headers=JSON)).status_code == 200


async def test_a_path_that_is_no_uuid_is_refused_in_text(api):
    reply = await api.http.post("/api/v1/activities/x1/heartbeat", json={"worker_id": "w"})
    assert reply.status_code == 400
    assert reply.text.startswith("Invalid URL: ")


async def test_other_spellings_of_a_uuid_are_the_same_activity(api, step):
    await api.run(step())
    activity_id = await api.claim()
    assert await api.beat(activity_id.replace("-", "").upper()) == 200


async def test_unknown_paths_need_no_token_and_wrong_methods_do(make_api):
    """protocol.md §1.2."""
    api = await make_api(client_id="c", client_secret="s")
    assert (await api.http.get("/nope")).json()["error"]["code"] == "NOT_FOUND"
    assert (await api.http.get(POLL)).status_code == 401
    assert (await api.http.put("/health")).status_code == 405
    open_api = await make_api()
    reply = await open_api.http.get(POLL)
    assert (reply.status_code, reply.content) == (405, b"")


async def test_the_request_id_is_echoed_or_made(api):
    """C16."""
    assert (await api.http.get("/health", headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
    assert len((await api.http.get("/nope")).headers["x-request-id"]) == 36


async def test_a_draining_engine_answers_503_after_the_token_check(make_api):
    """C15, shape C: the lower-case code; the token route still answers."""
    api = await make_api(client_id="c", client_secret="s")
    grant = {"grant_type": "client_credentials", "client_id": "c", "client_secret": "s"}
    api.engine.draining = True
    token = (await api.http.post("/api/v1/oauth/token", json=grant)).json()["access_token"]
    assert (await api.http.post(POLL, json={})).status_code == 401
    reply = await api.http.post(POLL, json={}, headers={"authorization": f"Bearer {token}"})
    assert reply.status_code == 503
    assert reply.json() == {
        "error": {
            "code": "service_unavailable",
            "message": "Server is shutting down, please retry later",
        }
    }


async def test_streaming_calls_answer_with_empty_bodies(api):
    """C14."""
    token = await api.http.post(f"{ACTIVITY}/ws/token", json={"text": "a", "index": 0})
    assert token.json() == {"subscribers": 0}
    for verb, body in (("complete", {"result": None}), ("error", {"error": "e"})):
        reply = await api.http.post(f"{ACTIVITY}/ws/{verb}", json=body)
        assert (reply.status_code, reply.content) == (200, b"")
    assert (await api.http.get(f"{ACTIVITY}/ws/subscribers")).json() == {"count": 0}
    assert (await api.http.post(f"{ACTIVITY}/ws/token", json={"text": "a", "index": -1})).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"host": ""},
        {"origin": "http://127.0.0.1:8080"},
    ],
)
async def test_web_pages_and_rebound_names_are_refused(api, headers):
    """faults.md S4: no page in a developer's browser may drive the engine."""
    reply = await api.http.get("/health", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
async def test_loopback_names_pass(api, host):
    reply = await api.http.get("/health", headers={"host": host})
    assert reply.status_code == 200
    assert not any(name.startswith("access-control") for name in reply.headers)


async def test_a_malformed_definition_is_explained(api):
    for body in ("name: [", '{"name": 3, "activities": []}', "x"):
        reply = await api.http.post("/api/v1/workflow_definitions", content=body)
        assert reply.status_code == 422
        assert reply.json()["error"]["details"]["field_errors"]["definition"][0].startswith("Failed to parse")
    reply = await api.http.post("/api/v1/workflow_definitions", content=b"\xff")
    assert (reply.status_code, reply.headers["content-type"]) == (400, "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "status", "shape"),
    [
        ({"definition_name": "none", "input": {}}, 404, "NOT_FOUND"),
        ({"definition_name": "none", "input": {}, "version": "20260101.000000.000000"}, 404, "NOT_FOUND"),
        ({"definition_name": "none", "input": {}, "version": "1"}, 400, "BAD_REQUEST"),
        ({"definition_name": "", "input": {}}, 422, "VALIDATION_ERROR"),
        ({"definition_name": "x", "input": []}, 422, "VALIDATION_ERROR"),
        ({"definition_name": "x", "input": {}, "unique_key": ""}, 422, "VALIDATION_ERROR"),
        ({"definition_name": "x", "input": {}, "unique_key": "é" * 128}, 422, "VALIDATION_ERROR"),
        ({"definition_name": "x"}, 422, None),
    ],
)
async def test_a_bad_submission_is_refused_in_its_shape(api, body, status, shape):
    reply = await api.http.post("/api/v1/workflows", json=body)
    assert reply.status_code == status
    if shape is None:
        assert reply.headers["content-type"].startswith("text/plain")
    else:
        assert reply.json()["error"]["code"] == shape
