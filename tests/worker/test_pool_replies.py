"""The reader of replies: split anywhere, cut anywhere, malformed, doubled, without end; nothing else is a reply."""

from __future__ import annotations

import random

import pytest

from flowherd.client.pool.reply import MAX_HEAD_BYTES, MAX_HEADERS, MAX_INTERIM_REPLIES, ReplyReader, Stage
from flowherd.client.pool.wire import MalformedReply, OversizedReply

SEED = 20_261_124
CAP = 1000
PLAIN = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{"acknowledged":true}'
)
CHUNKED = (
    b"HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n"
    b'5;ext="x"\r\n{"ack\r\n10\r\nnowledged":true}\r\n0\r\nx-trailer: 1\r\n\r\n'
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + PLAIN
CLOSING = PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
EMPTY = b"HTTP/1.1 204 No Content\r\nx-request-id: 7\r\n\r\n"
OLD = PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0")
WHOLE = {
    "plain": (PLAIN, True),
    "chunked": (CHUNKED, True),
    "interim": (INTERIM, True),
    "closing": (CLOSING, False),
    "empty": (EMPTY, True),
    "old": (OLD, False),
}


def read(*parts: bytes, most_bytes: int = CAP, is_bodiless: bool = False) -> ReplyReader:
    reader = ReplyReader()
    reader.begin(most_bytes, is_bodiless=is_bodiless)
    for part in parts:
        reader.feed(part)
        if reader.fault is not None:
            break  # the connection is closed
    return reader


def seen(reader: ReplyReader) -> tuple[object, ...]:
    body = b"".join(reader.chunks) if reader.is_whole else b""
    return reader.is_whole, reader.is_whole and (reader.status, reader.headers, body, reader.keep_alive)


@pytest.mark.parametrize("name", WHOLE)
def test_a_reply_is_the_same_wherever_it_is_split(name: str) -> None:
    """Packets end anywhere: every position, and every byte alone."""
    raw, keeps = WHOLE[name]
    whole = read(raw)
    assert (whole.is_whole, whole.fault, whole.keep_alive) == (True, None, keeps)
    for n in range(1, len(raw)):
        assert seen(read(raw[:n], raw[n:])) == seen(whole), n
    assert seen(read(*(raw[n : n + 1] for n in range(len(raw))))) == seen(whole)


@pytest.mark.parametrize("name", WHOLE)
def test_a_reply_cut_anywhere_is_no_reply(name: str) -> None:
    """Faults E2: in good order or not."""
    raw, _ = WHOLE[name]
    for n in range(len(raw)):
        reader = read(raw[:n])
        reader.end()
        assert not reader.is_whole, n


def test_a_reply_without_a_length_ends_with_its_connection() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")
    assert not reader.is_whole
    reader.end()
    assert (reader.is_whole, b"".join(reader.chunks), reader.keep_alive) == (True, b"abcdef", False)


MALFORMED = {
    "no HTTP": b"not http at all\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 abc OK\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nabcde",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    "list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nabcde",
    "huge length": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "bad chunk end": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "space in a name": b"HTTP/1.1 200 OK\r\ncontent length: 0\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "interim for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM_REPLIES + 1) + PLAIN,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1) + b"\r\ncontent-length: 0\r\n\r\n",
    "header for ever": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1),
    "reason for ever": b"HTTP/1.1 200 " + b"y" * (MAX_HEAD_BYTES + 1),
    "trailers for ever": CHUNKED[:-2] + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "extension for ever": CHUNKED[:53] + b"5;" + b"x" * (2 * MAX_HEAD_BYTES),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("size", [1 << 20, 4096, 7])
