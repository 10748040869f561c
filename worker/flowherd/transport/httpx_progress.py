"""The progress of a call through httpx, and when it is overdue (faults.md N8); it sends nothing itself."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import httpx

from flowherd.transport.stall_detection import LARGE_BODY_BYTES, stall_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOUNDED = (socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)  # the kernel takes twice as much
_KERNEL_BYTES = 1 << 20  # that and what the loop holds back, with room to spare
_TIMER_S = 0.001  # a timer may be early by so much


class CallProgress:
    """Of one call: moves its deadline as its bytes move, as far as they can be seen through httpx.

    What the kernel has taken and not sent cannot: a large body is given the time that this may take besides.
    """

    def __init__(self, deadline_s: float, size: int, bytes_per_s: float) -> None:
        self._now = asyncio.get_running_loop().time
        self._bytes_per_s = bytes_per_s
        self._moved_at = self._now()
        self._overdue_at = self._moved_at + deadline_s + size / bytes_per_s
        self._stall_s = stall_s(deadline_s)
        until_sending = self._overdue_at
        if size > LARGE_BODY_BYTES:
            self._stall_s += min(size, _KERNEL_BYTES) / bytes_per_s
            until_sending = self._moved_at + deadline_s
        self.timeout = asyncio.timeout_at(until_sending)

    def sent(self) -> None:
        """A piece of a large body was taken, and others are left: too long a pause until the next ends the call."""
        self._moved_at = self._now()
        self.timeout.reschedule(min(self._overdue_at, self._moved_at + self._stall_s))

    def all_sent(self) -> None:
        """The last piece was taken: from now on only the deadline counts."""
        self._moved_at = self._now()
        self.timeout.reschedule(self._overdue_at)

    def received(self, size: int) -> None:
        """A piece of the reply came."""
        self._moved_at = self._now()
        self._overdue_at += size / self._bytes_per_s
        self.timeout.reschedule(self._overdue_at)

    @property
    def has_stalled(self) -> bool:
        """True when it is long ago that bytes moved."""
        return self._now() - self._moved_at >= self._stall_s - _TIMER_S


class LargeBody(httpx.AsyncByteStream):
    """A body in pieces, so that it can be seen how far it has come; it can be sent again from its start."""

    def __init__(self, body: bytes, progress: CallProgress) -> None:
        self._body = body
        self._progress = progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for begin in range(0, len(self._body), LARGE_BODY_BYTES):
            self._progress.sent()
            yield self._body[begin : begin + LARGE_BODY_BYTES]
        self._progress.all_sent()


def content_of(body: bytes, progress: CallProgress) -> bytes | LargeBody:
    """A body as httpx sends it: a large one in pieces."""
    return body if len(body) <= LARGE_BODY_BYTES else LargeBody(body, progress)
