"""Frames on a stream socket: four bytes of length, then JSON; it knows neither messages nor loops."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

HEAD = struct.Struct(">I")
CHUNK_BYTES = 64 * 1024
MAX_FRAME_BYTES = 2**32 - 1

Buffer = bytes | bytearray | memoryview


class FrameError(Exception):
    """The other end broke the rules, or ended in the middle of a frame."""


class StreamEnded(Exception):
    """The other end has closed the stream between two frames."""


def head_of(frame: Buffer) -> bytes:
    """What goes before a frame; OverflowError when no head can say its length."""
    size = frame.nbytes if isinstance(frame, memoryview) else len(frame)
    if size > MAX_FRAME_BYTES:
        raise OverflowError(f"a frame of {size} bytes")
    return HEAD.pack(size)


class FrameReader:
    """Puts frames together; the body of a large one is received right into its place, so that it is copied once.

    Args:
        limit: a longer frame is an error, in bytes.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._large: bytearray | None = None
        self._filled = 0

    def read(self, sock: socket.socket) -> list[bytes | bytearray]:
        """Receives once and returns the frames that are whole now.

        Raises:
            StreamEnded: between two frames.
            FrameError: within one, or it is too long.
            BlockingIOError: the socket does not block and has nothing.

        """
        if self._large is not None:
            return self._read_large(sock, self._large)
        data = sock.recv(CHUNK_BYTES)
        if not data:
            if self._rest:
                raise FrameError("it ended in the middle of a frame")
            raise StreamEnded
        self._rest += data
        return list(self._whole_ones())

    def _read_large(self, sock: socket.socket, frame: bytearray) -> list[bytes | bytearray]:
        with memoryview(frame) as view:
            received = sock.recv_into(view[self._filled :])
        if not received:
            raise FrameError("it ended in the middle of a frame")
        self._filled += received
        if self._filled < len(frame):
            return []
        self._large = None
        return [frame]

    def _whole_ones(self) -> Iterator[bytes]:
        begin = 0
        while len(self._rest) - begin >= HEAD.size:
            (length,) = HEAD.unpack_from(self._rest, begin)
            if length > self._limit:
                raise FrameError(f"it announced a frame of {length} bytes")
            end = begin + HEAD.size + length
            if end > len(self._rest):
                if length > CHUNK_BYTES:
                    self._begin_large(begin + HEAD.size, length)
                    return
                break
            yield bytes(self._rest[begin + HEAD.size : end])
            begin = end
        del self._rest[:begin]

    def _begin_large(self, begin: int, length: int) -> None:
        self._large = bytearray(length)
        self._filled = len(self._rest) - begin
        self._large[: self._filled] = self._rest[begin:]
        self._rest.clear()
