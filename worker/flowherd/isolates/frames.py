"""Frames on a stream socket: a message as JSON and the bytes that belong to it, after the length of each.

A reader, and a worker's end that never blocks.
"""

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

HEAD = struct.Struct(">II")
MAX_BYTES = 2**32 - 1  # of a message, and of what belongs to it
_MOST_BUFFERS = 16  # handed to one system call

Buffer = bytes | bytearray | memoryview
Frame = tuple[bytearray, bytearray]


class FrameError(Exception):
    """The other end broke the rules, or ended in the middle of a frame."""


class StreamEnded(Exception):
    """The other end has closed the stream between two frames."""


def framed(message: Message, body: Buffer = b"") -> list[memoryview]:
    """A message and the bytes that belong to it, as buffers to send; the bytes are not copied.

    Raises:
        TypeError, ValueError, OverflowError: it cannot be said in a frame.

    """
    text, view = encode(message), memoryview(body)
    if max(len(text), view.nbytes) > MAX_BYTES:
        raise OverflowError(f"a frame of {len(text)} and {view.nbytes} bytes")
    head = memoryview(HEAD.pack(len(text), view.nbytes) + text)
    return [head, view] if view.nbytes else [head]


def drop_sent(buffers: deque[memoryview], count: int) -> None:
    """Takes away what a system call has sent."""
    while count:
        if count < buffers[0].nbytes:
            buffers[0] = buffers[0][count:]
            return
        count -= buffers.popleft().nbytes


class FrameReader:
    """Puts frames together; each part is received right into its place, so that it is copied once.

    Args:
        most_message: a longer message is an error, in bytes.
        most_body: the same for what belongs to it.

    """

    def __init__(self, most_message: int, most_body: int) -> None:
        self._limits = most_message, most_body
        self._head = bytearray(HEAD.size)
        self._frame: Frame | None = None  # while its head is awaited
        self._unfilled: list[bytearray] = []
        self._filled = 0  # bytes of the first of these, or of the head

    def read(self, sock: socket.socket) -> Frame | None:
        """Receives what there is of a frame; the frame, once it is whole.

        Raises:
            StreamEnded: between two frames.
            FrameError: within one, or it is too long.
            BlockingIOError: the socket does not block and has nothing.

        """
        if self._frame is None:
            if not self._fill(sock, self._head):
                return None
            sizes = HEAD.unpack(self._head)
            if any(size > limit for size, limit in zip(sizes, self._limits, strict=True)):
                raise FrameError(f"it announced {sizes[0]} bytes, and {sizes[1]} that belong to them")
            self._frame = bytearray(sizes[0]), bytearray(sizes[1])
            self._unfilled = [part for part in self._frame if part]
        while self._unfilled:
            if not self._fill(sock, self._unfilled[0]):
                return None
            del self._unfilled[0]
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
        most_message: see `FrameReader`.
        most_body: as above.
        readable: called on the running loop when there is something to read, until it is closed.

    """

    def __init__(
        self, sock: socket.socket, most_message: int, most_body: int, readable: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._reader = FrameReader(most_message, most_body)
        self._unsent: deque[memoryview] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), readable)

    def read(self) -> Frame | None:
        """See `FrameReader.read`; None also when there is nothing, OSError when the other end is gone."""
        try:
            return self._reader.read(self._sock)
        except BlockingIOError:
            return None

    def send(self, message: Message, body: Buffer = b"") -> None:
        """Sends a message and the bytes that belong to it; without effect when nobody reads any more.

        Raises:
            TypeError, ValueError, OverflowError: it cannot be said in a frame; nothing was sent.

        """
        waits = bool(self._unsent)
        self._unsent += framed(message, body)
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
