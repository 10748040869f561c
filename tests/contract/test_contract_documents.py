"""C12-C14: definitions, workflows, outputs, files and streams (protocol.md §8-§13)."""

from __future__ import annotations

import re

import pytest

UNKNOWN = "01930000-0000-7000-8000-000000000000"
ACTIVITY = f"/api/v1/activities/{UNKNOWN}"
SUMMARY_KEYS = {"id", "status", "definition_name", "created_at", "updated_at", "error_message"}
WORKFLOW_KEYS = SUMMARY_KEYS | {"activities", "state_data"}
FILE_KEYS = {"workflow_id", "activity_key", "filename", "size", "content_type", "created_at"}


def is_text(reply) -> bool:
    return reply.headers["content-type"].startswith("text/plain")


def code(reply) -> str:
    return reply.json()["error"]["code"]


def test_c12_deploying_twice_changes_nothing(engine):
    definition = engine.definition({"key": "a"}, worker="py")
    first, second = engine.deploy(definition), engine.deploy(definition)
    assert (first.status_code, second.status_code) == (201, 200)
    assert set(first.json()) == {"name", "version", "created_at"}
    assert re.fullmatch(r"\d{8}\.\d{6}\.\d{6}", first.json()["version"])
    assert second.json()["unchanged"] is True
    assert second.json()["version"] == first.json()["version"]


def test_c12_old_content_keeps_its_old_version(engine):
    old = engine.definition({"key": "a"}, worker="py")
    new = {**old, "activities": [{"key": "b", "worker": "py"}]}
    version = engine.deploy(old).json()["version"]
    latest = engine.deploy(new).json()["version"]
    assert engine.deploy(old).json()["version"] == version != latest
    assert engine.http.get(f"/api/v1/workflow_definitions/{old['name']}").json()["version"] == latest


@pytest.mark.parametrize(
    "definition",
    [
        {"name": "a b", "activities": [{"key": "a"}]},
        {"name": "x", "activities": []},
        {"name": "x", "activities": [{"key": "a"}, {"key": "a"}]},
        {"name": "x", "activities": [{"key": "a", "depends_on": ["z"]}]},
        {"name": "x", "activities": [{"key": "a", "settings": {"delay": "1s", "scheduled_for": "x"}}]},
        {"activities": [{"key": "a"}]},
    ],
)
def test_c12_broken_definitions_are_a_422_envelope(engine, definition):
    reply = engine.deploy(definition)
    assert (reply.status_code, code(reply)) == (422, "VALIDATION_ERROR")


def test_c12_a_loop_is_known_to_the_server_alone(engine):
    edge = {"activity_key": "b", "condition": "{{b.again == true}}"}
    steps = ({"key": "a", "depends_on": [edge], "iteration_limit": 2}, {"key": "b", "depends_on": ["a"]})
    assert engine.deploy(engine.definition(*steps, worker="py")).status_code == engine.difference("loop")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 404),
        ({"version": "20260101.000000.000000"}, 404),
        ({"input": []}, 422),
        ({"unique_key": ""}, 422),
        ({"unique_key": "é" * 128}, 422),
    ],
)
def test_c12_bad_submissions(engine, fields, status):
    reply = engine.submit(engine.name(), **fields)
    assert (reply.status_code, "error" in reply.json()) == (status, True)


def test_c12_a_submission_without_input_is_text(engine):
    reply = engine.http.post("/api/v1/workflows", json={"definition_name": engine.name()})
    assert (reply.status_code, is_text(reply)) == (422, True)


def test_c12_a_malformed_version(engine):
    definition = engine.definition({"key": "a"}, worker="py")
    engine.deploy(definition)
    reply = engine.submit(definition["name"], version="1")
    assert reply.status_code == engine.difference("malformed-version")


def test_c12_a_unique_key_is_freed_by_failure(engine):
    key = engine.name()
    flow = engine.flow({"key": "a", "settings": {"retry": {}}}, unique_key=key)
    name = flow.status()["definition_name"]
    twice = engine.submit(name, unique_key=key)
    assert (twice.status_code, code(twice)) == (409, "CONFLICT")
    flow.fail(flow.claim())
    assert flow.ended()["status"] == "failed"
    assert engine.submit(name, unique_key=key).status_code == 201


