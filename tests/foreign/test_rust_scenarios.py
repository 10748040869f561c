"""The scenarios of the Rust worker's protocol tests, played by our worker on all three transports."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from engine_rig import brings, item, working
from foreign.rust_scenarios import CLIENT_ROWS, CRATE, ROWS, ClientRow, Row, handlers_that_wait_for
from herd_kit import Herd
from scripted_engine import ScriptedEngine, scripted_engine

from flowherd.activities_and_outcomes import Completed, Failed, Usage
from flowherd.client.kruxia import KruxiaEngine, connect
from flowherd.errors import EngineError
from flowherd.settings.worker_config import WorkerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ID = "0193a1b2-0000-7000-8000-000000000001"
PACE = {"poll_interval_s": 0.02, "poll_interval_max_s": 0.05}
SPENT = {"cost_usd": "0.002", "usage": (Usage("anthropic", "claude", input_tokens=1000, output_tokens=50),)}


@pytest.fixture(params=["httpx", "direct"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedEngine]:
    """The transport under test; all must give the same results."""
    async with scripted_engine() as server:
        server.settings["transport"] = request.param
        yield server


def holds(seen: Any, wanted: Any) -> bool:
    """True if a value contains everything expected; None: must be missing."""
    match wanted:
        case dict():
            return all(holds((seen or {}).get(key), value) for key, value in wanted.items())
        case list():
            return len(seen or ()) == len(wanted) and all(map(holds, seen, wanted))
        case _:
            return bool(seen == wanted)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_the_worker_does_what_the_scenario_asks(server: ScriptedEngine, row: Row) -> None:
    go = asyncio.Event()
    server.script("poll", brings(item(**row.item)))
    for verb, play in row.replies.items():
        server.script(verb, play)
    async with working(server, handlers=handlers_that_wait_for(go), **PACE, **row.settings) as rig:
        await server.asked(*row.until)
        rig.worker.drain(row.drain_s)
        if row.drain_s > 1.0:
            go.set()
        async with asyncio.timeout(3.0):
            await asyncio.shield(rig.work)
    for verb in ("complete", "fail"):
        bodies, wanted = [body for _, body in rig.told(verb)], row.reports.get(verb, ())
        assert len(bodies) == len(wanted), (verb, bodies)
        assert all(map(holds, bodies, wanted)), (verb, bodies)
        assert all(body["worker_id"] == rig.worker_ids()[0] for body in bodies)
    for verb, least in row.least.items():
        assert len(server.of(verb)) >= least


@pytest.mark.parametrize("row", CLIENT_ROWS, ids=lambda row: row.name)
async def test_the_client_does_what_the_scenario_asks(server: ScriptedEngine, row: ClientRow) -> None:
    verb = row.verb.removesuffix("_paid")
    if row.has_credentials:
        herd = Herd(server, workers=1)
        client, close = herd.clients[0], herd.aclose
    else:
        client = connect(WorkerConfig(api_url=server.url, **server.settings), None, connections=1)
        close = client.aclose
    server.script(verb, *row.replies)
    assert await called(client, row.verb) == row.result
    await close()
    requests = server.of(verb)
    assert tuple(request.headers.get("authorization") for request in requests) == row.bearers
    assert len(server.of("token")) == row.tokens
    assert holds(requests[-1].json, row.body), requests[-1].json


async def called(client: KruxiaEngine, verb: str) -> str:
    """Makes the call and returns its result."""
    spent: Any = SPENT if verb.endswith("_paid") else {}
    try:
        match verb.removesuffix("_paid"):
            case "poll":
                return type(await client.poll("demo", "w1", 5, 5.0)).__name__
            case "complete":
                body = client.encode_completion("w1", Completed(b'{"n":1}', **spent))
                return (await client.complete(ID, body, 5.0)).verdict.name
            case "fail":
                outcome = Failed("RATE_LIMITED", "provider rate limit", retryable=True, **spent)
                return (await client.fail(ID, client.encode_failure("w1", outcome), 5.0)).verdict.name
            case _:
                return (await client.heartbeat(ID, "w1", 5.0)).verdict.name
    except EngineError as error:
        return type(error).__name__


def test_every_scenario_of_the_crate_has_its_row(kruxiaflow_crate: Path) -> None:
    """Of the release that was read; a newer one is looked at when `CRATE` is raised."""
    assert kruxiaflow_crate.name == f"kruxiaflow-worker-{CRATE}"
    text = (kruxiaflow_crate / "tests" / "protocol_test.rs").read_text()
    theirs = set(re.findall(r"#\[tokio::test\]\s+async fn (\w+)", text))
    assert theirs == {row.name for row in ROWS} | {row.name for row in CLIENT_ROWS}
