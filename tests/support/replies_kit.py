"""HTTP/1.1 replies as bytes, good, unusual and bad, with the result of parsing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.transport.reply_parser import MAX_HEAD_BYTES, MAX_HEADERS, MAX_INTERIM_REPLIES, ReplyReader

if TYPE_CHECKING:
    import random

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


def read(*parts: bytes, most_bytes: int = CAP) -> ReplyReader:
    reader = ReplyReader()
    reader.begin(most_bytes)
    for part in parts:
        reader.feed(part)
        if reader.fault is not None:
            break  # the connection is closed
    return reader


def seen(reader: ReplyReader) -> tuple[object, ...]:
    body = reader.body if reader.is_whole else b""
    return reader.is_whole, reader.is_whole and (reader.status, reader.headers, body, reader.keep_alive)


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
