"""A whole worker with its real client against a scripted engine over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from scripted_engine import Play, ScriptedEngine
from worker_kit import open_segment

from flowherd import Registry
from flowherd.client.kruxia import connect
from flowherd.execution.run_environment import RunEnvironment
from flowherd.leases.lease_scan import LeaseKeeper, ends_the_rest
from flowherd.ledger import Ledger, RecordWriter, records_needed
from flowherd.settings.worker_config import WorkerConfig
from flowherd.worker.worker import SharedHost, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from flowherd.link.messages import Stopped


def item(number: int = 1, name: str = "echo", **fields: Any) -> dict[str, Any]:
    """Builds an activity as in a poll reply."""
    return {
        "activity_id": str(UUID(int=number)),
        "workflow_id": str(UUID(int=900)),
        "activity_key": "step",
        "worker": "py-std",
        "activity_name": name,
        "parameters": {"n": number},
        "settings": {"cache": False},
        "timeout_seconds": None,
        **fields,
    }


def brings(*items: Any, **fields: Any) -> Play:
    """Builds a poll reply."""
    return Play(200, {"activities": list(items), "count": len(items), **fields})


class EngineRig:
    """A worker, and the keeper of its leases, on the test's loop."""

    work: asyncio.Task[Stopped]

    def __init__(self, server: ScriptedEngine, *, handlers: Iterable[Any] = (), **settings: Any) -> None:
        self.server = server
        self.begun: list[int] = []
        self.held = asyncio.Event()
        registry = Registry()
        registry.register(self._handler("echo"))
        registry.register(self._handler("hold"))
        for handler in handlers:
            registry.register(handler)
        config = WorkerConfig(
            api_url=server.url, worker_id="rig", **{"concurrency": 4, **server.settings, **settings}
        )
        self.ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
        self.segment = open_segment(self.ledger)
        self.engine = connect(config, None, connections=8)
        writer = RecordWriter(self.segment)
        host = SharedHost(rouse_keeper=self._rouse_keeper)
        self.worker = Worker(config, registry, self.engine, writer, RunEnvironment(), host)
        self.heeded = asyncio.Event()
        self.keeper = LeaseKeeper(self.engine, self.engine, self.ledger, config, self._wake)

    def _wake(self, _: int) -> None:
        self.worker.heed_verdicts()
        self.heeded.set()

    def _rouse_keeper(self, shortest_lease_s: float) -> None:
        if ends_the_rest(self.ledger, self.segment, shortest_lease_s, time.monotonic()):
            self.keeper.woken.set()

    def _handler(self, name: str) -> Any:
        async def handler(n: int) -> dict[str, int]:
            self.begun.append(n)
            if name == "hold":
                await self.held.wait()
            return {"n": n}

        handler.__name__ = name
        return handler

    def told(self, verb: str) -> list[tuple[int, Any]]:
        """Returns the calls of a verb: the activity's number and the body."""
        return [(int(UUID(request.path.split("/")[-2])), request.json) for request in self.server.of(verb)]

    def codes(self) -> dict[int, str]:
        """Returns the codes of failures by the activity's number."""
        return {number: body["error"]["code"] for number, body in self.told("fail")}

    def worker_ids(self) -> list[str]:
        """The worker_ids of the polls."""
        return [json.loads(request.body)["worker_id"] for request in self.server.of("poll")]


@contextlib.asynccontextmanager
async def working(
    server: ScriptedEngine, *, handlers: Iterable[Any] = (), **settings: Any
) -> AsyncIterator[EngineRig]:
    """A rig that works until the block ends, then releases everything."""
    rig = EngineRig(server, handlers=handlers, **settings)
    loop = asyncio.get_running_loop()
    beating, work = loop.create_task(rig.keeper.run()), loop.create_task(rig.worker.run())
    rig.work = work
    try:
        async with asyncio.timeout(10.0):
            yield rig
    finally:
        rig.worker.release(0.2)
        await work
        beating.cancel()
        await rig.engine.aclose()
