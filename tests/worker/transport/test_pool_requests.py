"""What connections of our own put on the wire: one request line, the headers meant, the newest token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_engine import Play, ScriptedEngine

from flowherd.client.bearer_tokens import Token
from flowherd.errors import EngineUnavailable
from flowherd.transport.direct_transport import DirectTransport
from flowherd.transport.wire_format import Origin, header_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


ROUTE = "/api/v1/activities/x/complete"


@pytest.fixture
async def direct(server: ScriptedEngine) -> AsyncIterator[DirectTransport]:
    transport = DirectTransport(server.url, None, connections=2)
    yield transport
    await transport.aclose()


async def call(transport: DirectTransport, route: str = ROUTE, deadline_s: float = 5.0):
    return await transport.call(route, b"{}", deadline_s)


# What is sent


@pytest.mark.parametrize(
    "route",
    [
        "",
        "x",
        "/a b",
        "/a\r\nx-evil: 1",
        "/a\n",
        "/a\0",
        "/ä",
        "/a HTTP/1.1\r\n\r\nGET /b",
        "http://evil/",
        "\r\n/a",
    ],
)
async def test_a_route_stays_a_route(server: ScriptedEngine, direct: DirectTransport, route: str) -> None:
    """Header injection: nothing is sent."""
    with pytest.raises(ValueError, match="no request target"):
        await call(direct, route)
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\nb"),
        (b"x", b"a\0"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b"x:", b"a"),
    ],
)
def test_a_header_stays_one_header(name: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="no header") as raised:
        header_line(name, value)
    assert "b: c" not in str(raised.value)


class Tokens:
    def __init__(self, *values: str) -> None:
        self.values = values
        self.version = 1

    def known(self) -> None:
        return None

    async def current(self) -> Token:
        return Token(self.version, self.values[self.version - 1])

    async def renewed(self, refused: Token) -> Token:
        self.version = refused.version + 1
        return await self.current()


async def test_a_token_stays_a_value(server: ScriptedEngine) -> None:
    direct = DirectTransport(server.url, Tokens("a\r\nx-evil: 1"), connections=1)
    with pytest.raises(EngineUnavailable, match="no header can carry") as raised:
        await call(direct)
    assert "evil" not in str(raised.value)
    assert server.requests == []
    await direct.aclose()


async def test_a_new_token_is_sent_from_then_on(server: ScriptedEngine) -> None:
    """protocol.md §1.5: one replay, with the same body."""
    direct = DirectTransport(server.url, Tokens("one", "two"), connections=1)
    server.script("complete", Play(), Play(401, b""))
    for _ in range(3):
        await call(direct)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer one", "Bearer one", "Bearer two", "Bearer two"]
    await direct.aclose()


async def test_a_path_in_the_url_stands_before_every_route(server: ScriptedEngine) -> None:
    direct = DirectTransport(f"{server.url}/a b/", None, connections=1)
    await call(direct)
    assert server.requests[0].path == f"/a%20b{ROUTE}"
    await direct.aclose()


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://h", b"h"),
        ("https://h:443", b"h"),
        ("http://h:443", b"h:443"),
        ("http://[::1]:8080", b"[::1]:8080"),
        ("http://bücher.example", b"xn--bcher-kva.example"),
    ],
)
def test_the_host_header_names_what_was_asked_for(url: str, authority: bytes) -> None:
    assert Origin.of(url).authority == authority


@pytest.mark.parametrize("url", ["ftp://h", "h", "http://", "http://a b", "http://a\\b", "http://a\u2028b"])
def test_what_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.of(url)
