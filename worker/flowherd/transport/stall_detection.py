"""Checks periodically whether the bytes of an exchange still move (faults.md N8)."""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING

from flowherd.errors import CallTooSlow, EngineUnavailable
from flowherd.transport.wire_format import Overdue

if TYPE_CHECKING:
    import asyncio

LEAST_BYTES_PER_S = 64 << 10  # a call's deadline grows by its bytes at this rate
LARGE_BODY_BYTES = 64 << 10  # larger bodies are watched from the start
_STALLS_AFTER = 1 / 3  # fraction of the deadline without a byte that makes a stall: 10 s of 30
_PACE = _STALLS_AFTER / 5  # fraction of the deadline between two checks
_INFO_BYTES = 148
_UNACKED, _ACKED, _UNSENT = 24, 120, 144  # offsets in the kernel's `struct tcp_info`


def stall_s(deadline_s: float) -> float:
    """Returns the seconds without a byte in either direction after which a call with this deadline has stalled."""
    return deadline_s * _STALLS_AFTER


class Progress:
    """The progress of the current exchange on one connection.

    Args:
        bytes_per_s: the rate at which the deadline grows with the bytes.

    Attributes:
        look_at: the time to call `look`, infinity when there is nothing to check.

    """

    __slots__ = ("_began_at", "_bytes_per_s", "_deadline_s", "_moved", "_moved_at", "_size", "look_at")

    def __init__(self, bytes_per_s: float = LEAST_BYTES_PER_S) -> None:
        self._bytes_per_s = bytes_per_s
        self._moved_at = 0.0
        self.look_at = math.inf

    def begin(self, began_at: float, deadline_s: float, size: int) -> None:
        """Begins an exchange with a body of `size` bytes; a small one is first checked after the time of a stall."""
        self._began_at, self._deadline_s, self._size = began_at, deadline_s, size
        self._moved: tuple[int, int] | None = None
        self.look_at = began_at + deadline_s * (_STALLS_AFTER if size <= LARGE_BODY_BYTES else _PACE)

    def end(self) -> None:
        """Ends the checks."""
        self.look_at = math.inf

    def look(self, now: float, acked: int, received: int, *, is_sending: bool) -> Overdue | None:
        """Returns the fault of an overdue exchange, None when it may go on.

        An exchange with a small body has until its deadline; a large body that stalls while it is sent is overdue.

        Args:
            now: seconds of the loop's clock.
            acked: bytes that the peer has acknowledged, relative to any origin.
            received: bytes of the reply so far.
            is_sending: True while there are bytes that the peer has not acknowledged.

        """
        stalls_after_s = stall_s(self._deadline_s)
        overslept = now > self.look_at + stalls_after_s / 2  # this process was frozen and saw nothing
        if self._moved != (acked, received) or overslept:
            self._moved, self._moved_at = (acked, received), now
        deadline_at = self._began_at + self._deadline_s + (self._size + received) / self._bytes_per_s
        has_stalled = now - self._moved_at >= stalls_after_s
        if now >= deadline_at or (has_stalled and is_sending and self._size > LARGE_BODY_BYTES):
            self.end()
            return Overdue("no complete reply in time", has_stalled=has_stalled)
        self.look_at = min(deadline_at, now + self._deadline_s * _PACE)
        return None


def late(deadline_s: float, *, has_stalled: bool) -> EngineUnavailable:
    """Returns the error of a call whose deadline passed."""
    kind = EngineUnavailable if has_stalled else CallTooSlow
    return kind(f"no complete reply within {deadline_s:g} s", in_doubt=True)


def bytes_acked(transport: asyncio.Transport) -> tuple[int, bool]:
    """Returns the bytes that the peer has acknowledged, and True while more are on their way; one system call.

    Where the kernel has no such figure, the bytes it has taken from the process are used.
    """
    waiting = transport.get_write_buffer_size()
    try:
        sock = transport.get_extra_info("socket")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        (acked,) = struct.unpack_from("=Q", info, _ACKED)
        unacked, unsent = (struct.unpack_from("=I", info, at)[0] for at in (_UNACKED, _UNSENT))
    except (OSError, AttributeError, struct.error):
        return -waiting, waiting > 0
    return acked, bool(waiting or unacked or unsent)
