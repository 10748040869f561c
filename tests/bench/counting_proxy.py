"""Stands between a worker and an engine, and counts the polls; it changes nothing that passes.

    python tests/bench/counting_proxy.py http://127.0.0.1:8080

It prints the URL that the worker is to call. Each line on its standard input is answered with what it has counted since
the line before: {"polls": 12, "empty": 3}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from urllib.parse import urlsplit

POLL, EMPTY = b"POST /api/v1/workers/poll ", b'"count":0}'
_PIECE = 1 << 16


class Proxy:
    """Passes on bytes.

    Attributes:
        counts: by name, what has passed since they were last cleared.

    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.counts: Counter[str] = Counter()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the worker."""
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(
            self._pass(reader, back, "polls", POLL), self._pass(there, writer, "empty", EMPTY)
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, sign: bytes
    ) -> None:
        before = b""
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                writer.write(piece)
                seen = before + piece
                self.counts[name] += seen.count(sign)
                before = seen[-len(sign) + 1 :]
                await writer.drain()
        writer.close()


async def main(url: str) -> None:
    """Serves until its standard input ends."""
    address = urlsplit(url)
    assert address.hostname is not None
    proxy = Proxy(address.hostname, address.port or 80)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(proxy.counts), flush=True)
        proxy.counts.clear()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
