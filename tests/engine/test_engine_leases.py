"""Claims, leases, reports and retries: protocol.md §3-§7, row by row, under a virtual clock."""

from __future__ import annotations

import pytest

RETRY_ONCE = {"retry": {"max_attempts": 2, "base_seconds": 1}}


async def test_a_poll_hands_out_no_more_than_asked_and_in_the_order_of_scheduling(api, step):
    """C1."""
    await api.run(*(step(f"k{n}") for n in range(5)))
    first = await api.poll(most=3)
    second = await api.poll(most=3)
    assert [item["activity_key"] for item in first + second] == ["k0", "k1", "k2", "k3", "k4"]
    assert await api.poll() == []


async def test_an_item_says_all_and_omits_what_is_not_there(api, step):
    """C17 and C2: timeout_seconds is null when unset, optional keys are absent."""
    await api.run(step(parameters={"w": 1}), step("b", outputs=["x", {"name": "y", "type": "file"}]))
    plain, rich = await api.poll()
    assert plain == {
        "activity_id": plain["activity_id"],
        "workflow_id": plain["workflow_id"],
        "activity_key": "a",
        "worker": "py",
        "activity_name": "",
        "parameters": {"w": 1},
        "settings": {"cache": False},
        "timeout_seconds": None,
    }
    assert rich["output_definitions"] == [{"name": "x", "type": "value"}, {"name": "y", "type": "file"}]


async def test_a_worker_gets_only_its_type(api, step):
    await api.run(step(), {"key": "b", "worker": "PY"})
    assert [item["activity_key"] for item in await api.poll()] == ["a"]
    assert [item["activity_key"] for item in await api.poll(worker="PY")] == ["b"]


async def test_a_lapsed_lease_is_taken_over_at_the_next_poll_with_the_same_id(api, step):
    """C3."""
    await api.run(step())
    activity_id = await api.claim("w1")
    await api.advance(59, sweep=False)
    assert await api.poll("w2") == []
    await api.advance(2, sweep=False)
    assert await api.claim("w2") == activity_id
    assert await api.beat(activity_id, "w1") == 409
    assert await api.complete(activity_id, "w1") == 409
    assert await api.complete(activity_id, "w2") == 200


async def test_a_fractional_default_lease_is_kept(make_api, step):
    api = await make_api(default_lease_s=0.5)
    await api.run(step())
    activity_id = await api.claim("w1")
    await api.advance(0.6, sweep=False)
    assert await api.claim("w2") == activity_id


async def test_a_heartbeat_moves_the_end_of_the_lease(api, step):
    await api.run(step(settings={"timeout_seconds": 10}))
    activity_id = await api.claim("w1")
    for _ in range(5):
        await api.advance(9)
        assert await api.beat(activity_id) == 200
    await api.advance(11, sweep=False)
    assert await api.claim("w2") == activity_id


async def test_a_late_heartbeat_revives_a_lease_that_was_not_taken(api, step):
    """protocol.md §0 fact 7."""
    await api.run(step())
    activity_id = await api.claim("w1")
    await api.advance(1000, sweep=False)
    assert await api.beat(activity_id) == 200
    assert await api.poll("w2") == []
    assert await api.complete(activity_id) == 200


async def test_the_heartbeat_table(api, step):
    """C4, protocol.md §5: a finished row accepts anybody, a pending one nobody."""
    await api.run(step(), step("b", settings={"retry": {}}))
    done, failed = [item["activity_id"] for item in await api.poll()]
    assert await api.beat(done, "stranger") == 409
    await api.complete(done)
    await api.fail(failed)
    for activity_id in (done, failed):
        assert await api.beat(activity_id) == 200
        assert await api.beat(activity_id, "stranger") == 200
    assert await api.beat("01930000-0000-7000-8000-000000000000") == 404
    await api.submit()
    (again,) = await api.poll(most=1)
    await api.advance(61)
    assert await api.beat(again["activity_id"]) == 409


async def test_the_complete_table(api, step):
    """C5, protocol.md §6.2: the first payload wins, its repetition is welcome."""
    workflow_id = await api.run(step())
    activity_id = await api.claim("w1")
    assert await api.complete(activity_id, "stranger") == 409
    assert await api.complete(activity_id, "w1", x=1) == 200
    assert await api.complete(activity_id, "w1", x=2) == 200
    assert await api.complete(activity_id, "stranger") == 409
    (state,) = (await api.status(workflow_id))["activities"]
    assert state["outputs"] == [{"name": "x", "type": "value", "value": 1}]
    assert await api.complete("01930000-0000-7000-8000-000000000000") == 404


