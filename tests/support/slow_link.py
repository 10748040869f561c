"""An engine behind a link with a limited rate, shared by all connections and both directions."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

_PIECE = 4096
_REPLIES = {"poll": b'{"activities":[],"count":0}'}


class SlowLink:
    """The link with an engine that accepts everything; use `slow_link`.

    Attributes:
        url: its base URL.
        taken: number of complete requests, by the end of their path.
        polled: the reply to polls.
        breaks_after: number of received bytes after which the link stalls.

    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self.url = ""
        self.taken: Counter[str] = Counter()
        self.received = 0
        self.polled = _REPLIES["poll"]
        self.breaks_after: float = float("inf")
        self._connections: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            buffered = b""
            while buffered or (buffered := await self._read(reader)):
                buffered = await self._answer(reader, writer, buffered)
        self._connections.discard(task)
        writer.transport.abort()

    def end(self) -> None:
        """Closes all connections."""
        for task in list(self._connections):
            task.cancel()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
        """Reads the rest of a request and replies; returns the bytes after it."""
        while b"\r\n\r\n" not in data:
            data += await self._read(reader, at_least=1)
        head, _, rest = data.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        left = int(found[1]) if found else 0
        while len(rest) < left:
            left -= len(rest)
            rest = await self._read(reader, at_least=1)
        verb = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        self.taken[verb] += 1
        body = self.polled if verb == "poll" else b'{"acknowledged":true}'
        reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        for begin in range(0, len(reply), _PIECE):
            piece = reply[begin : begin + _PIECE]
            await self._carried(len(piece))
            writer.write(piece)
            await writer.drain()
        return rest[left:]

    async def _read(self, reader: asyncio.StreamReader, at_least: int = 0) -> bytes:
        data = await reader.read(_PIECE)
        if len(data) < at_least:
            raise ConnectionResetError
        self.received += len(data)
        await self._carried(len(data))
        return data

    async def _carried(self, size: int) -> None:
        """Waits until the link has carried `count` bytes, in turn with the other connections."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self._bytes_per_s
        await asyncio.sleep(self._free_at - now)
        if self.received > self.breaks_after:
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def slow_link(bytes_per_s: float, tls: ssl.SSLContext | None = None) -> AsyncIterator[SlowLink]:
    """An engine on an ephemeral port whose sockets have small buffers."""
    link = SlowLink(bytes_per_s)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * _PIECE)
    sock.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(link.connected, sock=sock, limit=_PIECE, ssl=tls)
    link.url = f"{'https' if tls else 'http'}://127.0.0.1:{sock.getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        link.end()
        await asyncio.sleep(0)
