"""C1-C7 and C17: claims, leases and retries (protocol.md §3-§7)."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import pytest

UNKNOWN = "01930000-0000-7000-8000-000000000000"
OTHER = "Conflict: Activity claimed by different worker"
SETTLED = "Conflict: Activity already completed"
LEASE_S = 1
SHORT = {"timeout_seconds": LEASE_S}


def lapse():
    """Let a lease of LEASE_S run out: real time, since the server's clock cannot be moved."""
    threading.Event().wait(LEASE_S + 0.05)


def message(reply):
    return reply.json()["error"]["message"]


def test_c1_an_idle_poll_returns_at_once(engine):
    began = time.monotonic()
    body = {"worker": engine.name(), "worker_id": "w"}
    reply = engine.http.post("/api/v1/workers/poll", json=body)
    assert (reply.status_code, reply.json()) == (200, {"activities": [], "count": 0})
    assert time.monotonic() - began < 2


def test_c1_claims_are_atomic_and_bounded(engine, wait_until):
    flow = engine.flow(*({"key": f"k{n}"} for n in range(40)))
    claimed: list[str] = []

    def drain(worker_id):
        items = flow.poll(worker_id, 3)
        if engine.difference("over-claim") == "never":
            assert len(items) <= 3
        return [item["activity_id"] for item in items]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:

        def all_claimed():
            for ids in pool.map(drain, ("w1", "w2", "w3", "w4")):
                claimed.extend(ids)
            return len(claimed) >= 40

        wait_until(all_claimed)
    assert len(claimed) == len(set(claimed)) == 40


def test_c2_the_lease_is_null_when_unset_and_longer_than_a_moment(engine):
    flow = engine.flow()
    assert flow.claim()["timeout_seconds"] is None
    lapse()
    assert flow.poll("w2") == []


def test_c2_the_lease_is_in_the_item_when_set(engine):
    item = engine.flow({"key": "a", "settings": {"timeout_seconds": 7}}).claim()
    assert item["timeout_seconds"] == item["settings"]["timeout_seconds"] == 7


def test_c3_a_lapsed_lease_is_taken_over_without_backoff(engine, wait_until):
    flow = engine.flow({"key": "a", "settings": SHORT})
    first = flow.claim("w1")
    lapse()
    second = wait_until(lambda: flow.poll("w2"), 1.0)[0]
    assert second["activity_id"] == first["activity_id"]
    assert message(flow.beat(first, "w1")) == OTHER


def test_c3_a_takeover_spends_an_attempt(engine):
    settings = {**SHORT, "retry": {"max_attempts": 2, "base_seconds": 0}}
    flow = engine.flow({"key": "a", "settings": settings})
    flow.claim("w1")
    lapse()
    assert flow.fail(flow.claim("w2"), "w2").json()["will_retry"] is False


def test_c3_without_retries_left_only_the_sweep_ends_it(engine):
    flow = engine.flow({"key": "a", "settings": {**SHORT, "retry": {}}})
    item = flow.claim("w1")
    lapse()
    assert flow.poll("w2") == []
    found = flow.ended(within_s=40)
    assert found["status"] == "failed"
    assert found["activities"][0]["error"] == "Activity timed out after 0 retries (max_retries=0)"
    assert flow.beat(item, "w1").status_code == 200
    assert message(flow.complete(item, "w1")) == SETTLED


def test_c4_a_heartbeat_keeps_the_lease(engine):
    flow = engine.flow({"key": "a", "settings": SHORT})
    item = flow.claim("w1")
    for _ in range(4):
        threading.Event().wait(LEASE_S / 2)
        reply = flow.beat(item)
        assert reply.json() == {"acknowledged": True, "next_heartbeat_seconds": 30}
        assert flow.poll("w2") == []


def test_c4_a_late_heartbeat_revives_a_lease_that_was_not_taken(engine):
    """Tries again if a sweep comes between."""
    for _ in range(5):
        flow = engine.flow({"key": "a", "settings": SHORT})
        item = flow.claim("w1")
        lapse()
        if flow.beat(item).status_code == 200:
            assert flow.poll("w2") == []
            assert flow.complete(item).status_code == 200
            return
    pytest.fail("five late heartbeats were refused")


def test_c4_the_heartbeat_table(engine):
    flow = engine.flow({"key": "a"}, {"key": "b", "settings": {"retry": {}}}, {"key": "c"})
    items = {}
    while len(items) < 3:
        item = flow.claim()
        items[item["activity_key"]] = item
    assert message(flow.beat(items["a"], "w2")) == OTHER
    flow.complete(items["a"])
    flow.fail(items["b"])
    flow.fail(items["c"])
    for key in ("a", "b"):
        assert flow.beat(items[key]).status_code == flow.beat(items[key], "w2").status_code == 200
    assert message(flow.beat(items["c"])) == OTHER
    unknown = flow.beat(UNKNOWN)
    assert (unknown.status_code, message(unknown)) == (404, f"Not found: Activity '{UNKNOWN}' not found")
    assert flow.beat(items["a"], "").status_code == 422


