"""Definitions, scheduling, status and outputs: protocol.md §8, §11-§13."""

from __future__ import annotations

import pytest

from flowherd_engine import scheduling


async def test_the_next_step_is_there_at_once_with_the_output_in_its_own_type(api, step):
    """The completion, its event and the scheduling are one transaction (a known difference to the server)."""
    workflow_id = await api.run(
        step(parameters={"url": "{{INPUT.url}}", "n": "{{ INPUT.n }}"}),
        step("b", depends_on=["a"], parameters={"v": "{{a.out}}", "text": "got {{a.out.x}}, {{a.status}}"}),
        input={"url": "u", "n": [1, 2.5]},
    )
    (first,) = await api.poll()
    assert first["parameters"] == {"url": "u", "n": [1, 2.5]}
    await api.complete(first["activity_id"], out={"x": 7})
    (second,) = await api.poll()
    assert second["parameters"] == {"v": {"x": 7}, "text": "got 7, completed"}
    await api.complete(second["activity_id"])
    assert (await api.status(workflow_id))["status"] == "completed"


async def test_a_step_waits_for_all_its_dependencies(api, step):
    await api.run(step("a"), step("b"), step("c", depends_on=["a", "b"]), step("d", depends_on=["c"]))
    a, b = await api.poll()
    await api.complete(a["activity_id"])
    assert await api.poll() == []
    await api.complete(b["activity_id"])
    assert [item["activity_key"] for item in await api.poll()] == ["c"]


async def test_dependency_of_is_the_same_edge_from_the_other_side(api, step):
    await api.run(step("late"), step("early", dependency_of=["late"]))
    assert [item["activity_key"] for item in await api.poll()] == ["early"]


async def test_after_a_failure_others_go_on_and_dependents_are_skipped(api, step):
    """protocol.md §11.3: failed once all are terminal."""
    workflow_id = await api.run(
        step("bad", settings={"retry": {}}), step("good"), step("after", depends_on=["bad"])
    )
    bad, good = await api.poll()
    await api.fail(bad["activity_id"])
    assert await api.states(workflow_id) == {"bad": "failed", "good": "pending", "after": "skipped"}
    assert (await api.status(workflow_id))["status"] == "running"
    await api.complete(good["activity_id"])
    found = await api.status(workflow_id)
    assert (found["status"], found["error_message"]) == ("failed", "One or more activities failed")
    (listed,) = (await api.http.get("/api/v1/workflows?status=failed")).json()["workflows"]
    assert listed["error_message"] == "it broke"


async def test_conditions_choose_the_branch(api, step):
    workflow_id = await api.run(
        step("check"),
        step("yes", depends_on=[{"activity_key": "check", "condition": "{{check.ok}}"}]),
        step("no", depends_on=[{"activity_key": "check", "conditions": ["{{not check.ok}}"]}]),
        step("rescue", depends_on=[{"activity_key": "no", "condition": "{{no.status == 'skipped'}}"}]),
    )
    await api.complete(await api.claim(), ok=True)
    assert await api.states(workflow_id) == {
        "check": "completed",
        "yes": "pending",
        "no": "skipped",
        "rescue": "pending",
    }


@pytest.mark.parametrize("where", ["root", "dependent"])
async def test_a_template_error_fails_its_own_step_at_once(api, step, where):
    """The server hangs here until its timeout (protocol.md §8.5); a known difference."""
    broken = step("b", parameters={"x": "v={{nowhere.y}}"}, depends_on=[] if where == "root" else ["a"])
    workflow_id = await api.run(step("a"), broken)
    await api.complete(await api.claim())
    found = await api.status(workflow_id)
    assert found["status"] == "failed"
    (error,) = [state["error"] for state in found["activities"] if state["activity_key"] == "b"]
    assert "'nowhere.y' is undefined" in error