def test_what_is_no_reply_is_refused(name: str, size: int) -> None:
    """Faults E15: however it comes, and never by running out of memory or time."""
    raw = MALFORMED[name]
    reader = read(*(raw[n : n + size] for n in range(0, len(raw), size)))
    assert isinstance(reader.fault, MalformedReply | OversizedReply)
    assert not reader.is_whole
    assert not reader.keep_alive or reader.stage is not Stage.DONE


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1001,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 1001,
    ],
    ids=["announced", "until the end", "small chunks", "one chunk"],
)
def test_a_body_over_the_cap_is_refused_before_it_is_held(raw: bytes) -> None:
    reader = read(raw)
    assert isinstance(reader.fault, OversizedReply)
    assert sum(map(len, reader.chunks)) <= CAP


@pytest.mark.parametrize(
    "surplus",
    [
        PLAIN,
        b"HTTP/1.1 200 OK\r\n",
        b"x",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\0" * 9,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
@pytest.mark.parametrize(
    "raw", [PLAIN, CHUNKED, EMPTY, INTERIM], ids=["plain", "chunked", "empty", "interim"]
)
def test_bytes_after_a_reply_leave_it_alone_and_spoil_the_connection(raw: bytes, surplus: bytes) -> None:
    """Smuggling: the next request must not be answered with what was left over."""
    whole = seen(read(raw))
    for reader in (read(raw + surplus), read(raw, surplus)):
        assert seen(reader)[1][:3] == whole[1][:3]  # type: ignore[index]
        assert not reader.keep_alive


def test_trailers_do_not_become_headers() -> None:
    assert [name for name, _ in read(CHUNKED).headers] == [b"transfer-encoding"]


def test_headers_of_interim_replies_are_forgotten() -> None:
    assert [name for name, _ in read(INTERIM).headers] == [b"content-type", b"content-length"]


def test_a_reply_to_head_has_a_length_and_no_body() -> None:
    head = PLAIN[: PLAIN.index(b"{")]
    reader = read(head, is_bodiless=True)
    assert (reader.is_whole, reader.keep_alive, reader.chunks) == (True, True, [])
    assert not read(PLAIN, is_bodiless=True).keep_alive
    reader.begin(CAP)
    reader.feed(PLAIN)
    assert reader.is_whole


def test_one_reader_reads_one_reply_after_another() -> None:
    reader = ReplyReader()
    for raw in [PLAIN, CHUNKED, INTERIM, EMPTY] * 3:
        reader.begin(CAP)
        reader.feed(raw)
        assert seen(reader) == seen(read(raw))


def mutated(rng: random.Random) -> bytes:
    raw = bytearray(rng.choice([PLAIN, CHUNKED, INTERIM, CLOSING, EMPTY, OLD]))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0:
                raw[place : place + rng.randint(1, 8)] = b""
            case 1:
                raw[place:place] = rng.choice(
                    [b"\r\n", b"\n", b"\0", b" ", b":", b"0", b"9", b"chunked", PLAIN]
                )
            case 2:
                raw[place : place + 1] = bytes([rng.randrange(256)])
            case _:
                raw[place:place] = raw[rng.randrange(len(raw) + 1) :][:40]
        raw = raw or bytearray(b"\0")
    return bytes(raw)


def test_no_bytes_break_the_reader_and_no_split_changes_what_it_reads() -> None:
    """Faults E15; seeded, 4,000 mutations, each whole, in two and in many pieces."""
    rng = random.Random(SEED)
    for number in range(4000):
        raw = mutated(rng)
        whole = read(raw)
        cut = rng.randrange(len(raw) + 1)
        step = rng.randint(1, 9)
        pieces = [raw[n : n + step] for n in range(0, len(raw), step)]
        for reader in (whole, read(raw[:cut], raw[cut:]), read(*pieces)):
            assert not (reader.is_whole and reader.fault), (number, raw)
            assert sum(map(len, reader.chunks)) <= CAP
            reader.end()
            if reader.is_whole and whole.is_whole:
                assert seen(reader)[1][:3] == seen(whole)[1][:3], (number, raw)  # type: ignore[index]
            assert reader.is_whole == whole.is_whole, (number, raw)
