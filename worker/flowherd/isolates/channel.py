"""The worker's end of the socket to one isolate, on the loop; it knows no activities."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING

from flowherd.isolates.frames import Buffer, FrameReader, head_of
from flowherd.isolates.isolate_protocol import encode

if TYPE_CHECKING:
    from flowherd.isolates.isolate_protocol import Saying

_MOST_BUFFERS = 16  # handed to one system call


class Channel:
    """Frames both ways; what the socket does not take at once is sent when it does, without a copy.

    Args:
        sock: one end of a stream; does not block.
        limit: longest frame to receive, in bytes.

    """

    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._sock = sock
        self._reader = FrameReader(limit)
        self._unsent: deque[memoryview] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_waiting = False

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._sock.fileno()

    def read(self) -> list[bytes | bytearray]:
        """See `FrameReader.read`; nothing when there is nothing, OSError when the other end is gone."""
        try:
            return self._reader.read(self._sock)
        except BlockingIOError:
            return []

    def say(self, saying: Saying, follows: Buffer | None = None) -> None:
        """Sends a message, and the frame that belongs to it; without effect when nobody reads any more.

        Raises:
            TypeError, ValueError, OverflowError: it cannot be said in a frame of JSON; nothing was sent.

        """
        frames: list[Buffer] = [encode(saying), *([] if follows is None else [follows])]
        heads = [head_of(frame) for frame in frames]
        for head, frame in zip(heads, frames, strict=True):
            self._unsent += (memoryview(head), memoryview(frame))  # no frame of JSON is empty
        if not self._is_waiting:
            self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                buffers = [self._unsent[index] for index in range(min(len(self._unsent), _MOST_BUFFERS))]
                self._note_sent(self._sock.sendmsg(buffers, [], socket.MSG_NOSIGNAL))
        except BlockingIOError:
            if not self._is_waiting:
                self._is_waiting = True
                self._loop.add_writer(self._sock.fileno(), self._send)
            return
        except OSError:
            self._unsent.clear()  # it has ended: its reader is told
        self._stop_waiting()

    def _note_sent(self, count: int) -> None:
        while count:
            first = self._unsent[0]
            if count < first.nbytes:
                self._unsent[0] = first[count:]
                return
            count -= first.nbytes
            self._unsent.popleft()

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._sock.fileno())

    def close(self) -> None:
        """Closes this end: the isolate ends."""
        self._stop_waiting()
        self._unsent.clear()
        self._sock.close()
