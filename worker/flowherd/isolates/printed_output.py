"""Lines of the worker's log for what an isolate prints, at a bounded share of the loop's time.

Nothing here is hurt by how much that is or what it is (faults.md A17): who floods its pipes waits, and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flowherd.sdk.redaction import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CHUNK_BYTES = 16 * 1024
LONGEST_LINE = 2000  # bytes; what is longer becomes several, as a line of the log holds 4 KiB
_MOST_CHUNKS = 64  # a pipe holds no more, unless somebody goes on to write
MOST_LINES = 50  # in one turn of the loop
LINE_S = 0.0004  # the pause after each; whoever prints waits meanwhile, once its pipe is full

_log = logging.getLogger(__name__)


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
        """From now on this mark ends the output of the present activity, wherever in a line it stands."""
        self._mark = mark_bytes(mark)

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
        self._has_all = True
        self._log_some()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        self._rest += data
        self._has_all = not data
        self._loop.remove_reader(self._fd)
        self._log_some()

    def _log_some(self) -> None:
        """Logs what may be logged in one turn, and reads on when that was all."""
        begin = count = 0
        while count < MOST_LINES and (end := self._end_of_line(begin)):
            self._log_one(bytes(self._rest[begin:end]))
            begin, count = end, count + 1
        del self._rest[:begin]
        if count == MOST_LINES or not self._has_all:
            following = self._log_some if count == MOST_LINES else self._resume
            self._timer = self._loop.call_later(count * LINE_S, following)

    def _resume(self) -> None:
        self._loop.add_reader(self._fd, self._read)

    def _end_of_line(self, begin: int) -> int:
        """Of a long line only so much, and a mark at its end is never cut; 0 when there is no whole line."""
        longest = LONGEST_LINE + len(self._mark)
        end = self._rest.find(b"\n", begin, begin + longest) + 1
        if end and (
            end - begin <= LONGEST_LINE or (self._mark and self._rest.endswith(self._mark, begin, end))
        ):
            return end
        if end or len(self._rest) - begin >= longest:
            return begin + LONGEST_LINE
        return len(self._rest) if self._has_all and begin < len(self._rest) else 0

    def _log_one(self, line: bytes) -> None:
        is_last = bool(self._mark) and line.endswith(self._mark)
        text = line.removesuffix(self._mark).decode(errors="replace").rstrip("\r\n")
        if text.strip():
            self._log(text)
        if is_last:
            self._mark = b""
            self._ended()


def mark_bytes(mark: str) -> bytes:
    """The bytes that end an activity's output in a pipe."""
    return f"\0{mark}\0\n".encode()


class PrintedOutput:
    """The output of one isolate, on its stdout and stderr.

    Args:
        stdout: the pipe's reading end; does not block.
        stderr: the same.
        secrets: must not appear in the log.
        ended: called when an activity's output has ended in one of them.

    Attributes:
        ids: what each line is logged with.

    """

    def __init__(self, stdout: int, stderr: int, secrets: Iterable[str], ended: Callable[[], None]) -> None:
        self.ids: dict[str, Any] = {}
        self._secrets = tuple(secrets)
        self._pipes = (
            Lines(stdout, partial(self._log, logging.INFO, "activity_stdout"), ended),
            Lines(stderr, partial(self._log, logging.WARNING, "activity_stderr"), ended),
        )

    @property
    def is_over(self) -> bool:
        """All that the last activity has printed is in the log."""
        return not any(pipe.is_awaited for pipe in self._pipes)

    def begin(self, ids: Mapping[str, Any], mark: str) -> None:
        """From now on, what is printed belongs to this activity, up to the mark."""
        self.ids = dict(ids)
        for pipe in self._pipes:
            pipe.expect(mark)

    def stop(self) -> None:
        """Reads no more."""
        for pipe in self._pipes:
            pipe.stop()

    def finish(self) -> None:
        """Reads and logs what the isolate has printed, which has ended; its pipes may be closed then."""
        for pipe in self._pipes:
            pipe.finish()

    def _log(self, level: int, event: str, line: str) -> None:
        _log.log(level, event, extra={**self.ids, "line": mask(line, self._secrets)})