def test_c12_the_status_document(engine, wait_until):
    flow = engine.flow({"key": "a"}, {"key": "b", "depends_on": ["a"]})
    item = flow.claim()
    found = flow.status()
    assert set(found) == WORKFLOW_KEYS
    assert (found["id"], found["status"], found["error_message"]) == (flow.workflow_id, "running", None)
    states = {state["activity_key"]: state for state in found["activities"]}
    assert set(states["a"]) == {"activity_key", "status", "outputs", "error", "started_at", "completed_at"}
    assert (states["a"]["status"], states["b"]["status"]) == ("pending", "not_scheduled")
    assert states["a"]["outputs"] is None
    flow.complete(item, x=1)
    wait_until(lambda: [state for state in flow.status()["activities"] if state["status"] == "completed"])
    assert engine.http.get(f"/api/v1/workflows/{UNKNOWN}").status_code == 404


def test_c12_outputs_are_arrays_and_decimals_are_strings(engine):
    flow = engine.flow()
    base = f"/api/v1/workflows/{flow.workflow_id}"
    item = flow.claim()
    assert code(engine.http.get(f"{base}/output")) == "BAD_REQUEST"
    assert code(engine.http.get(f"{base}/activities/a/output")) == "BAD_REQUEST"
    flow.complete(item, x=1)
    flow.ended()
    whole = engine.http.get(f"{base}/output").json()
    assert whole["outputs"]["a"]["output"] == [{"name": "x", "type": "value", "value": 1}]
    assert (whole["terminal_outputs"], float(whole["total_cost_usd"])) == (["a"], 0)
    one = engine.http.get(f"{base}/activities/a/output").json()
    assert isinstance(one["cost_usd"], str)
    assert one["output"] == whole["outputs"]["a"]["output"]
    assert one["files"] == []


def test_c12_lists_page_and_filter(engine):
    definition = engine.definition({"key": "a"}, worker=engine.name())
    engine.deploy(definition)
    for _ in range(3):
        engine.submit(definition["name"])
    query = {"definition_name": definition["name"], "limit": 2, "offset": 1}
    page = engine.http.get("/api/v1/workflows", params=query).json()
    assert (page["total"], page["count"], page["limit"], page["offset"]) == (3, 2, 2, 1)
    assert set(page["workflows"][0]) == SUMMARY_KEYS
    assert engine.http.get("/api/v1/workflows", params={"limit": 0}).status_code == 422
    bad = engine.http.get("/api/v1/workflows", params={"created_after": "yesterday"})
    assert (bad.status_code, is_text(bad)) == (400, True)


def test_c12_a_signal_reaches_its_activity_or_is_lost(engine, wait_until):
    wait = {"wait_for_signal": {"event_name": "go", "timeout_seconds": 60}}
    flow = engine.flow({"key": "a", "settings": wait})
    wait_until(lambda: [state for state in flow.status()["activities"] if state["status"] == "waiting"])
    url = f"/api/v1/workflows/{flow.workflow_id}/signal"
    missed = engine.http.post(url, json={"activity_key": "a", "event_name": "other"})
    assert (missed.status_code, missed.json()["signaled"]) == (200, False)
    sent = engine.http.post(url, json={"activity_key": "a", "event_name": "go", "data": [1]})
    assert sent.json() == {"signaled": True, "message": "Activity signaled successfully"}
    if engine.difference("signal-data") == "delivered":
        assert flow.claim()["signal_data"] == [1]
    else:
        assert flow.ended()["status"] == "failed"


def test_c12_a_template_error_fails_the_workflow(engine):
    flow = engine.flow({"key": "a"}, {"key": "b", "depends_on": ["a"], "parameters": {"x": "{{no.y}}"}})
    flow.complete(flow.claim())
    found = flow.ended()
    failed = [state["activity_key"] for state in found["activities"] if state["status"] == "failed"]
    assert (found["status"], failed) == ("failed", [engine.difference("template-error")])


