"""Defects of an engine that users would meet as silence: named once, and never where the engine is well."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from worker_kit import open_segment

from flowherd.activities_and_outcomes import Failed
from flowherd.leases.engine_watch import LOOK_EVERY_S, EngineWatch, Health
from flowherd.ledger import Ledger, RecordWriter
from flowherd.ledger.attempt_history import End

READY = {
    "status": "ready",
    "checks": {"database": {"status": "healthy"}, "orchestrator": {"status": "healthy"}},
}
BEGAN = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
TOLD = ("workflow_stalled", "engine_unhealthy", "engine_healthy_again")


class WatchedEngine:
    """An engine's three documents, and a host that works for it; its clock is an hour ahead of ours."""

    def __init__(self) -> None:
        self.health: Any = READY
        self.changed_at: dict[str, float] = {}
        self.steps: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.ledger = Ledger(processes=1, records=20)
        self.writer = RecordWriter(open_segment(self.ledger))
        http = httpx.AsyncClient(base_url="http://engine", transport=httpx.MockTransport(self.answer))
        self.watch = EngineWatch(http, self.ledger, now)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        match request.url.path.removeprefix("/api/v1/workflows").split("/"):
            case ["", "health", "ready"]:
                body = self.health
            case [""]:
                body = {
                    "workflows": [{"id": name, "updated_at": iso(at)} for name, at in self.changed_at.items()]
                }
            case [_, name]:
                steps = self.steps[name].items()
                body = {"activities": [{"activity_key": key, "status": status} for key, status in steps]}
            case other:
                raise AssertionError(other)
        date = format_datetime(datetime.fromtimestamp(BEGAN + now(), UTC), usegmt=True)
        return httpx.Response(200, content=json.dumps(body), headers={"date": date})

    def acknowledge(self, workflow: str, failure: Failed | None = None) -> None:
        """The engine has taken an outcome of the activity `add`."""
        times = now(), now(), now(), 0.0
        index, _ = self.writer.claim(
            "a-1", "w-1", "add", now=now(), lease_s=60.0, workflow_id=workflow, key="add"
        )
        record = self.writer.segment.record(index)
        assert record is not None
        self.ledger.history.add(record, times, 0, failure, End.SETTLED if failure else End.DELIVERED)
        self.writer.clear(index)

    async def look_for(self, seconds: float) -> list[dict[str, Any]]:
        """What is told of within so many seconds."""
        with capture_logs() as logs:
            for _ in range(int(seconds / LOOK_EVERY_S)):
                await self.watch.look()
                await asyncio.sleep(LOOK_EVERY_S)
        return [one for one in logs if one["event"] in TOLD]


def iso(at: float) -> str:
    return datetime.fromtimestamp(BEGAN + at, UTC).isoformat()


@virtual_time
async def test_a_workflow_whose_result_was_passed_over_is_named_once_after_a_minute() -> None:
    engine = WatchedEngine()
    engine.changed_at["wf-1"] = now() - 0.02
    engine.steps["wf-1"] = {"first": "completed", "add": "pending"}
    engine.acknowledge("wf-1")
    [one] = await engine.look_for(600.0)
    assert (one["event"], one["workflow_id"], one["activity_key"]) == ("workflow_stalled", "wf-1", "add")
    assert 60 <= one["for_s"] <= 90
    assert "submit the workflow again" in one["note"]


@virtual_time
async def test_workflows_that_go_on_end_or_wait_for_others_are_not_named() -> None:
    """Changed after the receipt: ended, waiting for another worker type, or for a retry."""
    engine = WatchedEngine()
    for name in ("gone on", "in its second turn", "over"):
        engine.acknowledge(name)
    engine.acknowledge("failed", Failed("BROKEN", "no", retryable=True))
    engine.changed_at["gone on"] = now() + 2.0
    engine.changed_at["in its second turn"] = now() - 0.01
    engine.steps["in its second turn"] = {"add": "completed"}
    engine.changed_at["failed"] = now() - 0.01
    engine.changed_at["somebody else's"] = now() - 100.0
    assert await engine.look_for(600.0) == []


@virtual_time
async def test_a_host_with_nothing_on_its_mind_asks_for_the_health_alone() -> None:
    engine = WatchedEngine()
    await engine.look_for(300.0)
    assert set(engine.asked) == {"/health/ready"}


@virtual_time
async def test_many_workflows_cost_one_list_a_look() -> None:
    engine = WatchedEngine()
    for number in range(15):
        engine.acknowledge(f"wf-{number}")
    await engine.look_for(300.0)
    assert engine.asked.count("/api/v1/workflows") == 1


@virtual_time
async def test_an_engine_that_is_ready_with_an_unhealthy_orchestrator_is_named_once_each_time() -> None:
    engine = WatchedEngine()
    bad = {"status": "unhealthy", "message": "no heartbeat for 90 s"}
    engine.health = READY | {"checks": {"orchestrator": bad}}
    [one] = await engine.look_for(120.0)
    assert (one["event"], one["reason"]) == ("engine_unhealthy", "orchestrator: no heartbeat for 90 s")
    assert "restart the engine" in one["note"]
    engine.health = READY
    assert [one["event"] for one in await engine.look_for(120.0)] == ["engine_healthy_again"]
    engine.health = READY | {"checks": {"orchestrator": bad}}
    assert [one["event"] for one in await engine.look_for(120.0)] == ["engine_unhealthy"]


@pytest.mark.parametrize(
    "health",
    [
        {"status": "not_ready", "checks": {"orchestrator": {"status": "unhealthy"}}},
        {"status": "ready", "checks": {"database": {"status": "unhealthy"}}},
        {"status": "ready"},
    ],
)
def test_what_the_engine_says_itself_is_no_hidden_trouble(health: dict[str, Any]) -> None:
    """Polls tell of an engine that is not ready."""
    assert msgspec.convert(health, Health).hidden_trouble is None


@virtual_time
async def test_whatever_an_engine_answers_the_watch_goes_on() -> None:
    engine = WatchedEngine()
    watching = asyncio.get_running_loop().create_task(engine.watch.run())
    for engine.health in ("no document", {"status": 3}, READY):
        await asyncio.sleep(LOOK_EVERY_S)
    await asyncio.sleep(LOOK_EVERY_S / 2)
    assert len(engine.asked) == 3
    assert not watching.done()
    watching.cancel()
