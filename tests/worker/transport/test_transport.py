"""The transport: one deadline for everything, no redirect, no proxy, precise errors."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme
from scripted_engine import Play, ScriptedEngine, scripted_engine

from flowherd.client import kruxia
from flowherd.errors import (
    EngineDisconnected,
    EngineError,
    EngineMisconfigured,
    EngineUnavailable,
    ReplyTooLarge,
)
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.transport import HttpxTransport, Reply, Transport, new_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROUTE = "/api/v1/activities/x/complete"
ACCEPTED = Play(200, b'{"acknowledged":true}')


def new_transport(carrier: str, url: str, *, connections: int = 1) -> Transport:
    config = WorkerConfig(api_url=url, transport=carrier)  # type: ignore[arg-type]  # one of the two
    return kruxia.new_transport(config, None, connections=connections)


@pytest.fixture
async def transport(server: ScriptedEngine, carrier: str) -> AsyncIterator[Transport]:
    transport = new_transport(carrier, server.url, connections=4)
    yield transport
    await transport.aclose()


async def call(transport: Transport, deadline_s: float = 5.0, **options: int) -> Reply:
    return await transport.call(ROUTE, b'{"worker_id":"w-1"}', deadline_s, **options)


async def test_a_call_carries_bytes_there_and_back(server: ScriptedEngine, transport: Transport) -> None:
    server.script("complete", Play(207, b"anything", {"x-request-id": "7"}))
    reply = await call(transport)
    assert (reply.status, reply.body, reply.headers["x-request-id"]) == (207, b"anything", "7")
    (request,) = server.requests
    assert (request.path, request.body) == (ROUTE, b'{"worker_id":"w-1"}')
    assert "anything" not in repr(reply)


async def test_connections_are_kept_and_bounded(server: ScriptedEngine, transport: Transport) -> None:
    await asyncio.gather(*(call(transport) for _ in range(40)))
    assert server.connections <= 4
    assert len(server.requests) == 40


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_is_an_outage_and_nothing_is_in_doubt(carrier: str) -> None:
    """Faults E1: nothing was sent."""
    url = f"http://127.0.0.1:{free_port()}"
    transport = new_transport(carrier, url)
    with pytest.raises(EngineUnavailable) as raised:
        await call(transport)
    assert not raised.value.in_doubt
    assert f"ConnectError: {url}: " in str(raised.value), "the address shows a wrong port"
    await transport.aclose()


@pytest.mark.parametrize("how", ["reset_after", "close_after"])
async def test_a_reply_cut_at_any_byte_is_an_outage_in_doubt_and_the_whole_one_is_read(
    server: ScriptedEngine, transport: Transport, how: str
) -> None:
    """Faults E2: before, amid and after the reply, for every n."""
    whole = len(ACCEPTED.encoded("complete"))
    for n in range(whole):
        server.script("complete", Play(ACCEPTED.status, ACCEPTED.body, **{how: n}))
        with pytest.raises(EngineUnavailable) as raised:
            await call(transport)
        assert raised.value.in_doubt, n
    head = whole - len(ACCEPTED.body)
    server.script("complete", Play(ACCEPTED.status, ACCEPTED.body, **{how: 0}))
    with pytest.raises(EngineDisconnected):
        await call(transport)
    server.script("complete", Play(ACCEPTED.status, ACCEPTED.body, close_after=head + 3))
    with pytest.raises(EngineUnavailable) as raised:
        await call(transport)
    assert not isinstance(raised.value, EngineDisconnected)
    server.script("complete", Play(ACCEPTED.status, ACCEPTED.body, close_after=whole))
    assert (await call(transport)).body == ACCEPTED.body


@pytest.mark.parametrize(
    "make", [lambda: Play(hold=asyncio.Event()), lambda: Play(trickle_s=0.05)], ids=["stalled", "trickle"]
)
async def test_a_reply_that_never_ends_meets_the_one_deadline(
    server: ScriptedEngine, transport: Transport, make: Callable[[], Play]
) -> None:
    """Faults E3: a byte a second would always satisfy a time-out per read."""
    server.always("complete", make())
    begun = asyncio.get_running_loop().time()
    with pytest.raises(EngineUnavailable, match=r"no complete reply within 0\.3 s") as raised:
        await call(transport, 0.3)
    assert raised.value.in_doubt
    assert asyncio.get_running_loop().time() - begun < 2.0


async def test_a_call_that_waits_for_a_connection_meets_its_deadline_too(
    server: ScriptedEngine, transport: Transport
) -> None:
    server.always("complete", Play(hold=asyncio.Event()))
    results = await asyncio.gather(*(call(transport, 0.3) for _ in range(6)), return_exceptions=True)
    assert all(isinstance(result, EngineUnavailable) for result in results)


@pytest.mark.parametrize(
    "raw",
    [
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_an_outage(server: ScriptedEngine, transport: Transport, raw: bytes) -> None:
    """Faults E15."""
    server.script("complete", Play(raw=raw, close=True))
    with pytest.raises(EngineUnavailable):
        await call(transport)


async def test_a_compressed_reply_is_not_unpacked(server: ScriptedEngine, transport: Transport) -> None:
    """Faults E15: a gzip bomb; we never ask for compression."""
    bomb = gzip.compress(b"\0" * (64 << 20))
    server.script("complete", Play(200, bomb, {"content-encoding": "gzip"}))
    with pytest.raises(EngineUnavailable, match="content-encoding 'gzip' that nobody asked for"):
        await call(transport)
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("size", [1000, 1001])
async def test_a_reply_is_read_up_to_its_limit_and_no_further(
    server: ScriptedEngine, transport: Transport, size: int
) -> None:
    server.script("complete", Play(200, b"x" * size))
    if size <= 1000:
        assert len((await call(transport, max_reply_bytes=1000)).body) == size
    else:
        with pytest.raises(ReplyTooLarge):
            await call(transport, max_reply_bytes=1000)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_reply_like_any_other(
    server: ScriptedEngine, transport: Transport, status: int
) -> None:
    """Faults E11."""
    async with scripted_engine() as other:
        server.script("complete", Play(status, b"", {"location": f"{other.url}{ROUTE}"}))
        assert (await call(transport)).status == status
        assert other.requests == []
        assert len(server.requests) == 1


async def test_a_cookie_is_not_kept(server: ScriptedEngine, transport: Transport) -> None:
    """Whatever a call is answered, the next one says the same as the first."""
    server.script("complete", Play(200, b"{}", {"set-cookie": "session=7; Path=/"}))
    await call(transport)
    await call(transport)
    first, second = server.requests
    assert "cookie" not in second.headers
    assert first.headers == second.headers


@pytest.mark.parametrize("route", ["", "x", "@evil/", "//evil\r\nx: 1", "/a b", "/\0"])
async def test_a_route_leads_nowhere_else(server: ScriptedEngine, transport: Transport, route: str) -> None:
    """Header injection: nothing is sent."""
    with pytest.raises(ValueError, match="no request target"):
        await transport.call(route, b"{}", 5.0)
    assert server.requests == []


async def test_a_path_of_the_engine_stands_before_every_route(server: ScriptedEngine, carrier: str) -> None:
    transport = new_transport(carrier, f"{server.url}/behind/a%20gateway/")
    await call(transport)
    assert server.requests[0].path == f"/behind/a%20gateway{ROUTE}"
    await transport.aclose()


async def test_a_client_of_the_users_own_keeps_what_it_adds(server: ScriptedEngine) -> None:
    """Headers, parameters and cookies that a gateway asks for."""
    client = httpx.AsyncClient(
        base_url=server.url, headers={"x-gateway": "7"}, params={"key": "1"}, cookies={"session": "2"}
    )
    transport = HttpxTransport(client)
    server.always("complete?key=1", ACCEPTED)
    assert (await call(transport)).body == ACCEPTED.body
    (request,) = server.requests
    assert (request.headers["x-gateway"], request.headers["cookie"]) == ("7", "session=2")
    assert request.path == f"{ROUTE}?key=1"
    await transport.aclose()


async def test_a_large_body_goes_through_a_users_client_as_one_of_its_length(server: ScriptedEngine) -> None:
    """N8: it is read in pieces so that it is seen to move, and not sent as chunks of unknown length."""
    transport, body = HttpxTransport(httpx.AsyncClient(base_url=server.url)), b"0123456789" * 20_000
    await transport.call(ROUTE, body, 5.0)
    (request,) = server.requests
    assert (request.body, "transfer-encoding" in request.headers) == (body, False)
    await transport.aclose()


async def test_proxies_of_the_environment_are_ignored(
    server: ScriptedEngine, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults E30: they would see the bearer."""
    async with scripted_engine() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        transport = new_transport(carrier, server.url)
        await call(transport)
        await transport.aclose()
        assert proxy.requests == []
        assert len(server.requests) == 1


