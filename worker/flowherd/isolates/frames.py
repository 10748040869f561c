"""Frames on a stream socket, four bytes of length and then JSON: a reader, and a worker's end that never blocks."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from flowherd.isolates.isolate_protocol import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.isolates.isolate_protocol import Message

HEAD = struct.Struct(">I")
MAX_FRAME_BYTES = 2**32 - 1
_MOST_BUFFERS = 16  # handed to one system call

Buffer = bytes | bytearray | memoryview


class FrameError(Exception):
    """The other end broke the rules, or ended in the middle of a frame."""


class StreamEnded(Exception):
    """The other end has closed the stream between two frames."""


def head_of(frame: Buffer) -> bytes:
    """The bytes before a frame; OverflowError when they cannot hold its length."""
    size = frame.nbytes if isinstance(frame, memoryview) else len(frame)
    if size > MAX_FRAME_BYTES:
        raise OverflowError(f"a frame of {size} bytes")
    return HEAD.pack(size)


def framed(message: Message, follows: Buffer | None = None) -> list[memoryview]:
    """A message and the frame that belongs to it, as buffers to send; nothing is copied.

    Raises:
        TypeError, ValueError, OverflowError: it cannot be said in a frame of JSON.

    """
    frames: list[Buffer] = [encode(message), *([] if follows is None else [follows])]
    return [memoryview(part) for frame in frames for part in (head_of(frame), frame)]


def drop_sent(buffers: deque[memoryview], count: int) -> None:
    """Takes away what a system call has sent."""
    while count:
        if count < buffers[0].nbytes:
            buffers[0] = buffers[0][count:]
            return
        count -= buffers.popleft().nbytes


class FrameReader:
    """Puts frames together; each is received right into its place, so that it is copied once.

    Args:
        limit: a longer frame is an error, in bytes.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = bytearray(HEAD.size)
        self._frame: bytearray | None = None  # while its head is awaited
        self._filled = 0

    def read(self, sock: socket.socket) -> bytearray | None:
        """Receives what there is of a frame; the frame, once it is whole.

        Raises:
            StreamEnded: between two frames.
            FrameError: within one, or it is too long.
            BlockingIOError: the socket does not block and has nothing.

        """
        if self._frame is None:
            if not self._fill(sock, self._head):
                return None
            (length,) = HEAD.unpack(self._head)
            if length > self._limit:
                raise FrameError(f"it announced a frame of {length} bytes")
            self._frame = bytearray(length)
        if self._frame and not self._fill(sock, self._frame):
            return None
        frame, self._frame = self._frame, None
        return frame

    def _fill(self, sock: socket.socket, place: bytearray) -> bool:
        with memoryview(place) as view:
            received = sock.recv_into(view[self._filled :])
        if not received:
            if self._frame is None and not self._filled:
                raise StreamEnded
            raise FrameError("it ended in the middle of a frame")
        self._filled = (self._filled + received) % len(place)
        return not self._filled


class Channel:
    """Frames both ways; what the socket does not take at once is sent when it does, without a copy.

    Args:
        sock: one end of a stream; does not block.
        limit: longest frame to receive, in bytes.
        readable: called on the running loop when there is something to read, until it is closed.

    """

    def __init__(self, sock: socket.socket, limit: int, readable: Callable[[], None]) -> None:
        self._sock = sock
        self._reader = FrameReader(limit)
        self._unsent: deque[memoryview] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), readable)

    def read(self) -> bytearray | None:
        """See `FrameReader.read`; None also when there is nothing, OSError when the other end is gone."""
        try:
            return self._reader.read(self._sock)
        except BlockingIOError:
            return None

    def send(self, message: Message, follows: Buffer | None = None) -> None:
        """Sends a message, and the frame that belongs to it; without effect when nobody reads any more.

        Raises:
            TypeError, ValueError, OverflowError: it cannot be said in a frame of JSON; nothing was sent.

        """
        waits = bool(self._unsent)
        self._unsent += framed(message, follows)
        if not waits:
            self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                buffers = [self._unsent[index] for index in range(min(len(self._unsent), _MOST_BUFFERS))]
                drop_sent(self._unsent, self._sock.sendmsg(buffers, [], socket.MSG_NOSIGNAL))
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._send)
            return
        except OSError:
            self._unsent.clear()  # it has ended: its reader is told
        self._stop(self._loop.remove_writer)

    def _stop(self, remove: Callable[[int], bool]) -> None:
        if self._sock.fileno() >= 0:  # else it is closed
            remove(self._sock.fileno())

    def stop_listening(self) -> None:
        """Reads no more."""
        self._stop(self._loop.remove_reader)

    def close(self) -> None:
        """Closes this end: the isolate ends."""
        self._stop(self._loop.remove_reader)
        self._stop(self._loop.remove_writer)
        self._unsent.clear()
        self._sock.close()
