"""The real engine's bench: its definitions, and that no poll is missed however its bytes are cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import httpx
import pytest
from bench.counting_proxy import EMPTY, POLL

PROXY = Path(__file__).parent / "counting_proxy.py"
REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"


def scenarios():
    sys.path.insert(0, str(PROXY.parent))
    from bench.real_engine import SCENARIOS

    return {one.name: one for one in SCENARIOS}


def test_the_scenarios_have_the_published_shapes() -> None:
    found = scenarios()
    shapes = {name: (len(one.activities), one.workflows, one.at_once) for name, one in found.items()}
    assert shapes["Sequential-5"] == (5, 100, 10)
    assert shapes["Parallel-10"] == (12, 50, 10)
    assert shapes["High-Concurrency-3"] == (3, 300, 100)
    fan = {one["key"]: one["depends_on"] for one in found["Parallel-10"].activities}
    assert len(fan["last"]) == 10
    assert all(fan[key] == ["first"] for key in fan["last"])
    assert [one["depends_on"] for one in found["Sequential-5"].activities][:3] == [[], ["step_0"], ["step_1"]]


@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_polls_and_empty_ones_are_counted_however_the_bytes_are_cut(size: int) -> None:
    """A reply can come in two pieces, and several requests in one."""
    replies = [
        b'{"activities":[],"count":0}',
        b'{"activities":[1],"count":1}',
        b'{"activities":[],"count":0}',
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body in replies:
            await reader.readuntil(b"{}")
            whole = REPLY % (len(body), body)
            for start in range(0, len(whole), size):
                writer.write(whole[start : start + size])
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    engine = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    proxy = await asyncio.create_subprocess_exec(
        sys.executable, str(PROXY), engine, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert proxy.stdin is not None
    assert proxy.stdout is not None
    url = (await proxy.stdout.readline()).decode().strip()
    async with httpx.AsyncClient(trust_env=False) as http:
        for path in ("workers/poll", "activities/a-1/complete", "workers/poll"):
            await http.post(f"{url}/api/v1/{path}", content=b"{}")
    proxy.stdin.write(b"\n")
    counted = json.loads(await proxy.stdout.readline())
    assert counted == {"polls": 2, "empty": 2}, (POLL, EMPTY)
    proxy.stdin.close()
    with contextlib.suppress(ConnectionError):
        await proxy.wait()
    server.close()
