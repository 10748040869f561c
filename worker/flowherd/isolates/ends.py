"""The three connections between a worker and an isolate, before anybody uses them."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

_SEND_BYTES = 1 << 20  # the kernel gives less if it is set up so


@dataclass(frozen=True, slots=True)
class OurEnds:
    """What the worker keeps; none of them blocks."""

    channel: socket.socket
    stdout: int
    stderr: int

    def close(self) -> None:
        """Closes all three."""
        self.channel.close()
        os.close(self.stdout)
        os.close(self.stderr)


@dataclass(frozen=True, slots=True)
class TheirEnds:
    """What the isolate gets: the channel's, and the writing ends of its stdout and stderr."""

    channel: socket.socket
    stdout: int
    stderr: int

    @property
    def fds(self) -> tuple[int, int, int]:
        """In the order of the message that asks for the isolate."""
        return self.channel.fileno(), self.stdout, self.stderr

    def close(self) -> None:
        """Closes this process's copies, once they have been sent."""
        self.channel.close()
        os.close(self.stdout)
        os.close(self.stderr)


def connect() -> tuple[OurEnds, TheirEnds]:
    """Fresh connections; OSError when there are no descriptors left."""
    with contextlib.ExitStack() as undo:
        pipes = []
        for _ in range(2):
            ends = os.pipe()
            for end in ends:
                undo.callback(os.close, end)
            pipes.append(ends)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.pop_all()
    ours.setblocking(False)  # noqa: FBT003 - the socket's own switch
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    (out_read, out_write), (err_read, err_write) = pipes
    for read in (out_read, err_read):
        os.set_blocking(read, False)
    return OurEnds(ours, out_read, err_read), TheirEnds(theirs, out_write, err_write)
