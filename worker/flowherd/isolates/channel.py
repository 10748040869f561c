"""The connections of a worker and an isolate: packets with a file in memory, two pipes, a lifeline.

A packet is a message as JSON: it comes as a whole, and nobody waits in the middle of one. A message to which bytes
belong lies in the file with them, and the packet has their lengths. The file belongs to the isolate from `Begin` to
`Ended`, and to its worker at all other times.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from flowherd.isolates.isolate_protocol import MAX_UP_BYTES, encode
from flowherd.sdk.output import MAX_OUTPUT_BYTES

if TYPE_CHECKING:
    from flowherd.isolates.isolate_protocol import Message

MAX_BYTES = 0x7FFFF000  # of a message and what belongs to it: the kernel takes no more in one call
_PACKET_BYTES = 1 << 18
_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]

Buffer = bytes | bytearray | memoryview
Received = bytes | bytearray
Fds = tuple[int, int, int, int]


class ChannelBroken(Exception):
    """The other end broke the rules."""


class ChannelEnded(Exception):
    """The other end sends nothing any more."""


class Channel:
    """An end of the packets and the file.

    Args:
        sock: of a pair of SOCK_SEQPACKET.
        file: in memory, the same at the other end.
        most_message: a longer message in the file is an error, in bytes.
        most_body: the same for what belongs to it.

    """

    def __init__(self, sock: socket.socket, file: int, most_message: int, most_body: int) -> None:
        self._sock = sock
        self._file = file
        self._limits = most_message, most_body
        self._status = os.fstat(file)

    @classmethod
    def inherited(cls, fd: int) -> Channel:
        """The isolate's end; its worker has sent the file ahead of all messages."""
        sock = socket.socket(fileno=fd)
        sock.settimeout(None)  # the app may have set another default
        _, (file,), _, _ = socket.recv_fds(sock, 1, 1, socket.MSG_CMSG_CLOEXEC)
        return cls(sock, file, MAX_BYTES, MAX_BYTES)

    def fileno(self) -> int:
        """The descriptor, to wait on; negative when it is closed."""
        return self._sock.fileno()

    def send(self, message: Message, body: Buffer | None = None) -> None:
        """Sends a message, by the file where bytes belong to it; from any thread.

        Raises:
            TypeError, ValueError, OverflowError: it cannot be said; nothing was sent.
            OSError: the other end is gone.

        """
        packet = encode(message)
        if body is not None:
            packet = self._put(packet, body)
        self._sock.send(packet, socket.MSG_NOSIGNAL)

    def _put(self, text: bytes, body: Buffer) -> bytes:
        sizes = len(text), memoryview(body).nbytes
        if sum(sizes) > MAX_BYTES:
            raise OverflowError(f"a message of {sizes[0]} and {sizes[1]} bytes")
        if not os.path.samestat(self._status, os.fstat(self._file)):  # a handler has closed ours
            raise OSError(errno.EBADF, "its file is another one now")
        if os.pwritev(self._file, [text, body], 0) != sum(sizes):
            raise OverflowError("no file may be so large here")
        return msgspec.json.encode(sizes)

    def receive(self) -> tuple[Received, Received]:
        """The next message, and the bytes that belong to it.

        Raises:
            BlockingIOError: the socket does not block and has nothing.
            ChannelEnded: there are no more.
            ChannelBroken, msgspec.DecodeError: it is not as it should be.

        """
        try:
            packet = self._sock.recv(_PACKET_BYTES)
        except ConnectionResetError:  # it has not read everything; what it has sent comes after that
            packet = self._sock.recv(_PACKET_BYTES)
        if not packet:
            raise ChannelEnded
        if not packet.startswith(b"["):
            return packet, b""
        sizes = msgspec.json.decode(packet, type=tuple[_Size, _Size])
        if any(size > limit for size, limit in zip(sizes, self._limits, strict=True)):
            raise ChannelBroken(f"it announced {sizes[0]} bytes, and {sizes[1]} that belong to them")
        text, body = map(bytearray, sizes)
        if os.preadv(self._file, [text, body], 0) != sum(sizes):
            raise ChannelBroken("its file is shorter than it announced")
        os.ftruncate(self._file, 0)
        return text, body

    def end(self) -> None:
        """Sends nothing any more, and can still receive."""
        with contextlib.suppress(OSError):  # the other end is gone
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes this end."""
        if self._sock.fileno() >= 0:
            self._sock.close()
            os.close(self._file)


@dataclass(frozen=True, slots=True)
class Ends:
    """The worker's side of the connections, which never blocks.

    Attributes:
        channel: for messages.
        stdout: the pipe of the isolate's output, as the next.
        stderr: the same.
        lifeline: a pipe that carries nothing. When the worker's end is closed, be it by its death, the kernel kills
            the isolate with its programs: also one that holds the GIL, or is stopped, and sees no end of its channel.

    """

    channel: Channel
    stdout: int
    stderr: int
    lifeline: int

    def close(self) -> None:
        """Closes all."""
        self.channel.close()
        for fd in (self.stdout, self.stderr, self.lifeline):
            os.close(fd)


def connect() -> tuple[Ends, Fds]:
    """The worker's side, and the isolate's as its supervisor takes it; OSError when there are no descriptors left."""
    with contextlib.ExitStack() as undo:

        def opened(*fds: int) -> tuple[int, ...]:
            for fd in fds:
                undo.callback(os.close, fd)
            return fds

        (out, its_out), (err, its_err), (its_lifeline, lifeline) = (opened(*os.pipe()) for _ in range(3))
        (file,) = opened(os.memfd_create("isolate"))
        ours, its = map(undo.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        socket.send_fds(ours, [b"file"], [file])
        undo.pop_all()
    ours.settimeout(0)
    for pipe in (out, err):
        os.set_blocking(pipe, False)
    ends = Ends(Channel(ours, file, MAX_UP_BYTES, MAX_OUTPUT_BYTES), out, err, lifeline)
    return ends, (its.detach(), its_out, its_err, its_lifeline)
