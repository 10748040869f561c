"""Parses HTTP replies from bytes, one after another and within bounds; without I/O."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from flowherd.transport.wire_format import MalformedReply, OversizedReply, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
MAX_INTERIM_REPLIES = 8
_OVERHEAD_PER_BYTE = 16  # bytes of chunked framing allowed per byte of body: one-byte chunks take 5


class Stage(enum.Enum):
    """The stage that a reply has reached."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    DONE = enum.auto()


# Module constants, because an enum lookup costs as much as the comparison.
_IDLE, _HEAD, _BODY, _DONE = Stage.IDLE, Stage.HEAD, Stage.BODY, Stage.DONE


class Headers(Mapping[str, str]):
    """Headers as text, decoded on access; for a repeated name, the last value."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        wanted = name.encode("latin-1", "replace")
        for key, value in reversed(self._raw):
            if key == wanted:
                return value.decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1") for name, _ in self._raw))

    def __len__(self) -> int:
        return len({name for name, _ in self._raw})


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A cached head of a reply that has a length and keeps its connection open.

    An engine's replies to outcomes have identical heads within one second (their Date header), so the last parsed head
    can be reused.
    """

    raw: bytes
    status: int
    headers: list[tuple[bytes, bytes]]
    text: Headers
    length: int


class Heads:
    """The cache of the last head, shared by all connections of a pool."""

    def __init__(self) -> None:
        self.latest: KnownHead | None = None


class ReplyReader:
    """Parses a reply; strict where leniency could split one reply into two or assign it to another request.

    Args:
        heads: the cache shared with other connections to the same origin.

    Attributes:
        fault: the error that makes a whole reply impossible.
        keep_alive: True when the connection may carry another exchange.
        known: the reply's head, if it came from the cache.

    """

    def __init__(self, heads: Heads | None = None) -> None:
        self._heads = heads or Heads()
        self._parser = HttpResponseParser(self)
        self.begin(0)
        self.stage = _IDLE

    def begin(self, most_bytes: int) -> None:
        """Resets the parser before a request; `most_bytes` limits the body."""
        self.stage = _HEAD
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._first = b""
        self._all: BytesIO | None = None  # of a body in several pieces
        self._length = 0  # as announced
        self.known: KnownHead | None = None
        self.fault: WireError | None = None
        self.keep_alive = False
        self.received = self._size = self._fields = self._head_bytes = self._interim = 0
        self._ends_with_connection = False
        self._most_bytes = most_bytes

    @property
    def is_whole(self) -> bool:
        """True when the last byte has arrived."""
        return self.stage is _DONE

    @property
    def body(self) -> bytes:
        """The body of a whole reply."""
        return self._first if self._all is None else self._all.getvalue()

    def forget_body(self) -> None:
        """Frees its memory."""
        self._first, self._all = b"", None

    def feed(self, data: bytes) -> None:
        """Parses more bytes; an error sets `fault`, and bytes after a whole reply clear `keep_alive`."""
        if self.stage is _IDLE or self.is_whole:
            self.keep_alive = False  # bytes without a request must not pass for the reply to the next one
            return
        known = self._heads.latest
        if (
            known is not None
            and not self.received
            and len(data) - len(known.raw) == known.length <= self._most_bytes
            and data.startswith(known.raw)
        ):
            self._take(known, data)
            return
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._refuse("a switch of protocols")
        except HttpParserError as error:
            self.keep_alive = False
            self._refuse(str(error))
        if self.is_whole:
            if self.keep_alive and self.received == len(data):
                self._learn(data)
        elif self.received - self._size > MAX_HEAD_BYTES + _OVERHEAD_PER_BYTE * self._size:
            self._refuse("more framing than a reply needs")

    def _take(self, known: KnownHead, data: bytes) -> None:
        """Takes a whole reply with a cached head, without the parser, which is between two replies before and after."""
        self.known = known
        self.status, self.headers = known.status, known.headers
        self.received, self._size = len(data), known.length
        if known.length:
            self._first = data[len(known.raw) :]
        self.keep_alive = True
        self.stage = _DONE

    def _learn(self, data: bytes) -> None:
        """Caches the head of a reply that arrived in one piece, if nothing about it is unusual."""
        length = self.header(b"content-length")
        ends = data.find(b"\r\n\r\n") + 4
        is_usual = length == b"%d" % self._size and len(data) - ends == self._size
        if is_usual and not self._interim and not self.header(b"content-encoding"):
            text = Headers(self.headers)
            head = KnownHead(data[:ends], self.status, self.headers, text, self._size)
            self._heads.latest = head

    def end(self) -> None:
        """Handles an orderly end of the connection, which completes a body without a length."""
        self.keep_alive = False
        if self.stage is _BODY and self._ends_with_connection and self.fault is None:
            self.stage = _DONE

    def header(self, name: bytes) -> bytes:
        """Returns all values of a header, joined by commas."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else b", ".join(values)

    def _refuse(self, reason: str) -> None:
        if self.stage is not _DONE and self.fault is None:
            self.fault = MalformedReply(f"no reply in HTTP/1.1: {reason}")

    def _stop(self, fault: WireError) -> WireError:
        """Records the fault and returns it, to be raised so that the parser stops."""
        self.keep_alive = False
        if self.stage is not _DONE and self.fault is None:
            self.fault = fault
        return fault

    # Called by the parser

    def on_message_begin(self) -> None:
        if self.stage is not _HEAD:
            raise self._stop(MalformedReply("a second reply"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            raise self._stop(MalformedReply("more headers than a reply needs"))
        if self.stage is _HEAD:  # trailers are dropped
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self.status = parser.get_status_code()
        if self.status < 200:
            return
        if parser.get_http_version() not in {"1.1", "1.0"}:
            raise self._stop(MalformedReply("no reply in HTTP/1.1: another version"))
        length = self.header(b"content-length")
        coding = self.header(b"transfer-encoding")
        if coding and coding.lower() != b"chunked":
            raise self._stop(MalformedReply(f"transfer-encoding {coding[:40]!r} that nobody asked for"))
        self.keep_alive = parser.should_keep_alive()
        self._ends_with_connection = not length and not coding
        self.stage = _BODY
        self._length = int(length) if length.isdigit() else 0
        if self._length > self._most_bytes:
            raise self._stop(OversizedReply(f"a reply of {self._length} bytes"))

    def on_body(self, data: bytes) -> None:
        if self.stage is not _BODY:
            raise self._stop(MalformedReply("a body where none belongs"))
        self._size += len(data)
        if self._size > self._most_bytes:
            raise self._stop(OversizedReply(f"a reply of more than {self._most_bytes} bytes"))
        if self._size == len(data):
            self._first = data
            return
        if self._all is None:
            self._all = BytesIO(
                bytes(self._length)
            )  # its room, once: a large body is in memory once at any time
            self._all.write(self._first)
            self._first = b""
        self._all.write(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.stage = _DONE
            return
        self._interim += 1
        if self._interim > MAX_INTERIM_REPLIES:
            raise self._stop(MalformedReply("interim replies without end"))
        self.headers.clear()