def test_c5_the_complete_table_and_the_first_payload_wins(engine):
    flow = engine.flow({"key": "a"}, {"key": "b"})
    item = flow.claim()
    other = flow.claim()
    assert message(flow.complete(item, "w2")) == OTHER
    assert flow.complete(item, x=1).json() == {"acknowledged": True}
    assert flow.complete(item, x=2).status_code == 200
    assert message(flow.complete(item, "w2")) == OTHER
    assert flow.complete(UNKNOWN).status_code == 404
    flow.fail(other)
    assert message(flow.complete(other)) == OTHER


def test_c5_the_output_of_the_first_completion_is_kept(engine):
    flow = engine.flow()
    item = flow.claim()
    flow.complete(item, x=1)
    flow.complete(item, x=2)
    (state,) = flow.ended()["activities"]
    assert state["outputs"] == [{"name": "x", "type": "value", "value": 1}]


def test_c5_the_next_step_follows_with_the_output_in_its_type(engine):
    after = {"key": "b", "depends_on": ["a"], "parameters": {"v": "{{a.x}}", "t": "<{{a.x.y}}>"}}
    flow = engine.flow({"key": "a"}, after)
    flow.complete(flow.claim(), x={"y": 1})
    items = flow.poll() if engine.difference("next-step") == "at once" else [flow.claim()]
    assert [item["parameters"] for item in items] == [{"v": {"y": 1}, "t": "<1>"}]


def test_c6_the_fail_table(engine):
    flow = engine.flow({"key": "a", "settings": {"retry": {"max_attempts": 2, "base_seconds": 0}}})
    item = flow.claim()
    assert message(flow.fail(item, "w2")) == OTHER
    assert flow.fail(item).json() == {"acknowledged": True, "will_retry": True}
    assert message(flow.fail(item)) == OTHER
    assert flow.claim("w2")["activity_id"] == item["activity_id"]
    assert message(flow.fail(item, "w1")) == OTHER
    assert flow.fail(item, "w2").json() == {"acknowledged": True, "will_retry": False}
    assert message(flow.fail(item, "w2")) == SETTLED
    assert flow.fail(UNKNOWN).status_code == 404
    found = flow.ended()
    assert (found["status"], found["activities"][0]["error"]) == ("failed", "it broke")


def test_c6_a_terminal_failure_does_not_retry(engine):
    flow = engine.flow()
    assert flow.fail(flow.claim(), retryable=False).json()["will_retry"] is False
    assert flow.ended()["status"] == "failed"


def test_c6_the_backoff_is_kept(engine):
    retry = {"max_attempts": 2, "strategy": "fixed", "base_seconds": 1}
    flow = engine.flow({"key": "a", "settings": {"retry": retry}})
    flow.fail(flow.claim())
    began = time.monotonic()
    flow.claim()
    assert 0.8 < time.monotonic() - began < 3


@pytest.mark.parametrize(("lapses", "again"), [(2, True), (3, False)])
def test_c7_without_a_retry_block_there_are_four_attempts(engine, lapses, again):
    flow = engine.flow({"key": "a", "settings": SHORT})
    flow.claim()
    for _ in range(lapses):
        lapse()
        item = flow.claim()
    assert flow.fail(item).json()["will_retry"] is again


@pytest.mark.parametrize("retry", [{}, {"max_attempts": 0}, {"max_attempts": 1}])
def test_c7_a_retry_block_allows_only_what_it_says(engine, retry):
    flow = engine.flow({"key": "a", "settings": {"retry": retry}})
    assert flow.fail(flow.claim()).json()["will_retry"] is False


def test_c17_what_is_not_there_is_left_out(engine):
    item = engine.flow({"key": "a", "parameters": {"w": 1}}).claim()
    assert {"output_definitions", "signal_data"}.isdisjoint(item)
    assert (item["activity_name"], item["parameters"], item["settings"]) == ("", {"w": 1}, {"cache": False})
    outputs = ["x", {"name": "y", "type": "file"}]
    retry = {"max_attempts": 3}
    item = engine.flow({"key": "a", "outputs": outputs, "settings": {"retry": retry}}).claim()
    assert item["output_definitions"] == [{"name": "x", "type": "value"}, {"name": "y", "type": "file"}]
    assert item["settings"]["retry"] == {
        "max_attempts": 3,
        "strategy": "exponential",
        "base_seconds": 2,
        "factor": 2.0,
        "max_seconds": 300,
    }