async def test_a_template_that_builds_too_much_fails_its_own_step_alone(api, step):
    """N20: the engine lives, the neighbours run."""
    workflow_id = await api.run(
        step("long", parameters={"x": "{{'x' * 100000000}}"}),
        step("many", parameters={"x": "{{[1] * 100000000}}"}),
        step("again", parameters={"x": ["{{INPUT.text}}"] * 70}),
        step("good", parameters={"x": "{{INPUT.text}}"}),
        input={"text": "x" * 2**20},
    )
    (good,) = await api.poll()
    assert (good["activity_key"], len(good["parameters"]["x"])) == ("good", 2**20)
    assert await api.complete(good["activity_id"]) == 200
    assert await api.states(workflow_id) == {
        "long": "failed",
        "many": "failed",
        "again": "failed",
        "good": "completed",
    }


async def test_a_step_for_which_there_is_no_memory_fails_alone(api, step, monkeypatch):
    """N20: a MemoryError is that step's, not the request's."""

    def resolve(*_):
        raise MemoryError

    monkeypatch.setattr(scheduling, "resolve", resolve)
    workflow_id = await api.run(step(parameters={"x": "{{INPUT.x}}"}), step("b"))
    assert await api.states(workflow_id) == {"a": "failed", "b": "pending"}


async def test_a_delay_holds_a_step_back(api, step):
    await api.run(step(settings={"delay": "{{INPUT.d}}m"}), input={"d": 2})
    await api.advance(119)
    assert await api.poll() == []
    await api.advance(2)
    assert len(await api.poll()) == 1


async def test_scheduled_for_names_a_moment(api, step):
    await api.run(step(settings={"scheduled_for": "2100-01-01T00:00:00Z"}))
    assert await api.poll() == []


async def test_a_signal_is_delivered_once(api, step):
    """protocol.md §8.3; the server loses it, a known difference."""
    wait = {"wait_for_signal": {"event_name": "ok", "timeout_seconds": 60}}
    workflow_id = await api.run(step(settings=wait))
    assert await api.poll() == []
    assert await api.states(workflow_id) == {"a": "waiting"}
    url = f"/api/v1/workflows/{workflow_id}/signal"
    missed = await api.http.post(url, json={"activity_key": "a", "event_name": "other"})
    assert missed.json()["signaled"] is False
    sent = await api.http.post(url, json={"activity_key": "a", "event_name": "ok", "data": [1, "x"]})
    assert sent.json() == {"signaled": True, "message": "Activity signaled successfully"}
    again = await api.http.post(url, json={"activity_key": "a", "event_name": "ok"})
    assert again.json()["signaled"] is False
    (item,) = await api.poll()
    assert item["signal_data"] == [1, "x"]


@pytest.mark.parametrize(
    ("on_timeout", "state", "status"),
    [
        ("fail", "failed", "failed"),
        ("skip", "skipped", "completed"),
        ("continue", "pending", "running"),
    ],
)
async def test_a_signal_that_does_not_come_ends_as_the_step_defines(api, step, on_timeout, state, status):
    wait = {"wait_for_signal": {"event_name": "ok", "timeout_seconds": 60, "on_timeout": on_timeout}}
    workflow_id = await api.run(step(settings=wait))
    await api.advance(61)
    assert await api.states(workflow_id) == {"a": state}
    assert (await api.status(workflow_id))["status"] == status


async def test_a_workflow_dies_after_its_timeout_and_says_why(make_api, step):
    """protocol.md §8.2."""
    api = await make_api(workflow_timeout_s=300)
    unclaimed = await api.run(step())
    await api.advance(301)
    found = await api.status(unclaimed)
    assert found["status"] == "failed"
    assert found["error_message"].startswith(
        "Workflow timeout after 300s: 1 queued activity was never claimed"
    )
    assert await api.poll() == []
    held = await api.submit()
    activity_id = await api.claim()
    await api.advance(299)
    assert await api.beat(activity_id) in {200, 409}
    await api.advance(2)
    assert (await api.status(held))["status"] == "failed"


async def test_a_late_completion_of_a_dead_workflow_is_recorded_and_starts_nothing(api, step):
    """protocol.md §6.3."""
    workflow_id = await api.run(step(settings={"timeout_seconds": 900}), step("b", depends_on=["a"]))
    activity_id = await api.claim()
    await api.advance(301)
    assert (await api.status(workflow_id))["status"] == "failed"
    assert await api.complete(activity_id) == 200
    assert await api.poll() == []
    assert (await api.status(workflow_id))["status"] == "failed"


