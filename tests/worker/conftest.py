"""Fixtures of the worker's tests: a scripted engine, both transports, an open segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_engine import ScriptedEngine, scripted_engine
from worker_kit import open_segment

from flowherd.client.kruxia import KruxiaEngine, connect
from flowherd.ledger import Ledger, RecordWriter, Segment
from flowherd.settings.worker_config import WorkerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine() as server:
        yield server


@pytest.fixture(params=["httpx", "direct"])
def carrier(request: pytest.FixtureRequest) -> str:
    """The transport under test; both must give the same results."""
    return str(request.param)


@pytest.fixture
def carried(server: ScriptedEngine, carrier: str) -> ScriptedEngine:
    """The scripted engine, with the transport in its settings."""
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
    return Ledger(processes=2, records=4)


@pytest.fixture
def segment(ledger: Ledger) -> Segment:
    return open_segment(ledger)


@pytest.fixture
def writer(segment: Segment) -> RecordWriter:
    return RecordWriter(segment)
