"""The channel between the supervisor and a child, for messages and descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from flowherd.link.messages import MAX_BYTES, Message, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_FDS = 5


class LinkClosed(Exception):
    """The other end is closed, or does not read."""


class LinkFull(LinkClosed):
    """The other end does not read."""


class Link:
    """An end of a SOCK_SEQPACKET channel: each message is one JSON object; EOF means the other process has ended.

    Args:
        sock: one end of `socketpair(AF_UNIX, SOCK_SEQPACKET)`.

    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(None)  # the app may have set another default

    def __repr__(self) -> str:
        return f"<Link fd {self._sock.fileno()}>"

    @classmethod
    def of(cls, fd: int) -> Link:
        """Returns the link for a descriptor that another process has sent."""
        return cls(socket.socket(fileno=fd))

    @staticmethod
    def pair() -> tuple[Link, Link]:
        """Returns two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Link(left), Link(right)

    def fileno(self) -> int:
        """Returns the descriptor, to wait on."""
        return self._sock.fileno()

    def set_blocking(self, blocking: bool) -> None:  # noqa: FBT001 - the name of the socket's own switch
        """Sets whether `receive` blocks."""
        self._sock.setblocking(blocking)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends one message with its descriptors.

        Raises:
            LinkClosed: the other end is closed; LinkFull, the socket is full because it does not read.

        """
        try:
            if fds:
                socket.send_fds(self._sock, [encode(message)], list(fds))
            else:
                self._sock.send(encode(message))
        except BlockingIOError as error:
            raise LinkFull(str(error)) from None
        except OSError as error:  # also EBADF: a handler closed all descriptors (faults.md A14)
            raise LinkClosed(str(error)) from None

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Returns the next message's bytes and descriptors, or None when a non-blocking link has none.

        Raises:
            LinkClosed: the other end is closed.

        """
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, MAX_BYTES, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:  # as above
            raise LinkClosed(str(error)) from None
        if not data:
            for fd in fds:
                os.close(fd)
            raise LinkClosed("end of file")
        return data, fds

    def refuse_more(self) -> None:
        """Stops the other end from sending; messages already sent can still be received, then EOF."""
        with contextlib.suppress(OSError):  # the other end is closed
            self._sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Closes this end."""
        with contextlib.suppress(OSError):  # a handler closed all descriptors (faults.md A14)
            self._sock.close()
