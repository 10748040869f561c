"""An engine inside the test, called through ASGI; its clock moves only when a test advances it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from flowherd_engine.settings import EngineSettings
from flowherd_supervisor.testkit.hooked_engine import opened

if TYPE_CHECKING:
    from flowherd_engine.engine import Engine


class Api:
    """The calls of a worker and of a client, one line each."""

    def __init__(self, engine: Engine, http: httpx.AsyncClient) -> None:
        self.engine = engine
        self.http = http

    async def deploy(self, *activities, name="flow", **extra):
        definition = {"name": name, "activities": list(activities), **extra}
        reply = await self.http.post("/api/v1/workflow_definitions", json=definition)
        assert reply.status_code in {200, 201}, reply.text
        return reply.json()["version"]

    async def submit(self, name="flow", **fields):
        reply = await self.http.post(
            "/api/v1/workflows", json={"definition_name": name, "input": {}, **fields}
        )
        assert reply.status_code == 201, reply.text
        return reply.json()["workflow_id"]

    async def run(self, *activities, **fields):
        await self.deploy(*activities)
        return await self.submit(**fields)

    async def poll(self, worker_id="w1", most=10, worker="py"):
        body = {"worker": worker, "worker_id": worker_id, "max_activities": most}
        reply = await self.http.post("/api/v1/workers/poll", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["count"] == len(reply.json()["activities"])
        return reply.json()["activities"]

    async def claim(self, worker_id="w1"):
        """Claims the only activity and returns its id."""
        (activity,) = await self.poll(worker_id)
        return activity["activity_id"]

    async def report(self, verb, activity_id, worker_id="w1", **fields):
        body = {"worker_id": worker_id, **fields}
        return await self.http.post(f"/api/v1/activities/{activity_id}/{verb}", json=body)

    async def beat(self, activity_id, worker_id="w1"):
        return (await self.report("heartbeat", activity_id, worker_id)).status_code

    async def complete(self, activity_id, worker_id="w1", **output):
        return (await self.report("complete", activity_id, worker_id, output=output)).status_code

    async def fail(self, activity_id, worker_id="w1", *, retryable=True):
        error = {"code": "E", "message": "it broke", "retryable": retryable}
        return await self.report("fail", activity_id, worker_id, error=error)

    async def advance(self, seconds, *, sweep=True):
        reply = await self.http.post("/__test__/clock", json={"advance_s": seconds, "sweep": sweep})
        assert reply.status_code == 200

    async def status(self, workflow_id) -> dict[str, Any]:
        return (await self.http.get(f"/api/v1/workflows/{workflow_id}")).json()

    async def states(self, workflow_id) -> dict[str, str]:
        return {
            found["activity_key"]: found["status"] for found in (await self.status(workflow_id))["activities"]
        }


@pytest.fixture
async def make_api():
    """Build an `Api` over an engine with the given settings; all are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**settings) -> Api:
            engine, app = await opened(EngineSettings(**settings))
            stack.push_async_callback(engine.close)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")
            await stack.enter_async_context(http)
            return Api(engine, http)

        yield make


@pytest.fixture
async def api(make_api) -> Api:
    """An insecure-dev engine in memory."""
    return await make_api()


@pytest.fixture
def step():
    """One activity of type `py`, with more fields if given."""
    return lambda key="a", **fields: {"key": key, "worker": "py", **fields}