async def test_a_server_without_tls_is_named_as_such(carrier: str) -> None:
    """Faults E24: https in the URL, http behind it."""

    async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer_plainly, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = new_transport(carrier, f"https://127.0.0.1:{port}")
    with pytest.raises(EngineMisconfigured, match="TLS: "):
        await call(transport, 2.0)
    await transport.aclose()
    server.close()


async def test_a_certificate_of_an_unknown_authority_is_refused_by_name(carrier: str) -> None:
    """Faults E24: the message says what is wrong, and that it is TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    engine = ScriptedEngine()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    transport = new_transport(carrier, f"https://127.0.0.1:{port}")
    with pytest.raises(EngineMisconfigured, match=r"TLS: .*CERTIFICATE_VERIFY_FAILED"):
        await call(transport, 2.0)
    await transport.aclose()
    server.close()
    assert engine.requests == []


async def test_a_cancelled_call_ends_at_once_and_leaves_the_pool_usable(
    server: ScriptedEngine, transport: Transport
) -> None:
    server.script("complete", *[Play(hold=asyncio.Event())] * 4)
    calls = [asyncio.create_task(call(transport)) for _ in range(4)]
    await server.asked("complete", 4)
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (await call(transport)).status == 200


def test_every_error_is_an_engine_error() -> None:
    assert issubclass(EngineDisconnected, EngineUnavailable)
    assert issubclass(ReplyTooLarge, EngineUnavailable)
    assert issubclass(EngineMisconfigured, EngineError)


def test_the_client_follows_our_rules() -> None:
    """protocol.md R12."""
    client = new_client("http://127.0.0.1:1", None, connections=3)
    assert client.follow_redirects is False
    assert client.trust_env is False
    assert client.timeout == httpx.Timeout(None)
