"""Checks from time to time if the bytes of an exchange still move (faults.md N8); it ends nothing."""

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
LARGE_BODY_BYTES = 64 << 10  # a body beyond it takes its time
_STALLS_AFTER = 1 / 3  # of a call's deadline, without a byte: 10 s of 30
_PACE = _STALLS_AFTER / 5  # of looks at what moves
_INFO_BYTES = 148
_UNACKED, _ACKED, _UNSENT = 24, 120, 144  # where the kernel's `struct tcp_info` has them


def stall_s(deadline_s: float) -> float:
    """Seconds without a byte in either direction after which a call with this deadline has stalled."""
    return deadline_s * _STALLS_AFTER


class Progress:
    """Of the exchange under way on one connection.

    Args:
        bytes_per_s: the least rate.

    Attributes:
        look_at: when `look` wants to be called.

    """

    __slots__ = ("_began_at", "_bytes_per_s", "_deadline_s", "_moved", "_moved_at", "_size", "look_at")

    def __init__(self, bytes_per_s: float = LEAST_BYTES_PER_S) -> None:
        self._bytes_per_s = bytes_per_s
        self._moved_at = 0.0
        self.look_at = math.inf

    def begin(self, began_at: float, deadline_s: float, size: int) -> None:
        """An exchange begins whose body has `size` bytes; a small one is left alone for as long as a stall takes."""
        self._began_at, self._deadline_s, self._size = began_at, deadline_s, size
        self._moved: tuple[int, int] | None = None
        self.look_at = began_at + deadline_s * (_STALLS_AFTER if size <= LARGE_BODY_BYTES else _PACE)

    def end(self) -> None:
        """Stops the checks."""
        self.look_at = math.inf

    def look(self, now: float, acked: int, received: int, *, is_sending: bool) -> Overdue | None:
        """The fault of an exchange that has to end, None for one that may go on.

        A small body is given until the deadline: an engine may take its time to answer, and none to take it in.

        Args:
            now: of the loop's clock.
            acked: bytes that the other side has acknowledged, counted from anywhere.
            received: bytes of the reply.
            is_sending: whether there are others that it has not.

        """
        stalls_after_s = stall_s(self._deadline_s)
        overslept = now > self.look_at + stalls_after_s / 2  # we: a frozen process has seen nothing
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
    """The error of a call that met its deadline."""
    kind = EngineUnavailable if has_stalled else CallTooSlow
    return kind(f"no complete reply within {deadline_s:g} s", in_doubt=True)


def bytes_acked(transport: asyncio.Transport) -> tuple[int, bool]:
    """The number of bytes the other side has acknowledged, and True while others are on their way: one system call.

    Where the kernel does not say, what it has taken from us has to do.
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
