"""Connections to one origin: bounded, in order, reused, expired, never shared, never trusted after surplus bytes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from scripted_engine import Play, ScriptedEngine

from flowherd.errors import EngineDisconnected
from flowherd.transport.connection_pool import HttpPool
from flowherd.transport.direct_transport import DirectTransport
from flowherd.transport.wire_format import ConnectError, Origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowherd.transport.connection import HttpConnection

ROUTE = "/api/v1/activities/x/complete"


@pytest.fixture
async def direct(server: ScriptedEngine) -> AsyncIterator[DirectTransport]:
    transport = DirectTransport(server.url, None, connections=2)
    yield transport
    await transport.aclose()


@pytest.fixture
async def pool(server: ScriptedEngine) -> AsyncIterator[HttpPool]:
    pool = HttpPool(Origin.of(server.url), connections=2, idle_s=0.05)
    yield pool
    await pool.aclose()


async def call(transport: DirectTransport, route: str = ROUTE, deadline_s: float = 5.0):
    return await transport.call(route, b"{}", deadline_s)


async def used(pool: HttpPool) -> HttpConnection:
    """A connection that has carried one exchange."""
    connection = await pool.acquire()
    connection.begin(1000)
    connection.write(b"POST /x/complete HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    await connection.whole_reply()
    return connection


# The pool


async def test_the_connection_used_last_is_used_next(pool: HttpPool) -> None:
    """LIFO: the others may expire."""
    first, second = await used(pool), await used(pool)
    pool.release(first)
    pool.release(second)
    assert pool.take() is second
    assert pool.take() is first
    assert pool.take() is None
    pool.release(first)
    pool.release(second)


async def test_waiters_are_served_in_order_and_never_more_than_agreed(
    server: ScriptedEngine, pool: HttpPool
) -> None:
    held = [await used(pool), await used(pool)]
    order: list[int] = []

    async def wait(number: int) -> None:
        connection = await pool.acquire()
        order.append(number)
        pool.release(connection)

    waiting = [asyncio.create_task(wait(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    pool.release(held[0])
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2, 3, 4]
    pool.release(held[1])
    assert server.connections == 2


async def test_a_turn_is_passed_on_by_a_cancelled_call(pool: HttpPool) -> None:
    held = [await used(pool), await used(pool)]
    leaver, stayer = (asyncio.create_task(pool.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    pool.release(held[0])
    leaver.cancel()
    async with asyncio.timeout(2.0):
        assert await stayer is held[0]
    pool.release(held[0])
    pool.release(held[1])


async def test_a_place_is_given_back_when_no_connection_comes_about(server: ScriptedEngine) -> None:
    gone = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    pool = HttpPool(Origin("http", "127.0.0.1", port), connections=1)
    results = await asyncio.gather(*(pool.acquire() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, ConnectError) for result in results)
    await pool.aclose()


async def test_a_cancelled_connect_gives_its_place_back(server: ScriptedEngine) -> None:
    pool = HttpPool(Origin.of(server.url), connections=1)
    for _ in range(3):
        task = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(2.0):
        pool.release(await pool.acquire())
    await pool.aclose()


async def test_idle_connections_expire(server: ScriptedEngine, pool: HttpPool) -> None:
    connection = await used(pool)
    pool.release(connection)
    async with asyncio.timeout(2.0):
        for writer in list(server._open):
            await writer.wait_closed()
    assert pool.take() is None


async def test_a_closed_pool_refuses_waiting_and_new_calls(server: ScriptedEngine) -> None:
    pool = HttpPool(Origin.of(server.url), connections=1)
    held = await used(pool)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    await pool.aclose()
    with pytest.raises(ConnectError, match="closed"):
        await waiting
    pool.release(held)
    with pytest.raises(ConnectError, match="closed"):
        await pool.acquire()


# What a connection is not used for again


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}\0",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ],
    ids=["second reply", "one byte", "close", "1.0"],
)
async def test_after_such_a_reply_the_connection_is_closed(
    server: ScriptedEngine, direct: DirectTransport, raw: bytes
) -> None:
    """Smuggling: the second call must see its own reply."""
    server.script("complete", Play(raw=raw), Play(200, b"mine"))
    assert (await call(direct)).body == b"{}"
    assert (await call(direct)).body == b"mine"
    assert server.connections == 2


async def test_bytes_on_an_idle_connection_answer_no_request(
    direct: DirectTransport, server: ScriptedEngine
) -> None:
    """Smuggling: they come before the request, even if the loop has yet to read them."""
    await call(direct)
    (writer,) = server._open
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    await writer.drain()
    server.script("complete", Play(200, b"mine"))
    assert (await call(direct)).body == b"mine"
    assert server.connections == 2


async def test_a_banner_before_the_request_is_no_reply() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    pool = HttpPool(Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1]), connections=1)
    connection = await pool.acquire()
    async with asyncio.timeout(2.0):
        await pool._ended.wait()
    assert not connection.rest()
    pool.release(connection)
    await pool.aclose()
    server.close()


async def test_a_cancelled_call_closes_its_own_connection_and_no_other(
    server: ScriptedEngine, direct: DirectTransport
) -> None:
    """Its reply would answer the next call."""
    late = asyncio.Event()
    server.script(
        "complete", Play(200, b"late", hold=late), Play(200, b"other", hold=late), Play(200, b"mine")
    )
    cancelled, other = asyncio.create_task(call(direct)), asyncio.create_task(call(direct))
    await server.asked("complete", 2)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    mine = asyncio.create_task(call(direct))
    await server.asked("complete", 3)
    late.set()
    assert {(await other).body, (await mine).body} <= {b"late", b"other", b"mine"}
    assert (await mine).body == b"mine"
    assert server.connections == 3


async def test_no_connection_carries_two_requests_at_once(
    server: ScriptedEngine, direct: DirectTransport
) -> None:
    """No pipelining: a slow reply holds up only its own caller."""
    hold = asyncio.Event()
    server.script("complete", Play(200, b"slow", hold=hold))
    slow = asyncio.create_task(call(direct))
    await server.asked("complete")
    replies = await asyncio.gather(*(call(direct) for _ in range(10)))
    assert {reply.body for reply in replies} == {b'{"acknowledged": true}'}
    by_connection = [request.connection for request in server.requests]
    assert by_connection.count(by_connection[0]) == 1
    hold.set()
    assert (await slow).body == b"slow"


async def test_connections_a_restarted_engine_gave_up_cost_one_try(server: ScriptedEngine) -> None:
    """Faults E4: the first that turns out stale takes the other idle ones along."""
    direct = DirectTransport(server.url, None, connections=8)
    hold = asyncio.Event()
    server.script("complete", *[Play(hold=hold)] * 8)
    calls = [asyncio.create_task(call(direct)) for _ in range(8)]
    await server.asked("complete", 8)
    hold.set()
    await asyncio.gather(*calls)
    server.script("complete", Play(close_after=0))
    with pytest.raises(EngineDisconnected):
        await call(direct)
    await call(direct)
    assert server.connections == 9
    await direct.aclose()


async def test_a_reply_that_comes_before_the_request_was_sent_is_read(server: ScriptedEngine) -> None:
    """E27: a proxy that refuses a large body says so at once."""

    has_ended = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()
        has_ended.set()

    hasty = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{hasty.sockets[0].getsockname()[1]}"
    direct = DirectTransport(url, None, connections=1)
    reply = await direct.call(ROUTE, b"x" * (32 << 20), 5.0)
    assert (reply.status, reply.body) == (413, b"big")
    await direct.aclose()
    await has_ended.wait()
    hasty.close()