def test_c12_an_undefined_name_is_null_where_it_is_the_whole_string(engine):
    parameters = {"a": "{{INPUT.missing}}", "b": "{{INPUT.missing | default('d')}}"}
    assert engine.flow({"key": "a", "parameters": parameters}).claim()["parameters"] == {"a": None, "b": "d"}


def test_c12_a_key_with_a_hyphen_is_one_name_in_a_template(engine):
    """Keys may have hyphens (`^[A-Za-z0-9_-]+$`), and `a-b` is a subtraction elsewhere."""
    parameters = {"whole": "{{my-step.out}}", "text": "is {{my-step.out}}", "less": "{{my-step.out-1}}"}
    flow = engine.flow({"key": "my-step"}, {"key": "b", "depends_on": ["my-step"], "parameters": parameters})
    flow.complete(flow.claim(), out=7)
    if engine.difference("hyphen-in-template") == "one name":
        assert flow.claim()["parameters"] == {"whole": 7, "text": "is 7", "less": 6}
    else:
        assert "undefined value" in flow.ended()["error_message"]


@pytest.mark.parametrize("value", [0, 2.5, 2**53, True, None, "x", [1, [2]], {"z": 1, "a": {"k": []}}])
def test_c12_a_string_that_is_one_template_keeps_the_type_of_its_value(engine, value):
    """protocol.md §11.3."""
    flow = engine.flow({"key": "a"}, {"key": "b", "depends_on": ["a"], "parameters": {"v": "{{ a.out }}"}})
    flow.complete(flow.claim(), out=value)
    found = flow.claim()["parameters"]["v"]
    assert (found, type(found)) == (value, type(value))


def test_c12_expressions_and_filters_are_evaluated(engine):
    """What users write in definitions."""
    templates = {
        "sum": "{{INPUT.n + 1}}",
        "test": "{{INPUT.n > 2 and INPUT.s == 'x'}}",
        "filter": "{{INPUT.s | upper}}",
        "join": "{{INPUT.list | join('-')}}",
        "item": "{{INPUT.list[1]}}",
        "choice": "{{'many' if INPUT.n > 2 else 'few'}}",
        "text": "{{INPUT.n}} of {{INPUT.s}}",
    }
    given = {"n": 3, "s": "x", "list": [1, 2]}
    found = engine.flow({"key": "a", "parameters": templates}, input=given).claim()["parameters"]
    assert found == {
        "sum": 4,
        "test": True,
        "filter": "X",
        "join": "1-2",
        "item": 2,
        "choice": "many",
        "text": "3 of x",
    }


def test_c13_an_upload_is_raw_and_overwrites(engine):
    base = f"/api/v1/workflows/{UNKNOWN}/activities/a/files/{engine.name()}"
    for content in (b"old" * 100_000, b"new"):
        sent = engine.http.post(base, content=content, headers={"content-type": "image/png"})
        assert (sent.status_code, sent.json()["size"]) == (201, len(content))
        assert set(sent.json()) == FILE_KEYS
        got = engine.http.get(base)
        assert (got.content, got.headers["content-type"]) == (content, "image/png")
        assert got.headers["content-length"] == str(len(content))


def test_c13_a_file_that_is_not_there_is_a_404(engine):
    reply = engine.http.get(f"/api/v1/workflows/{UNKNOWN}/activities/a/files/none")
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, "Not found: File 'none' not found")


def test_c14_streams_end_with_an_empty_200(engine):
    token = engine.http.post(f"{ACTIVITY}/ws/token", json={"text": "t", "index": 0})
    assert token.json() == {"subscribers": 0}
    for verb, body in (("complete", {"result": 1}), ("error", {"error": "e"})):
        reply = engine.http.post(f"{ACTIVITY}/ws/{verb}", json=body)
        assert (reply.status_code, reply.content) == (200, b"")
    assert engine.http.get(f"{ACTIVITY}/ws/subscribers").json() == {"count": 0}
