"""The connection pool against generated replies, another parser, and a malicious server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import socket
import struct
from typing import TYPE_CHECKING

import h11
import pytest
from httptools import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from flowherd.client.kruxia import new_transport
from flowherd.errors import EngineUnavailable
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.reply_parser import ReplyReader
from flowherd.transport.wire_format import base_path_of, checked_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import DrawFn

CAP = 4096
FIXED_SEED = 20_261_124
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.!~", min_size=1, max_size=12)
VALUE = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20)
FRAMING = {"content-length", "transfer-encoding", "connection", "upgrade", "trailer"}


# Replies


@st.composite
def replies(draw: DrawFn) -> tuple[bytes, int, bytes]:
    """A reply in good order, its status and its body."""
    status = draw(st.integers(200, 599).filter(lambda status: status not in {204, 304}))
    body = draw(st.binary(max_size=300))
    fields = draw(st.dictionaries(TOKEN.filter(lambda name: name not in FRAMING), VALUE, max_size=5))
    lines = [f"HTTP/1.1 {status} {draw(VALUE)}", *(f"{name}: {value}" for name, value in fields.items())]
    if draw(st.booleans()):
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        return head.encode() + body, status, body
    data = "\r\n".join([*lines, "transfer-encoding: chunked", "", ""]).encode()
    at = 0
    while at < len(body):
        size = draw(st.integers(1, len(body) - at))
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"']))
        data += b"%x%b\r\n%b\r\n" % (size, extension, body[at : at + size])
        at += size
    trailers = draw(st.dictionaries(TOKEN.filter(lambda name: name not in FRAMING), VALUE, max_size=2))
    data += b"0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in trailers.items()).encode() + b"\r\n"
    return data, status, body


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[begin:end] for begin, end in itertools.pairwise(places) if begin < end)


def fed(reader: ReplyReader, data: bytes, cuts: list[int]) -> ReplyReader:
    reader.begin(CAP)
    for piece in pieces(data, cuts):
        reader.feed(piece)
        if reader.fault is not None:
            break
    return reader


CUTS = st.lists(st.integers(0, 2000), max_size=12)


@given(st.lists(replies(), min_size=1, max_size=3), CUTS)
def test_a_reply_in_good_order_is_read_as_it_was_meant(
    sent: list[tuple[bytes, int, bytes]], cuts: list[int]
) -> None:
    """One reader for all of them, as on a connection that is kept."""
    reader = ReplyReader()
    for data, status, body in sent:
        fed(reader, data, cuts)
        assert (reader.is_whole, reader.fault) == (True, None)
        assert (reader.status, reader.body) == (status, body)
        assert reader.keep_alive


@given(replies(), CUTS, st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 8))
def test_a_spoilt_reply_never_means_something_else_to_us_than_to_another_parser(
    sent: tuple[bytes, int, bytes], cuts: list[int], place: int, put_in: bytes, taken_out: int
) -> None:
    """Smuggling needs two parsers that disagree: if h11 reads a whole reply, too, it is the same one."""
    at = place % (len(sent[0]) + 1)
    data = sent[0][:at] + put_in + sent[0][at + taken_out :]
    reader = fed(ReplyReader(), data, cuts)
    assert not (reader.is_whole and reader.fault)
    theirs = h11_reads(data)
    if reader.is_whole and theirs is not None:
        assert (reader.status, reader.body) == theirs


def h11_reads(data: bytes) -> tuple[int, bytes] | None:
    """The status and body of the first whole reply, by h11."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    with contextlib.suppress(h11.RemoteProtocolError):
        connection.receive_data(data)
        while (event := connection.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            match event:
                case h11.Response():
                    status = event.status_code
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    return status, body
    return None


# Requests


class OneRequest:
    """What a server's parser makes of our bytes."""

    def __init__(self, data: bytes) -> None:
        self.requests = 0
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.requests += 1

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


ANYTHING = st.text(max_size=30) | st.sampled_from(
    ["/a HTTP/1.1\r\nx: y", "/\r\n\r\nGET /evil HTTP/1.1", "/a\nb", "/\0", "/%0d%0a", "/\u010d\u010a"]
)


@given(ANYTHING)
def test_a_route_is_one_target_or_nothing(route: str) -> None:
    """Header injection: whatever an activity's id would be."""
    try:
        target = checked_target(
            base_path_of("http://h/base").encode() + b"/" + route.encode("utf-8", "replace")
        )
    except ValueError:
        return
    request = OneRequest(b"POST " + target + b" HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")
    assert (request.requests, request.target) == (1, target)
    assert [name for name, _ in request.headers] == [b"host", b"content-length"]


# A server that means harm


TRICKS = ("fine", "fine", "cut", "reset", "spoilt", "large", "interim")


class EvilServer:
    """Replies to each request with its own text, in any framing, and adds, cuts, delays or corrupts at random."""

    def __init__(self, seed: int, tricks: tuple[str, ...]) -> None:
        self.rng = random.Random(seed)
        self.tricks = tricks
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                if not await self._answer(writer, await reader.readexactly(length)):
                    break
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, said: bytes) -> bool:
        data, must_close = self._framed(said)
        match self.rng.choice(self.tricks):
            case "surplus" if not must_close:  # else it is body
                data += self._framed(b"evil")[0][: self.rng.choice([1, 40, 10_000])]
            case "cut":
                data, must_close = data[: self.rng.randrange(len(data))], True
            case "spoilt":
                at = self.rng.randrange(data.index(b"\r\n\r\n"))
                data = data[:at] + self.rng.choice([b"\0", b"\r", b"\n\n", b" :"]) + data[at:]
                must_close = True  # it may have become a reply that waits for more
            case "large":
                data = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * CAP) + b"evil" * (CAP // 2)
            case "interim":
                data = b"HTTP/1.1 103 Early\r\nlink: evil\r\n\r\n" * self.rng.choice([1, 3, 20]) + data
            case "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
        for piece in pieces(data, [self.rng.randrange(1 << 16) for _ in range(self.rng.randrange(4))]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # a packet of its own, mostly
        return not must_close

    def _framed(self, body: bytes) -> tuple[bytes, bool]:
        match self.rng.randrange(3):
            case 0:
                return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), False
            case 1:
                chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
                return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", False
            case _:
                return b"HTTP/1.1 200 OK\r\n\r\n" + body, True


@pytest.mark.parametrize("carrier", ["httpx", "direct"])
async def test_whatever_a_server_does_a_call_has_its_own_reply_or_none(carrier: str) -> None:
    """Smuggling, faults E2, E3, E15: four callers on two connections, each reply says whose it is."""
    seed = FIXED_SEED if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    # httpcore keeps what follows a reply, and the next request is answered with it: ours must not.
    evil = EvilServer(seed, TRICKS if carrier == "httpx" else (*TRICKS, "surplus"))
    server = await asyncio.start_server(evil.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = new_transport(
        WorkerConfig(api_url=url, transport=carrier),
        None,
        connections=2,  # type: ignore[arg-type]
    )
    good = 0

    async def ask(number: int) -> None:
        nonlocal good
        mine = f"reply-{number};".encode()
        with contextlib.suppress(EngineUnavailable):
            reply = await transport.call("/x/complete", mine, 2.0, max_reply_bytes=CAP)
            good += reply.body == mine
            assert set(re.findall(rb"reply-\d+;|evil", reply.body)) <= {mine}
            if carrier != "httpx":  # h11 ends a head at a bare line feed: then its rest is body
                assert mine.startswith(reply.body), "no more than a body that the connection's end has cut"

    async def ask_often(caller: int) -> None:
        for number in range(100):
            await ask(caller * 1000 + number)

    async with asyncio.timeout(30.0), asyncio.TaskGroup() as callers:
        for caller in range(4):
            callers.create_task(ask_often(caller))
    assert good >= 100, "the server does nothing but harm"
    await transport.aclose()
    server.close()
    await asyncio.gather(*evil.serving)
