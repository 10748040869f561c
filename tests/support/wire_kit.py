"""A worker in virtual time whose client talks to a wire that somebody else may answer in the engine's place."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from attempts_kit import Handlers
from virtual_time import now
from worker_kit import open_segment

from flowherd.client.kruxia import KruxiaEngine
from flowherd.execution.run_environment import RunEnvironment
from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.ledger import Ledger, RecordWriter
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.transport import Reply
from flowherd.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Collection

HTML = b"<html><h1>not here</h1></html>"
HOST = "engine.example:8080"


class Sent(NamedTuple):
    """A call that came by, at virtual seconds."""

    at: float
    verb: str
    body: Any
    was_stopped: bool


class Wire:
    """A `Transport` to an engine that takes everything, except while `between` answers.

    Attributes:
        between: the reply of somebody between, None for nobody.
        verbs: what he answers, by the end of the path; empty for everything.
        activities: what the next poll brings.

    """

    def __init__(self) -> None:
        self.between: Reply | None = None
        self.verbs: Collection[str] = ()
        self.activities: list[dict[str, Any]] = []
        self.sent: list[Sent] = []

    async def call(self, route: str, body: bytes, deadline_s: float, **_: Any) -> Reply:
        verb = route.rpartition("/")[2]
        stopped = self.between is not None and (not self.verbs or verb in self.verbs)
        self.sent.append(Sent(now(), verb, json.loads(body), stopped))
        if stopped:
            assert self.between is not None
            return self.between
        if verb != "poll":
            return Reply(200, {}, b'{"acknowledged":true,"will_retry":true}')
        given, self.activities = self.activities, []
        return Reply(200, {}, json.dumps({"activities": given, "count": len(given)}).encode())

    async def aclose(self) -> None:
        """Nothing to close."""

    def of(self, verb: str, *, stopped: bool = False) -> list[Sent]:
        """Returns the calls of a verb that came through, or that were answered between."""
        return [one for one in self.sent if one.verb == verb and one.was_stopped is stopped]


def on_the_wire(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Builds an item of a poll's reply."""
    return {
        "activity_id": str(UUID(int=number)), "workflow_id": str(UUID(int=900)), "activity_key": "step",
        "worker": "py-std", "activity_name": "work", "settings": {}, **fields,
    }  # fmt: skip


class WiredWorker:
    """A worker with handlers that end when told, and the keeper of its leases, both on one wire."""

    def __init__(self, **settings: Any) -> None:
        self.wire, self.handlers = Wire(), Handlers()
        config = WorkerConfig(worker_id="host-1", concurrency=4, **settings)
        ledger = Ledger(processes=1, records=60)
        self.segment = open_segment(ledger)
        engine = KruxiaEngine(self.wire, api_url=f"http://{HOST}")
        loop = asyncio.get_running_loop()
        self.worker = Worker(
            config, self.handlers.registry, engine, RecordWriter(self.segment), RunEnvironment()
        )
        keeper = LeaseKeeper(engine, engine, ledger, config, lambda _: self.worker.heed_verdicts(), loop.time)
        self.tasks = [loop.create_task(self.worker.run()), loop.create_task(keeper.run())]

    async def runs(self, item: dict[str, Any]) -> None:
        """Runs an activity whose handler waits to be told to end."""
        self.wire.activities = [item]
        await asyncio.sleep(5.0)
        assert self.handlers.running[item["activity_id"]]
