"""Heads that are read once: knowing one never changes what a reply is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from replies_kit import (
    CAP,
    CHUNKED,
    CLOSING,
    EMPTY,
    INTERIM,
    MALFORMED,
    OLD,
    PLAIN,
    SEED,
    mutated,
    read,
    seen,
)

from flowherd.transport.reply_parser import Heads, ReplyReader
from flowherd.transport.wire_format import OversizedReply

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD = PLAIN[: PLAIN.index(b"{")]
OTHERS = {
    "longer than its length": PLAIN + b"x",
    "two replies": PLAIN + PLAIN,
    "shorter than its length": PLAIN[:-1],
    "a longer length": PLAIN.replace(b": 21", b": 22"),
    "one more header": HEAD[:-2] + b"x: y\r\n\r\n" + PLAIN[len(HEAD) :],
    "another status": PLAIN.replace(b"200 OK", b"500 No"),
    "in capitals": PLAIN.replace(b"content-length", b"Content-Length"),
    "nothing but a head": HEAD,
    "chunked": CHUNKED,
    "closing": CLOSING,
    "empty": EMPTY,
    "interim": INTERIM,
    "old": OLD,
}


def reader_that_knows(raw: bytes, heads: Heads | None = None) -> ReplyReader:
    """One that has read this reply before, on this connection or another."""
    reader = ReplyReader(heads)
    reader.begin(CAP)
    reader.feed(raw)
    reader.begin(CAP)
    return reader


def facts(reader: ReplyReader) -> tuple[object, ...]:
    return *seen(reader), type(reader.fault), reader.stage


def test_the_same_head_is_read_once_and_each_body_is_its_own() -> None:
    reader = reader_that_knows(PLAIN)
    assert reader.known is None
    body = b'{"acknowledged":nope}'
    reader.feed(HEAD + body)
    assert reader.known is not None
    assert (reader.is_whole, reader.keep_alive, reader.received) == (True, True, len(PLAIN))
    assert seen(reader) == seen(read(HEAD + body))
    assert reader.known.text["content-length"] == "21"


def test_what_one_connection_has_read_another_knows() -> None:
    heads = Heads()
    reader_that_knows(PLAIN, heads)
    other = ReplyReader(heads)
    other.begin(CAP)
    other.feed(PLAIN)
    assert other.known is heads.latest is not None


@pytest.mark.parametrize(
    "known", [PLAIN, EMPTY, CHUNKED, INTERIM], ids=["plain", "empty", "chunked", "interim"]
)
@pytest.mark.parametrize("raw", (OTHERS | MALFORMED).values(), ids=(OTHERS | MALFORMED).keys())
def test_a_reader_with_a_known_head_reads_all_others_as_one_without(known: bytes, raw: bytes) -> None:
    """Smuggling: only the same bytes mean the same."""
    reader = reader_that_knows(known)
    reader.feed(raw)
    assert facts(reader) == facts(read(raw))


def in_pieces(raw: bytes, rng: random.Random) -> Iterable[bytes]:
    cut = rng.choice([len(raw), len(HEAD), rng.randrange(len(raw) + 1)])
    return (part for part in (raw[:cut], raw[cut:]) if part)


def test_no_bytes_are_read_otherwise_for_what_came_before_them() -> None:
    """Seeded: 4,000 connections that know a head, each with a mutated reply in one or two pieces, then a good one."""
    rng = random.Random(SEED)
    taken = 0
    for number in range(4000):
        raw = mutated(rng) if rng.random() < 0.8 else rng.choice([PLAIN, EMPTY])
        pieces = list(in_pieces(raw, rng))
        expected, reader = read(*pieces), reader_that_knows(PLAIN)
        for piece in pieces:
            reader.feed(piece)
            if reader.fault is not None:
                break
        assert facts(reader) == facts(expected), (number, raw)
        taken += reader.known is not None
        if reader.is_whole and reader.keep_alive:
            reader.begin(CAP)
            reader.feed(PLAIN)
            assert seen(reader) == seen(read(PLAIN)), (number, raw)
    assert taken > 50


def test_a_known_head_that_announces_too_much_is_refused_as_ever() -> None:
    reader = reader_that_knows(PLAIN)
    reader.begin(20)
    reader.feed(PLAIN)
    assert isinstance(reader.fault, OversizedReply)


@pytest.mark.parametrize(
    "raw",
    [
        CLOSING,
        CHUNKED,
        INTERIM,
        EMPTY,
        HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + PLAIN[len(HEAD) :],
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\r\n\r\n",  # ends as a head would, and two bytes later
    ],
    ids=["closing", "chunked", "interim", "without a length", "compressed", "line ends after it"],
)
def test_an_unusual_head_is_read_each_time(raw: bytes) -> None:
    heads = Heads()
    reader_that_knows(raw, heads)
    assert heads.latest is None


def test_a_head_that_came_in_pieces_is_not_remembered() -> None:
    heads = Heads()
    reader = ReplyReader(heads)
    reader.begin(CAP)
    reader.feed(HEAD)
    reader.feed(PLAIN[len(HEAD) :])
    assert reader.is_whole
    assert heads.latest is None
