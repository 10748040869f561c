"""Cuts what a process prints into lines; it must not be hurt by how much or what that is (faults.md A17)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flowherd.isolates.reading import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.isolates.reading import Share

CHUNK_BYTES = 16 * 1024
LONGEST_LINE = 2000  # bytes; what is longer becomes several, as a line of the log holds 4 KiB


class Lines:
    """The reading end of a pipe.

    Args:
        fd: does not block.
        share: what saying a line costs is taken from it.
        say: called for each line that is not blank.

    """

    def __init__(self, fd: int, share: Share, say: Callable[[str], None]) -> None:
        self._fd = fd
        self._share = share
        self._say = say
        self._rest = bytearray()
        self._has_ended = False

    def turn(self) -> Turn:
        """Says what it may of what it has, and reads a little when that is all."""
        if not self._say_some():
            return Turn.PAUSE
        if self._read():
            return Turn.AGAIN if self._say_some() else Turn.PAUSE
        if not self._has_ended:
            return Turn.AGAIN
        self._say_rest()
        return Turn.OVER

    def settle(self) -> bool:
        """Says what has been printed until now; False when it may not say all of it yet."""
        while self._say_some():
            if not self._read():
                self._say_rest()
                return True
        return False

    def _read(self) -> bool:
        """Whether there was anything."""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._has_ended = not data
        self._rest += data
        return bool(data)

    def _say_some(self) -> bool:
        """Says whole lines; False when there is another one that it may not say now."""
        begin = 0
        while (end := self._end_of_line(begin)) is not None:
            if self._share.left <= 0:
                break
            self._say_one(bytes(self._rest[begin:end]))
            begin = end
        del self._rest[:begin]
        return end is None

    def _end_of_line(self, begin: int) -> int | None:
        newline = self._rest.find(b"\n", begin, begin + LONGEST_LINE)
        if newline >= 0:
            return newline + 1
        return begin + LONGEST_LINE if len(self._rest) - begin >= LONGEST_LINE else None

    def _say_rest(self) -> None:
        if self._rest:
            self._say_one(bytes(self._rest))
            self._rest.clear()

    def _say_one(self, line: bytes) -> None:
        self._share.take()
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.strip():
            self._say(text)
