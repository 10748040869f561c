"""A worker's requests to the supervisor to make and to kill isolates, and the connections that each one gets."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import KillIsolate, NeedIsolate
from flowherd.link.split_over_threads import joint_key

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEND_BYTES = 1 << 20  # the kernel gives less if it is set up so


class IsolateRequests:
    """Asks the supervisor for isolates; what became of one is told to `Isolates.started` and `.ended`.

    Args:
        link: to the supervisor; its answers come back the same way.
        worker: its number, where several workers of one process share the link.

    """

    def __init__(self, link: Link, worker: int | None = None) -> None:
        self._link = link
        self._worker = worker

    def _sent(self, key: int) -> int:
        return key if self._worker is None else joint_key(self._worker, key)

    def need(self, key: int, fds: Sequence[int]) -> None:
        """Asks for an isolate with these descriptors; OSError when nobody can be asked."""
        try:
            self._link.send(NeedIsolate(self._sent(key)), fds)
        except LinkClosed as error:
            raise OSError(f"the supervisor is gone ({error})") from None

    def kill(self, key: int) -> None:
        """Asks for SIGKILL to its group."""
        with contextlib.suppress(LinkClosed):  # with the supervisor its isolates end too
            self._link.send(KillIsolate(self._sent(key)))


@dataclass(frozen=True, slots=True)
class Ends:
    """A side of the connections between a worker and an isolate.

    Attributes:
        channel: for messages.
        stdout: the pipe of its output, as the next.
        stderr: the same.
        lifeline: a pipe that carries nothing. When the worker's end is closed, be it by its death, the kernel kills
            the isolate with its programs: also one that holds the GIL, or is stopped, and sees no end of its channel.

    """

    channel: socket.socket
    stdout: int
    stderr: int
    lifeline: int

    @property
    def fds(self) -> tuple[int, int, int, int]:
        """In the order of the message that asks for the isolate."""
        return self.channel.fileno(), self.stdout, self.stderr, self.lifeline

    def close(self) -> None:
        """Closes all."""
        self.channel.close()
        for fd in (self.stdout, self.stderr, self.lifeline):
            os.close(fd)


def connect() -> tuple[Ends, Ends]:
    """The worker's side, which never blocks, and the isolate's; OSError when there are no descriptors left."""
    with contextlib.ExitStack() as undo:
        pipes = []
        for _ in range(3):
            ends = os.pipe()
            for end in ends:
                undo.callback(os.close, end)
            pipes.append(ends)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.pop_all()
    ours.setblocking(False)  # noqa: FBT003 - the socket's own switch
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    (out_read, out_write), (err_read, err_write), (life_read, life_write) = pipes
    for read in (out_read, err_read):
        os.set_blocking(read, False)
    return Ends(ours, out_read, err_read, life_write), Ends(theirs, out_write, err_write, life_read)