async def test_an_identical_definition_is_stored_once(api, step):
    """C12, also when it is written differently."""
    body = {"name": "flow", "activities": [step(depends_on=None)]}
    first = await api.http.post("/api/v1/workflow_definitions", json=body)
    text = "name: flow\nunknown: 1\nactivities:\n- {worker: py, key: a}\n"
    second = await api.http.post("/api/v1/workflow_definitions", content=text)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {**first.json(), "unchanged": True}
    listed = (await api.http.get("/api/v1/workflow_definitions")).json()
    assert (listed["total"], listed["definitions"][0]["activity_count"]) == (1, 1)


async def test_old_content_returns_its_old_version_while_latest_stays(api, step):
    """The trap of protocol.md §11.1."""
    old = await api.deploy(step("old"))
    new = await api.deploy(step("new"))
    assert await api.deploy(step("old")) == old != new
    await api.submit()
    await api.submit(version=old)
    assert [item["activity_key"] for item in await api.poll()] == ["new", "old"]
    latest = await api.http.get("/api/v1/workflow_definitions/flow")
    assert latest.json()["version"] == new
    assert (await api.http.get(f"/api/v1/workflow_definitions/flow?version={old}")).json()["version"] == old


async def test_a_unique_key_is_held_until_its_workflow_fails(api, step):
    """protocol.md §12."""
    await api.deploy(step(settings={"retry": {}}))
    body = {"definition_name": "flow", "input": {}, "unique_key": "k"}
    first = await api.http.post("/api/v1/workflows", json=body)
    twice = await api.http.post("/api/v1/workflows", json=body)
    assert (first.status_code, twice.status_code) == (201, 409)
    assert twice.json()["error"]["message"] == "Conflict: Workflow with unique_key 'k' already exists"
    await api.fail(await api.claim())
    assert (await api.http.post("/api/v1/workflows", json=body)).status_code == 201


async def test_outputs_are_arrays_and_decimals_are_strings(api, step):
    """C12, protocol.md §13."""
    workflow_id = await api.run(step())
    base = f"/api/v1/workflows/{workflow_id}"
    for path in ("/output", "/activities/a/output"):
        early = await api.http.get(base + path)
        assert (early.status_code, early.json()["error"]["code"]) == (400, "BAD_REQUEST")
    await api.complete(await api.claim(), x=1)
    output = [{"name": "x", "type": "value", "value": 1}]
    one = (await api.http.get(f"{base}/activities/a/output")).json()
    assert (one["output"], one["cost_usd"], one["files"]) == (output, "0", [])
    whole = (await api.http.get(f"{base}/output")).json()
    assert whole["outputs"]["a"]["output"] == output
    assert (whole["total_cost_usd"], whole["terminal_outputs"]) == ("0", ["a"])
    assert (await api.http.get(f"{base}/activities/zz/output")).status_code == 404


async def test_the_list_pages_and_filters(api, step):
    await api.deploy(step())
    ids = [await api.submit() for _ in range(5)]
    page = (await api.http.get("/api/v1/workflows?limit=2&offset=1")).json()
    assert [found["id"] for found in page["workflows"]] == [ids[3], ids[2]]
    assert (page["total"], page["count"], page["limit"], page["offset"]) == (5, 2, 2, 1)
    assert (await api.http.get("/api/v1/workflows?status=nonsense")).json()["workflows"] == []
    assert (await api.http.get("/api/v1/workflows?created_after=2100-01-01T00:00:00Z")).json()["total"] == 0
    assert (await api.http.get("/api/v1/workflows?definition_name=flow")).json()["total"] == 5


@pytest.mark.parametrize(
    ("query", "status", "json"),
    [
        ("limit=0", 422, True),
        ("limit=1001", 422, True),
        ("offset=-1", 422, True),
        ("limit=x", 400, False),
        ("created_after=yesterday", 400, False),
        ("created_after=2026-01-01T00:00:00Z&created_before=2025-01-01T00:00:00Z", 422, True),
    ],
)
async def test_a_bad_query_is_refused_in_its_shape(api, query, status, json):
    reply = await api.http.get(f"/api/v1/workflows?{query}")
    assert reply.status_code == status
    assert reply.headers["content-type"].startswith("application/json" if json else "text/plain")
