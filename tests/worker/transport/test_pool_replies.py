"""The reader of replies: split anywhere, cut anywhere, malformed, doubled, without end; nothing else is a reply."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from replies_kit import CAP, CHUNKED, EMPTY, INTERIM, MALFORMED, PLAIN, SEED, WHOLE, mutated, read, seen

from flowherd.transport.reply_parser import ReplyReader, Stage
from flowherd.transport.wire_format import MalformedReply, OversizedReply


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
    assert (reader.is_whole, reader.body, reader.keep_alive) == (True, b"abcdef", False)


def test_a_large_body_is_in_memory_once() -> None:
    """Also while its last piece arrives."""
    size, piece = 10_000_000, b"x" * 50_000
    reader = ReplyReader()
    reader.begin(2 * size)
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    tracemalloc.start()
    try:
        for _ in range(size // len(piece)):
            reader.feed(piece)
        assert len(reader.body) == size
        assert tracemalloc.get_traced_memory()[1] < 1.1 * size
    finally:
        tracemalloc.stop()


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
    assert len(reader.body) <= CAP


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


def test_one_reader_reads_one_reply_after_another() -> None:
    reader = ReplyReader()
    for raw in [PLAIN, CHUNKED, INTERIM, EMPTY] * 3:
        reader.begin(CAP)
        reader.feed(raw)
        assert seen(reader) == seen(read(raw))


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
            assert len(reader.body) <= CAP
            reader.end()
            if reader.is_whole and whole.is_whole:
                assert seen(reader)[1][:3] == seen(whole)[1][:3], (number, raw)  # type: ignore[index]
            assert reader.is_whole == whole.is_whole, (number, raw)
