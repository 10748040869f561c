"""Calls that are begun without a task: each has its own reply or error, or is not begun at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from scripted_engine import Play, ScriptedEngine

from flowherd.client.tokens import Token
from flowherd.errors import EngineDisconnected, EngineError, EngineUnavailable, ReplyTooLarge
from flowherd.transport.direct import DirectTransport
from flowherd.transport.transport import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROUTE = "/api/v1/activities/x/complete"


class Source:
    """A token that may be missing."""

    def __init__(self, token: Token | None) -> None:
        self.token = token

    def known(self) -> Token | None:
        return self.token

    async def current(self) -> Token | None:
        return self.token

    async def renewed(self, refused: Token) -> Token:
        self.token = Token(refused.version + 1, "fresh")
        return self.token


class Calls:
    """Begins calls and keeps what comes of them."""

    def __init__(self, transport: DirectTransport) -> None:
        self.transport = transport
        self.results: asyncio.Queue[Reply | EngineError | None] = asyncio.Queue()

    def begin(self, body: bytes = b"{}", deadline_s: float = 5.0) -> bool:
        return self.transport.begin(ROUTE, body, deadline_s, self.results.put_nowait)

    async def result(self) -> Reply | EngineError | None:
        async with asyncio.timeout(10.0):
            return await self.results.get()

    async def warm(self) -> None:
        """There is an idle connection."""
        await self.transport.call(ROUTE, b"{}", 5.0)


@pytest.fixture
async def calls(server: ScriptedEngine) -> AsyncIterator[Calls]:
    calls = Calls(DirectTransport(server.url, None, connections=2))
    yield calls
    await calls.transport.aclose()


async def test_without_an_idle_connection_nothing_is_begun(server: ScriptedEngine, calls: Calls) -> None:
    assert not calls.begin()
    await calls.warm()
    server.script("complete", Play(hold=(held := asyncio.Event())))
    assert calls.begin()
    assert not calls.begin()
    held.set()
    assert isinstance(await calls.result(), Reply)
    assert calls.begin()
    await calls.result()
    assert len(server.requests) == 3
    assert server.connections == 1
    assert calls.results.empty()


@pytest.mark.parametrize("size", [2, 100_000])
async def test_what_is_begun_is_the_same_request_as_a_call(
    server: ScriptedEngine, calls: Calls, size: int
) -> None:
    """Also a body that is sent apart from its head."""
    await calls.transport.call(ROUTE, b"x" * size, 5.0)
    assert calls.begin(b"x" * size)
    reply = await calls.result()
    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    called, begun = server.requests
    assert (called.path, called.headers, called.body) == (begun.path, begun.headers, begun.body)


@pytest.mark.parametrize(
    ("play", "kind", "in_doubt"),
    [
        (Play(reset_after=0), EngineDisconnected, True),
        (Play(reset_after=30), EngineUnavailable, True),
        (Play(close_after=40), EngineUnavailable, True),
        (Play(raw=b"nonsense\r\n\r\n"), EngineUnavailable, True),
        (Play(body=b"x" * (2 << 20)), ReplyTooLarge, True),
        (Play(headers={"content-encoding": "gzip"}), EngineUnavailable, True),
    ],
)
async def test_what_goes_wrong_is_the_error_that_a_call_would_raise(
    server: ScriptedEngine, calls: Calls, play: Play, kind: type[EngineError], *, in_doubt: bool
) -> None:
    await calls.warm()
    server.script("complete", play, play)
    assert calls.begin()
    error = await calls.result()
    assert type(error) is kind
    assert error.in_doubt is in_doubt
    with pytest.raises(kind) as raised:
        await calls.warm()
    if kind is not EngineDisconnected:  # which says how it was reset
        assert str(raised.value) == str(error)
    await calls.warm()


async def test_what_is_late_ends_at_its_own_deadline_and_its_connection_with_it(
    server: ScriptedEngine, calls: Calls
) -> None:
    """Calls with shorter and longer deadlines are under way at the same time; one timer watches them all."""
    await asyncio.gather(calls.warm(), calls.warm())
    server.always("complete", Play(hold=(never := asyncio.Event())))
    now = asyncio.get_running_loop().time
    begun_at = now()
    assert calls.begin(deadline_s=60.0)
    assert calls.begin(deadline_s=0.05)
    error = await calls.result()
    assert isinstance(error, EngineUnavailable)
    assert str(error) == "no complete reply within 0.05 s"
    assert error.in_doubt
    assert 0.045 <= now() - begun_at < 30.0
    assert calls.results.empty()
    never.set()
    assert isinstance(await calls.result(), Reply)


async def test_the_timer_goes_on_to_the_next_deadline(server: ScriptedEngine, calls: Calls) -> None:
    await asyncio.gather(calls.warm(), calls.warm())
    server.always("complete", Play(hold=(never := asyncio.Event())))
    assert calls.begin(deadline_s=0.02)
    assert calls.begin(deadline_s=0.04)
    assert {str(await calls.result()) for _ in range(2)} == {
        "no complete reply within 0.02 s",
        "no complete reply within 0.04 s",
    }
    never.set()


async def test_a_connection_that_rests_is_not_ended_by_the_deadline_of_its_last_call(
    server: ScriptedEngine, calls: Calls
) -> None:
    await calls.transport.call(ROUTE, b"{}", 0.05)
    await asyncio.sleep(0.1)
    assert calls.begin()
    assert isinstance(await calls.result(), Reply)
    assert server.connections == 1


async def test_without_a_token_nothing_is_begun_and_a_refused_one_is_left_to_a_call(
    server: ScriptedEngine,
) -> None:
    """Somebody has to wait for the next token."""
    source = Source(None)
    calls = Calls(DirectTransport(server.url, source, connections=2))
    try:
        await calls.warm()
        assert not calls.begin()
        source.token = Token(1, "stale")
        server.script("complete", Play(401, b""), Play(401, b""))
        assert calls.begin()
        assert await calls.result() is None
        await calls.warm()
        assert calls.begin()
        assert isinstance(await calls.result(), Reply)
        assert [request.headers.get("authorization") for request in server.requests] == [
            None, "Bearer stale", "Bearer stale", "Bearer fresh", "Bearer fresh",
        ]  # fmt: skip
        source.token = Token(3, "no\r\nheader")
        assert not calls.begin()
    finally:
        await calls.transport.aclose()


async def test_a_closed_transport_ends_what_is_under_way(server: ScriptedEngine, calls: Calls) -> None:
    await calls.warm()
    server.always("complete", Play(hold=(never := asyncio.Event())))
    assert calls.begin()
    await calls.transport.aclose()
    assert isinstance(await calls.result(), EngineDisconnected)
    assert not calls.begin()
    never.set()


async def test_a_call_under_way_when_all_connections_are_closed_is_an_error(calls: Calls) -> None:
    await calls.warm()
    assert calls.begin()
    await calls.transport.aclose()
    error = await calls.result()
    assert isinstance(error, EngineDisconnected)
