"""The isolate's end of the socket to its worker; it knows no activities."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from flowherd.isolates.frames import drop_sent, framed

if TYPE_CHECKING:
    import socket

    from flowherd.isolates.frames import Buffer
    from flowherd.isolates.isolate_protocol import Message


class WorkerConnection:
    """Sends frames to the worker, from any thread; each whole, however long the worker does not read.

    Args:
        sock: one end of a stream that blocks.

    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lock = threading.Lock()

    def send(self, message: Message, follows: Buffer | None = None) -> None:
        """Sends a message and the frame that belongs to it.

        Raises:
            OSError: the worker has gone.
            UnicodeEncodeError: its text is no text.

        """
        buffers = deque(framed(message, follows))
        with self._lock:
            while buffers:
                drop_sent(buffers, self.sock.sendmsg(buffers))

    def close(self) -> None:
        """For a copy of this process that a handler has forked: it must not send in the name of the original."""
        self.sock.close()
