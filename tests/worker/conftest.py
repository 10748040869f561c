"""What many tests of the worker begin with: an engine that plays scripts, calls carried three ways, an open berth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_engine import ScriptedEngine, scripted_engine
from worker_kit import open_berth

from flowherd.client.kruxia import KruxiaEngine, connect
from flowherd.config import WorkerConfig
from flowherd.ledger import Berth, Ledger, RecordBook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine() as server:
        yield server


@pytest.fixture(params=["httpx", "httpx-pool", "direct"])
def carrier(request: pytest.FixtureRequest) -> str:
    """Whatever carries the calls, the same is expected."""
    return str(request.param)


@pytest.fixture
def carried(server: ScriptedEngine, carrier: str) -> ScriptedEngine:
    """The engine, for whoever configures a worker by what it asks for."""
    server.settings["transport"] = carrier
    return server


@pytest.fixture
async def client(carried: ScriptedEngine) -> AsyncIterator[KruxiaEngine]:
    config = WorkerConfig(api_url=carried.url, max_reply_mb=1, **carried.settings)
    client = connect(config, None, connections=4)
    yield client
    await client.aclose()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(seats=2, records=4)


@pytest.fixture
def berth(ledger: Ledger) -> Berth:
    return open_berth(ledger)


@pytest.fixture
def book(berth: Berth) -> RecordBook:
    return RecordBook(berth)
