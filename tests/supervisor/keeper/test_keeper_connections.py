"""N2: clients of the admin port use only bounded resources of the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from flowherd_supervisor.keeper import access_check, http_server
from flowherd_supervisor.keeper.http_server import Clients, bounded, most_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CEILING_S = 10.0


class Pages:
    """Fake routes: /livez replies, /large has a large reply, /api/events never ends."""

    async def over_tcp(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/api/events":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        size = 8 << 20 if scope["path"] == "/large" else 2
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def over_unix(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.over_tcp(scope, receive, send)


class Server:
    """A real server on a free port for at most `most` connections."""

    def __init__(self, clients: Clients, port: int, path: Path) -> None:
        self.clients = clients
        self.port = port
        self.path = path
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1024)
        self._open.append(writer)
        writer.write(sent)
        return reader, writer

    async def get(self, path: str = "/livez") -> bytes:
        """Returns the status line of a request on a new connection."""
        reader, writer = await self.connect(
            f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(CEILING_S):
            line = await reader.readline()
        writer.close()
        return line

    def close(self) -> None:
        for writer in self._open:
            writer.close()


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(http_server, "HEAD_WITHIN_S", 0.3)
    monkeypatch.setattr(http_server, "REPLY_WITHIN_S", 0.3)
    monkeypatch.setattr(http_server, "_QUIET_S", 0.1)
    clients = Clients(most=4)
    listener = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    config = uvicorn.Config(
        Pages().over_tcp,
        http=bounded(Pages(), clients),
        interface="asgi3",
        proxy_headers=False,
        lifespan="off",
        log_config=None,
        h11_max_incomplete_event_size=16 << 10,
    )
    program = uvicorn.Server(config)
    program.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.get_running_loop().create_task(program.serve(sockets=[listener, unix]))
    server = Server(clients, listener.getsockname()[1], tmp_path / "s")
    async with asyncio.timeout(CEILING_S):
        while not program.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(0.01)
    yield server
    server.close()
    program.should_exit = program.force_exit = True
    await task


async def ended(reader: asyncio.StreamReader) -> bool:
    """Waits for the server to close the connection; a reset counts, too."""
    try:
        async with asyncio.timeout(CEILING_S):
            while await reader.read(65536):
                pass
    except ConnectionResetError:
        pass
    return True


async def test_an_idle_client_gives_way_to_a_newer_one_and_the_log_has_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "HEAD_WITHIN_S", 60.0)
    caplog.set_level("INFO")
    first, _ = await server.connect()
    for _ in range(40):
        await server.connect()
    assert await ended(first)
    assert b"200" in await server.get()
    assert caplog.text.count("admin_port_crowded") == 1
    async with asyncio.timeout(CEILING_S):
        while "admin_port_quiet" not in caplog.text:  # noqa: ASYNC110 - only a line of the log shows it
            await asyncio.sleep(0.02)


async def test_connections_being_served_are_kept_and_new_ones_refused_at_once(
    server: Server,
) -> None:
    watchers = [
        await server.connect(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n") for _ in range(4)
    ]
    for reader, _ in watchers:
        assert b"200" in await reader.readline()
    newcomer, _ = await server.connect(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert await newcomer.read(1) == b"" if not newcomer.exception() else True
    assert not any(reader.at_eof() for reader, _ in watchers)
    assert repr(server.clients) == "<Clients [4 over TCP, 0 over the unix socket]>"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /li", b"GET /livez HTTP/1.1\r\nhost: loc", b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /li"],
)
async def test_a_request_that_does_not_come_whole_in_time_ends_its_connection(
    server: Server, sent: bytes
) -> None:
    reader, _ = await server.connect(sent)
    assert await ended(reader)


async def test_endless_headers_end_the_connection_before_they_fill_memory(server: Server) -> None:
    reader, writer = await server.connect(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(4_000):
            writer.write(b"x-%d: %s\r\n" % (number, b"y" * 100))
            await writer.drain()
    assert await ended(reader)


@pytest.mark.parametrize("path", ["/large", "/api/events"])
async def test_a_client_that_does_not_read_is_ended(server: Server, path: str) -> None:
    """An event stream is closed only once the kernel's buffers are full."""
    if path == "/api/events":
        reader, _ = await server.connect(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" in await reader.readline()
        (watcher,) = server.clients._inside[False]
        watcher.pause_writing()
        assert await ended(reader)
        return
    _, writer = await server.connect(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(CEILING_S):
        while server.clients._inside[False]:  # noqa: ASYNC110 - only the server's own writer shows it
            await asyncio.sleep(0.02)


async def test_a_connection_that_is_used_again_stays(server: Server) -> None:
    reader, writer = await server.connect()
    for _ in range(3):
        writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" in await reader.readline()
        while (await reader.readline()).strip():
            pass
        assert await reader.readexactly(2) == b"xx"
        await asyncio.sleep(0.2)  # each less than the limit for a head, three of them more
    assert repr(server.clients) == "<Clients [1 over TCP, 0 over the unix socket]>"


async def test_the_unix_socket_has_places_of_its_own(server: Server) -> None:
    """`flowherd ctl` works even if the port is flooded."""
    for _ in range(4):
        await server.connect(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
    async with asyncio.timeout(CEILING_S):
        assert b"200" in await reader.readline()
    writer.close()


async def test_another_users_process_is_refused_on_the_unix_socket(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: the peer's uid, which comes from the kernel, decides."""
    monkeypatch.setattr(access_check.os, "geteuid", lambda: 12_345)
    monkeypatch.setattr(access_check, "_ROOT", 54_321)
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    assert await ended(reader)
    writer.close()
    assert "stranger_refused" in caplog.text


def test_a_process_that_may_open_few_descriptors_serves_few_clients() -> None:
    """Connections to the engine need descriptors, too."""
    assert [most_tcp(soft) for soft in (64, 256, 1024, 1 << 20)] == [8, 32, 64, 64]
