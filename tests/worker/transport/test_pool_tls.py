"""TLS in the connection pool: only with a valid name, in time, and from a known authority."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from scripted_engine import Play, ScriptedEngine

from flowherd.errors import EngineMisconfigured, EngineUnavailable
from flowherd.transport.direct_transport import DirectTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowherd.transport.transport import Transport

ROUTE = "/api/v1/activities/x/complete"
AUTHORITY = trustme.CA()
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@contextlib.asynccontextmanager
async def serving(certificate: Any, host: str = "127.0.0.1") -> AsyncIterator[ScriptedEngine]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    engine = ScriptedEngine()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=context)
    engine.url = f"https://{host}:{server.sockets[0].getsockname()[1]}"
    yield engine
    server.close()
    await engine.close_idle()


def trusting(authority: Any) -> ssl.SSLContext:
    """As `tls_context`, with one authority; both check names by default."""
    known = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(known)
    return known


@contextlib.asynccontextmanager
async def carrying(url: str, tls: ssl.SSLContext) -> AsyncIterator[Transport]:
    transport = DirectTransport(url, None, connections=2, tls=tls)
    yield transport
    await transport.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_with_a_valid_certificate_is_used(host: str) -> None:
    """And the connection is kept: a handshake costs more than a call."""
    async with serving(AUTHORITY.issue_cert(host), host) as engine:
        engine.script("complete", Play(200, b"x" * 500_000))
        async with carrying(engine.url, trusting(AUTHORITY)) as transport:
            assert len((await transport.call(ROUTE, b"{}", 5.0)).body) == 500_000
            for _ in range(4):
                assert (await transport.call(ROUTE, b"y" * 300_000, 5.0)).status == 200
            replies = await asyncio.gather(*(transport.call(ROUTE, b"{}", 5.0) for _ in range(20)))
        assert {reply.status for reply in replies} == {200}
        assert engine.connections <= 3


@pytest.mark.parametrize(
    ("certificate", "known", "words"),
    [
        (AUTHORITY.issue_cert("127.0.0.1"), trustme.CA(), "unable to get local issuer certificate"),
        (AUTHORITY.issue_cert("engine.example"), AUTHORITY, "IP address mismatch"),
        (AUTHORITY.issue_cert("127.0.0.1", not_after=LONG_AGO), AUTHORITY, "certificate has expired"),
    ],
    ids=["unknown authority", "another host", "expired"],
)
async def test_a_server_with_a_wrong_certificate_is_sent_nothing_and_the_reason_named(
    certificate: Any, known: Any, words: str
) -> None:
    """Faults E24."""
    async with serving(certificate) as engine:
        async with carrying(engine.url, trusting(known)) as transport:
            with pytest.raises(EngineMisconfigured, match=f"TLS: .*{words}") as raised:
                await transport.call(ROUTE, b"{}", 5.0)
            assert not raised.value.in_doubt
        assert engine.requests == []


async def test_a_host_that_is_named_is_checked_by_its_name() -> None:
    """Faults E24: a certificate for the address is none for the name."""
    async with serving(AUTHORITY.issue_cert("127.0.0.1"), "localhost") as engine:
        async with carrying(engine.url, trusting(AUTHORITY)) as transport:
            with pytest.raises(EngineMisconfigured, match="Hostname mismatch"):
                await transport.call(ROUTE, b"{}", 5.0)
        assert engine.requests == []


async def test_an_engine_that_speaks_only_an_old_tls_is_refused() -> None:
    """Faults E24: and the message says that it is the version."""

    async def know_only_tls_1_0(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 14)
        writer.write(bytes([21, 3, 1, 0, 2, 2, 70]))  # RFC 5246 §7.2: alert, fatal, protocol_version
        writer.close()

    server = await asyncio.start_server(know_only_tls_1_0, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with carrying(url, trusting(AUTHORITY)) as transport:
        with pytest.raises(EngineMisconfigured, match=r"TLS: .*PROTOCOL_VERSION"):
            await transport.call(ROUTE, b"{}", 5.0)
    server.close()


async def test_a_handshake_that_never_ends_meets_the_deadline() -> None:
    """Faults E3: it belongs to the call."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with carrying(url, trusting(AUTHORITY)) as transport:
        with pytest.raises(EngineUnavailable, match=r"within 0\.2 s"):
            await transport.call(ROUTE, b"{}", 0.2)
    server.close()


@pytest.mark.parametrize("how", ["reset_after", "close_after"])
@pytest.mark.parametrize("n", [0, 10, 60])
async def test_a_reply_cut_under_tls_is_an_outage(how: str, n: int) -> None:
    """Faults E2."""
    async with serving(AUTHORITY.issue_cert("127.0.0.1")) as engine:
        engine.script("complete", Play(200, b"x" * 100, **{how: n}))
        async with carrying(engine.url, trusting(AUTHORITY)) as transport:
            with pytest.raises(EngineUnavailable) as raised:
                await transport.call(ROUTE, b"{}", 5.0)
            assert raised.value.in_doubt
            assert (await transport.call(ROUTE, b"{}", 5.0)).status == 200
