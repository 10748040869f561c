"""The hooks for tests, which other tests rely on."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from flowherd_engine.app import build_app
from flowherd_engine.engine import Engine
from flowherd_engine.settings import EngineSettings


async def ledger(api, **query):
    return (await api.http.get("/__test__/ledger", params=query)).json()["entries"]


async def test_the_plain_engine_has_no_hooks(step):
    """They live in the testkit."""
    engine = await Engine.open(EngineSettings())
    transport = httpx.ASGITransport(build_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:
        for path in ("clock", "faults", "ledger", "activities"):
            assert (await http.get(f"/__test__/{path}")).status_code == 404
    await engine.close()


async def test_the_journal_has_every_claim_and_verdict(api, step):
    await api.run(step(settings={"retry": {"max_attempts": 3, "base_seconds": 0}}))
    activity_id = await api.claim("w1")
    await api.beat(activity_id, "w1")
    await api.beat(activity_id, "w2")
    await api.fail(activity_id, "w1")
    await api.claim("w2")
    await api.advance(61, sweep=False)
    await api.claim("w3")
    await api.complete(activity_id, "w2")
    await api.complete(activity_id, "w3")
    await api.complete(activity_id, "w3")
    told = [(e["event"], e["worker_id"], e["attempt"], e["verdict"]) for e in await ledger(api)]
    assert told == [
        ("claim", "w1", 1, "accepted"),
        ("heartbeat", "w1", None, "accepted"),
        ("heartbeat", "w2", None, "other_worker"),
        ("fail", "w1", 1, "will_retry"),
        ("claim", "w2", 2, "accepted"),
        ("claim", "w3", 3, "accepted"),
        ("complete", "w2", None, "other_worker"),
        ("complete", "w3", 3, "accepted"),
        ("complete", "w3", None, "repeated"),
    ]
    assert await ledger(api, activity_id="none") == []
    assert [entry["seq"] for entry in await ledger(api, after=7)] == [8, 9]


async def test_a_lapse_found_by_the_sweep_is_in_the_journal(api, step):
    await api.run(step())
    await api.claim("w1")
    await api.advance(61)
    assert [(e["event"], e["verdict"]) for e in await ledger(api, after=1)] == [("lapse", "will_retry")]
    (row,) = (await api.http.get("/__test__/activities")).json()["activities"]
    assert (row["status"], row["claimed_by"], row["retry_count"]) == ("pending", None, 1)


async def test_the_journal_can_be_waited_for(api, step):
    waiting = asyncio.create_task(ledger(api, wait_s=20))
    await api.run(step())
    activity_id = await api.claim()
    (entry,) = await waiting
    assert entry["activity_id"] == activity_id


async def test_a_scripted_status_strikes_its_route_as_often_as_told(api):
    fault = {"route": "poll", "status": 503, "times": 2, "headers": {"retry-after": "1"}}
    assert (await api.http.post("/__test__/faults", json=fault)).status_code == 200
    body = {"worker": "py", "worker_id": "w"}
    replies = [await api.http.post("/api/v1/workers/poll", json=body) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [503, 503, 200]
    assert replies[0].headers["retry-after"] == "1"
    assert (await api.http.get("/health")).status_code == 200
    assert (await api.http.get("/__test__/faults")).json()["faults"][0]["hits"] == 2


async def test_faults_are_forgotten_on_request_and_seeded_chances_repeat(api):
    async def strikes():
        await api.http.delete("/__test__/faults")
        fault = {"route": "health", "status": 500, "times": None, "probability": 0.5, "seed": 7}
        await api.http.post("/__test__/faults", json=[fault])
        return [(await api.http.get("/health")).status_code for _ in range(20)]

    first = await strikes()
    assert first == await strikes()
    assert set(first) == {200, 500}
    await api.http.delete("/__test__/faults")
    assert (await api.http.get("/health")).status_code == 200


@pytest.mark.parametrize(("when", "claimed"), [("before", False), ("after", True), ("amid", True)])
async def test_a_cut_connection_comes_before_or_after_the_commit(make_api, step, when, claimed):
    """faults.md E2, E6: a lost request and a lost reply."""
    api = await make_api()
    await api.run(step())
    await api.http.post("/__test__/faults", json={"route": "poll", "reset": when})
    reply = None
    with contextlib.suppress(ConnectionResetError, httpx.HTTPError):
        reply = await api.http.post("/api/v1/workers/poll", json={"worker": "py", "worker_id": "w"})
    assert reply is None or reply.status_code == 500 or when == "amid"
    (row,) = (await api.http.get("/__test__/activities")).json()["activities"]
    assert (row["status"] == "running") is claimed


@pytest.mark.parametrize("fault", [{"route": "poll", "times": 0}, {"route": "poll", "reset": "never"}, {}])
async def test_a_script_that_makes_no_sense_is_refused(api, fault):
    assert (await api.http.post("/__test__/faults", json=fault)).status_code == 422
