"""Lines that an isolate prints, read from its pipes at a bounded share of the loop's time.

Nothing here is hurt by how much that is or what it is (faults.md A17): who floods its pipes waits, and nobody else.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 16 * 1024
LONGEST_LINE = 2000  # bytes; what is longer becomes several, as a line of the log holds 4 KiB
_MOST_CHUNKS = 64  # a pipe holds no more, unless somebody goes on to write
MOST_LINES = 50  # in one turn of the loop
LINE_S = 0.0004  # the pause after each; whoever prints waits meanwhile, once its pipe is full
_LINE = re.compile(rb"[^\n]{0,%d}\n|[^\n]{%d}" % (LONGEST_LINE - 1, LONGEST_LINE))


def mark_bytes(mark: str) -> bytes:
    """The bytes that end an activity's output in a pipe: a line of its own, also after half a line."""
    return f"\n\0{mark}\0\n".encode()


class Lines:
    """Reads a pipe on the running loop, line by line, with a pause after what it has logged.

    Args:
        fd: does not block; must stay open until `stop`.
        log: called for each line that is not blank.
        ended: called when the mark has come, once for each `expect`.

    """

    def __init__(self, fd: int, log: Callable[[str], None], ended: Callable[[], None]) -> None:
        self._fd = fd
        self._log = log
        self._ended = ended
        self._mark = b""
        self._rest = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)
        self._has_all = False  # that is ever printed

    @property
    def is_awaited(self) -> bool:
        """The output of an activity has not ended."""
        return bool(self._mark)

    def expect(self, mark: str) -> None:
        """From now on this mark ends the output of the present activity."""
        self._mark = mark_bytes(mark).lstrip(b"\n")

    def stop(self) -> None:
        """Reads no more."""
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()

    def finish(self) -> None:
        """Reads what is there and no more; what of it may not be logged now is logged soon."""
        self.stop()
        with suppress(BlockingIOError):
            for _ in range(_MOST_CHUNKS):
                self._rest += os.read(self._fd, CHUNK_BYTES)
        self._take(b"")

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._fd, CHUNK_BYTES)
            self._loop.remove_reader(self._fd)
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Takes what was printed; nothing at its end, where half a line is one."""
        self._rest += data or b"\n"
        self._has_all = not data
        self._log_some()

    def _log_some(self) -> None:
        """Logs what may be logged in one turn, and reads on when that was all."""
        begin = count = 0
        while count < MOST_LINES and (line := _LINE.match(self._rest, begin)):
            self._log_one(line[0])
            begin, count = line.end(), count + 1
        del self._rest[:begin]
        if count == MOST_LINES or not self._has_all:
            following = self._log_some if count == MOST_LINES else self._resume
            self._timer = self._loop.call_later(count * LINE_S, following)

    def _resume(self) -> None:
        self._loop.add_reader(self._fd, self._read)

    def _log_one(self, line: bytes) -> None:
        if line == self._mark:
            self._mark = b""
            self._ended()
        elif not line.isspace():
            self._log(line.decode(errors="replace").rstrip("\r\n"))
