"""CPU per call of both transports against a stub that costs next to none.

    python tests/bench/transport_cost.py [--repeat 3] [--calls 4000] [--loop uvloop] [--json FILE] [--only PART]

The stub is a process of its own; what is measured is this process's CPU alone. Ratios hold, absolute figures are this
machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import uvloop
from bench_kit import arguments, in_turn
from sheet import Sheet

from flowherd.client.kruxia import new_transport
from flowherd.settings.worker_config import WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.transport.transport import Transport

HTTPX = "httpx"
TRANSPORTS = (HTTPX, "direct")
CPU = "CPU, us a call"
CALLERS = 16
REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n"
    b'date: Tue, 24 Nov 2026 10:00:00 GMT\r\n\r\n{"acknowledged":true}'
)
ROUTE = "/api/v1/activities/0193a1b2-0000-7000-8000-000000000001/complete"
BODY = b'{"worker_id":"host-1234-12-1","output":{"answer":42}}'


class Stub(asyncio.Protocol):
    """Replies to every request that arrives in one piece, without parsing it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):  # httpx sends head and body in two pieces
            self.transport.write(REPLY)


@contextlib.contextmanager
def stub() -> Iterator[str]:
    """The URL of a stub in a forked process, ended with the block."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            uvloop.run(_serve(theirs))
        finally:
            os._exit(0)
    port = os.read(ours, 16).decode()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        os.close(ours)
        os.close(theirs)


async def _serve(tell: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    os.write(tell, str(server.sockets[0].getsockname()[1]).encode())
    await server.serve_forever()


async def cost(url: str, name: str, calls: int) -> dict[str, float]:
    """Measures the CPU per call, and calls per second, with `CALLERS` at once."""
    config = WorkerConfig(api_url=url, transport=name)
    transport: Transport = new_transport(config, None, connections=CALLERS)
    await _call_often(transport, calls // 10)
    cpu, begun = time.process_time(), time.perf_counter()
    await _call_often(transport, calls)
    cpu, took = time.process_time() - cpu, time.perf_counter() - begun
    await transport.aclose()
    return {CPU: cpu / calls * 1e6, "calls a second": calls / took}


async def _call_often(transport: Transport, calls: int) -> None:
    async def some() -> None:
        for _ in range(max(calls // CALLERS, 1)):
            await transport.call(ROUTE, BODY, 30.0)

    await asyncio.gather(*(some() for _ in range(CALLERS)))


def main() -> int:
    """Measures all in turn, `--repeat` times."""
    parser = arguments(__doc__)
    parser.add_argument("--calls", type=int, default=4_000, help="of httpx; direct makes more")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    runner = uvloop.run if options.loop == "uvloop" else asyncio.run
    sheet = Sheet("transports", f"{CALLERS} calls at once, {options.loop}; CPU of the client alone")
    with stub() as url:

        def measure(name: str) -> dict[str, float]:
            calls = options.calls * (1 if name == HTTPX else 5)
            return runner(cost(url, name, calls))

        in_turn(sheet, options, {name: partial(measure, name) for name in TRANSPORTS})
    sheet.compare(CPU, HTTPX)
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
