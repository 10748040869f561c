"""Connecting to a host of several addresses, of which some are dead, on both loops (faults.md N18)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import ssl
import warnings
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop
from scripted_engine import ScriptedEngine

from flowherd.attempt_ids import AttemptIds, working_for
from flowherd.errors import EngineUnavailable
from flowherd.transport.dialing import dial
from flowherd.transport.direct_transport import DirectTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

ROUTE = "/api/v1/activities/x/complete"
HOST = "engine.test"
CRASHED, DEAD_TOO, ALIVE = "127.0.0.2", "127.0.0.3", "127.0.0.1"


class _Resolves:
    """A loop whose resolver knows one name, and gives its addresses in this order."""

    addresses: tuple[str, ...] = ()

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        if host != HOST:  # uvloop looks up what is none
            return await super().getaddrinfo(host, port, **options)  # type: ignore[misc, no-any-return]
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, port)) for address in self.addresses]


class _Asyncio(_Resolves, asyncio.SelectorEventLoop): ...


class _Uvloop(_Resolves, uvloop.Loop): ...


@pytest.fixture(params=[_Asyncio, _Uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a coroutine on a loop that resolves the engine's name to these addresses."""

    def run(work: Awaitable[None], *addresses: str) -> None:
        def new_loop() -> asyncio.AbstractEventLoop:
            loop = request.param()
            loop.addresses = addresses
            return loop

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(work)  # type: ignore[arg-type]  # a coroutine

    return run


@contextlib.contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """A listener with a full backlog: connections are neither accepted nor refused."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            filler = waiting.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex((address, port))
        yield


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[ScriptedEngine, int]]:
    engine = ScriptedEngine()
    server = await asyncio.start_server(engine.serve, ALIVE, 0, ssl=tls)
    yield engine, server.sockets[0].getsockname()[1]
    server.close()
    await engine.close_idle()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_next_address_is_tried_while_the_first_says_nothing(run, *, secure: bool) -> None:
    """N18: uvloop alone would wait for minutes; httpx waits for 250 ms."""
    authority = trustme.CA()
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert(HOST).configure_cert(here)
    authority.configure_trust(there)

    async def call() -> None:
        async with serving(here if secure else None) as (engine, port):
            with black_hole(CRASHED, port), black_hole(DEAD_TOO, port):
                scheme = "https" if secure else "http"
                url = f"{scheme}://{HOST}:{port}"
                direct = DirectTransport(url, None, connections=1, tls=there if secure else None)
                began = asyncio.get_running_loop().time()
                assert (await direct.call(ROUTE, b"{}", 10.0)).status == 200
                assert 0.5 <= asyncio.get_running_loop().time() - began < 10.0
                assert (engine.connections, engine.requests[0].headers["host"]) == (1, f"{HOST}:{port}")
                await direct.aclose()

    run(call(), CRASHED, DEAD_TOO, ALIVE)


def test_an_address_that_refuses_costs_no_time(run) -> None:
    async def call() -> None:
        async with serving() as (_, port):
            began = asyncio.get_running_loop().time()
            (await dial(HOST, port)).close()
            assert asyncio.get_running_loop().time() - began < 0.25

    run(call(), CRASHED, DEAD_TOO, ALIVE)


def test_when_all_refuse_each_reason_is_said_and_nothing_was_sent(run) -> None:
    async def call() -> None:
        async with serving() as (_, port):
            direct = DirectTransport(f"http://{HOST}:{port}", None, connections=1)
            with pytest.raises(EngineUnavailable, match=rf"{CRASHED}.*; .*{DEAD_TOO}") as raised:
                await direct.call(ROUTE, b"{}", 20.0)
            assert not raised.value.in_doubt
            await direct.aclose()

    run(call(), CRASHED, DEAD_TOO)


@pytest.mark.filterwarnings("error")
def test_no_socket_is_left_by_a_losing_or_abandoned_attempt(run) -> None:
    """A dead address costs a socket for each connection otherwise, for as long as the kernel tries."""

    async def call() -> None:
        async with serving() as (_, port):
            with (
                black_hole(CRASHED, port),
                black_hole(DEAD_TOO, port),
                warnings.catch_warnings(record=True) as left,
            ):
                warnings.simplefilter("always")
                (await dial(HOST, port)).close()
                asyncio.get_running_loop().addresses = (CRASHED, DEAD_TOO)  # type: ignore[attr-defined]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(dial(HOST, port), 0.4)
                await asyncio.sleep(0.05)
                gc.collect()
                assert [str(warning.message) for warning in left] == []

    run(call(), CRASHED, ALIVE)


def test_the_families_of_a_name_take_turns(run) -> None:
    """RFC 8305: one family without a route must not use up the time of all."""

    async def call() -> None:
        async def getaddrinfo(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
            six = [(socket.AF_INET6, 1, 6, "", (f"::ffff:127.0.0.{n}", port, 0, 0)) for n in (5, 6)]
            four = [(socket.AF_INET, 1, 6, "", (f"127.0.0.{n}", port)) for n in (7, 8)]
            return six + four

        async with serving() as (_, port):  # on another address: all of these refuse
            asyncio.get_running_loop().getaddrinfo = getaddrinfo  # type: ignore[method-assign]
            with pytest.raises(OSError, match=r"refused") as raised:
                await dial(HOST, port)
        assert re.findall(r"127\.0\.0\.(\d)", str(raised.value)) == ["5", "7", "6", "8"]

    run(call())


def test_a_literal_address_costs_no_thread(run) -> None:
    """Law 4: a rehearsal before the fork may leave no thread behind, and uvloop looks names up in four."""

    async def call() -> None:
        async with serving() as (_, port):
            before = len(os.listdir("/proc/self/task"))
            (await dial(ALIVE, port)).close()
            assert len(os.listdir("/proc/self/task")) == before

    run(call())


def test_a_handler_that_cancels_all_tasks_cuts_off_no_dialing(run) -> None:
    """A22: the call that waits for the connection would end as if it were cancelled itself."""

    def cancel_all() -> None:
        for task in asyncio.all_tasks() - {own}:
            task.cancel()

    async def call() -> None:
        nonlocal own
        own = asyncio.current_task()
        async with serving() as (_, port):
            with black_hole(CRASHED, port):
                as_a_handler = copy_context()
                as_a_handler.run(working_for.set, AttemptIds("a-1", "wf-1", "step", "meddle"))
                asyncio.get_running_loop().call_later(0.1, cancel_all, context=as_a_handler)
                with await dial(HOST, port) as sock:
                    assert sock.getpeername() == (ALIVE, port)
        assert asyncio.all_tasks() == {own}

    own: asyncio.Task[Any] | None = None
    run(call(), CRASHED, ALIVE)
