"""Tracks the progress of a call through httpx, to find out when it is overdue (faults.md N8)."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import httpx

from flowherd.transport.stall_detection import LARGE_BODY_BYTES, stall_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOUNDED = (socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)  # the kernel doubles this
_KERNEL_BYTES = 1 << 20  # the buffers of kernel and loop together, with a margin
_TIMER_S = 0.001  # a timer may fire this much too early


class CallProgress:
    """Moves the deadline of one call as its bytes move, as far as that is visible through httpx.

    Bytes that the kernel has taken but not sent are not visible: a large body gets extra time for them.
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
        """Notes that httpx took a piece of a large body; a stall before the next piece ends the call."""
        self._moved_at = self._now()
        self.timeout.reschedule(min(self._overdue_at, self._moved_at + self._stall_s))

    def all_sent(self) -> None:
        """Notes that httpx took the last piece; from now on only the deadline counts."""
        self._moved_at = self._now()
        self.timeout.reschedule(self._overdue_at)

    def received(self, size: int) -> None:
        """Notes `size` bytes of the reply."""
        self._moved_at = self._now()
        self._overdue_at += size / self._bytes_per_s
        self.timeout.reschedule(self._overdue_at)

    @property
    def has_stalled(self) -> bool:
        """True when no bytes have moved for the time of a stall."""
        return self._now() - self._moved_at >= self._stall_s - _TIMER_S


class LargeBody(httpx.AsyncByteStream):
    """A request body sent in pieces, so that its progress is visible; it can be sent again from its start."""

    def __init__(self, body: bytes, progress: CallProgress) -> None:
        self._body = body
        self._progress = progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for begin in range(0, len(self._body), LARGE_BODY_BYTES):
            self._progress.sent()
            yield self._body[begin : begin + LARGE_BODY_BYTES]
        self._progress.all_sent()


def content_of(body: bytes, progress: CallProgress) -> bytes | LargeBody:
    """Returns the content for httpx: a large body in pieces, a small one itself."""
    return body if len(body) <= LARGE_BODY_BYTES else LargeBody(body, progress)