async def test_completing_after_the_own_failure_is_refused_with_its_own_words(api, step):
    await api.run(step(settings={"retry": {}}))
    activity_id = await api.claim()
    await api.fail(activity_id)
    reply = await api.report("complete", activity_id, output={})
    assert reply.status_code == 409
    assert reply.json()["error"]["message"] == "Conflict: Activity already completed"


async def test_the_fail_table(api, step):
    """C6, protocol.md §7: a second fail is refused."""
    await api.run(step(settings=RETRY_ONCE))
    activity_id = await api.claim("w1")
    assert (await api.fail(activity_id, "stranger")).status_code == 409
    assert (await api.fail(activity_id)).json() == {"acknowledged": True, "will_retry": True}
    assert (await api.fail(activity_id)).status_code == 409
    await api.advance(1.1)
    assert await api.claim("w2") == activity_id
    assert (await api.fail(activity_id, "w1")).status_code == 409
    assert (await api.fail(activity_id, "w2")).json() == {"acknowledged": True, "will_retry": False}
    last = await api.fail(activity_id, "w2")
    assert (last.status_code, last.json()["error"]["message"]) == (
        409,
        "Conflict: Activity already completed",
    )


async def test_a_terminal_failure_spends_no_retry(api, step):
    workflow_id = await api.run(step())
    activity_id = await api.claim()
    assert (await api.fail(activity_id, retryable=False)).json()["will_retry"] is False
    found = await api.status(workflow_id)
    assert (found["status"], found["activities"][0]["error"]) == ("failed", "it broke")


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        (None, [2, 4, 8]),
        ({"max_attempts": 4, "base_seconds": 3, "factor": 3.0, "max_seconds": 10}, [3, 9, 10]),
        ({"max_attempts": 3, "strategy": "fixed", "base_seconds": 5}, [5, 5]),
        ({}, []),
        ({"max_attempts": 0}, []),
    ],
    ids=["none", "exponential", "fixed", "empty", "zero"],
)
async def test_the_attempts_and_the_backoff_follow_the_formula(api, step, retry, waits):
    """C6, C7: protocol.md §3.1, §3.2."""
    workflow_id = await api.run(step(settings={} if retry is None else {"retry": retry}))
    activity_id = await api.claim()
    for wait_s in waits:
        assert (await api.fail(activity_id)).json()["will_retry"] is True
        await api.advance(wait_s - 0.5)
        assert await api.poll() == []
        await api.advance(0.6)
        assert await api.claim() == activity_id
    assert (await api.fail(activity_id)).json()["will_retry"] is False
    assert (await api.status(workflow_id))["status"] == "failed"


async def test_lapses_spend_attempts_without_backoff_and_the_sweep_ends_the_last(api, step):
    """C3: a poll never takes over an activity without retries left; only the sweep ends it."""
    workflow_id = await api.run(step(settings=RETRY_ONCE))
    activity_id = await api.claim("w1")
    await api.advance(61)
    assert await api.claim("w2") == activity_id
    await api.advance(61, sweep=False)
    assert await api.poll("w3") == []
    await api.advance(0)
    found = await api.status(workflow_id)
    assert found["status"] == "failed"
    assert found["activities"][0]["error"] == "Activity timed out after 1 retries (max_retries=1)"
    assert await api.complete(activity_id, "w2") == 409


async def test_concurrent_polls_never_share_an_activity(make_api, step, tmp_path):
    """C1: claims are atomic, also between two engines on one file (faults.md S5)."""
    path = str(tmp_path / "engine.db")
    engines = [await make_api(db=path), await make_api(db=path)]
    await engines[0].run(*(step(f"k{n}") for n in range(60)))
    import asyncio

    batches = await asyncio.gather(*(engines[n % 2].poll(f"w{n}", most=7) for n in range(12)))
    claimed = [item["activity_id"] for batch in batches for item in batch]
    assert len(claimed) == len(set(claimed)) == 60


async def test_costs_of_all_attempts_add_up_as_decimals(api, step):
    workflow_id = await api.run(step(settings={"retry": {"max_attempts": 2, "base_seconds": 0}}))
    activity_id = await api.claim()
    error = {"code": "E", "message": "m", "retryable": True}
    await api.report("fail", activity_id, error=error, cost_usd=0.1)
    await api.claim()
    usage = [{"provider": "p", "model": "m", "input_tokens": 3, "cost_usd": "0.02"}]
    reply = await api.report("complete", activity_id, output={}, cost_usd="0.003", usage=usage)
    assert reply.status_code == 200
    found = (await api.http.get(f"/api/v1/workflows/{workflow_id}/output")).json()
    assert found["total_cost_usd"] == found["outputs"]["a"]["cost_usd"] == "0.123"
