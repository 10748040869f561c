"""Lines of the worker's log for what an isolate prints, at a bounded share of the loop's time.

Nothing here is hurt by how much that is or what it is (faults.md A17): who floods its pipes waits, and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from flowherd.sdk.redaction import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CHUNK_BYTES = 16 * 1024
LONGEST_LINE = 2000  # bytes; what is longer becomes several, as a line of the log holds 4 KiB
PAUSE_S = 0.02  # the other end waits meanwhile, once what is between us is full

_log = logging.getLogger(__name__)


class Share:
    """The lines of the log that one process may cost the loop: so many, then a pause.

    Args:
        most: within `PAUSE_S`.
        clock: monotonic seconds.

    """

    def __init__(self, most: int = 50, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._since = 0.0
        self._taken = 0

    @property
    def left(self) -> int:
        """Lines that are left now."""
        now = self._clock()
        if now - self._since >= PAUSE_S:
            self._since, self._taken = now, 0
        return self._most - self._taken

    def take(self) -> None:
        """Counts a line; below zero when somebody could not stop in time."""
        self._taken += 1


class Lines:
    """Reads a pipe on the running loop, line by line and up to a mark, with a pause whenever its share is used up.

    Args:
        fd: does not block; must stay open until `stop`.
        share: each line takes of it.
        log: called for each line that is not blank.
        marked: called when the mark has come, once for each `expect`.

    """

    def __init__(
        self,
        fd: int,
        share: Share,
        log: Callable[[str], None],
        marked: Callable[[], None] = lambda: None,
    ) -> None:
        self._fd = fd
        self._share = share
        self._log = log
        self._marked = marked
        self._mark = b""
        self._rest = bytearray()
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def expect(self, mark: str) -> None:
        """From now on this mark ends the output of the present activity, wherever in a line it stands."""
        self._mark = mark_bytes(mark)

    def stop(self) -> None:
        """Reads no more."""
        if not self._is_over:
            self._is_over = True
            self._loop.remove_reader(self._fd)
            if self._timer is not None:
                self._timer.cancel()

    def settle(self) -> bool:
        """Logs what has been printed until now; False when it may not log all of it yet."""
        while self._log_some():
            if not self._fill():
                self._log_rest()
                return True
        return False

    def _read(self) -> None:
        """Logs what it may of what it has, and reads a little when that is all."""
        if self._log_some() and self._fill():
            self._log_some()
        if self._share.left <= 0 and not self._is_over:
            self._loop.remove_reader(self._fd)
            self._timer = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._fd, self._read)
        self._read()  # of what it has read before its pause nothing tells the loop

    def _fill(self) -> bool:
        """Reads once; False when there was nothing."""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._rest += data
        if not data:
            self._log_rest()
            self.stop()
        return bool(data)

    def _log_some(self) -> bool:
        """Logs whole lines; False when there is another one that it may not log now."""
        begin = 0
        while (end := self._end_of_line(begin)) is not None:
            if self._share.left <= 0:
                break
            self._log_one(bytes(self._rest[begin:end]))
            begin = end
        del self._rest[:begin]
        return end is None

    def _end_of_line(self, begin: int) -> int | None:
        """Of a long line only so much; a mark at its end is never cut."""
        longest = LONGEST_LINE + len(self._mark)
        end = self._rest.find(b"\n", begin, begin + longest) + 1
        if end and (
            end - begin <= LONGEST_LINE or (self._mark and self._rest.endswith(self._mark, begin, end))
        ):
            return end
        return begin + LONGEST_LINE if end or len(self._rest) - begin >= longest else None

    def _log_rest(self) -> None:
        if self._rest:
            self._log_one(bytes(self._rest))
            self._rest.clear()

    def _log_one(self, line: bytes) -> None:
        is_last = bool(self._mark) and line.endswith(self._mark)
        if is_last:
            line = line.removesuffix(self._mark)
        self._share.take()
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.strip():
            self._log(text)
        if is_last:
            self._mark = b""
            self._marked()


def mark_bytes(mark: str) -> bytes:
    """The bytes that end an activity's output in a pipe."""
    return f"\0{mark}\0\n".encode()


class PrintedOutput:
    """The output of one isolate, on its stdout and stderr.

    Args:
        stdout: the pipe's reading end; does not block.
        stderr: the same.
        secrets: must not appear in the log.
        marked: called when an activity's output has ended in both.

    Attributes:
        ids: what each line is logged with.

    """

    def __init__(self, stdout: int, stderr: int, secrets: Iterable[str], marked: Callable[[], None]) -> None:
        self.ids: dict[str, Any] = {}
        self._secrets = tuple(secrets)
        self._all_marked = marked
        self._open = 0  # pipes in which the activity's output has not ended
        share = Share()
        self._pipes = (
            Lines(stdout, share, lambda line: self._log(logging.INFO, "activity_stdout", line), self._marked),
            Lines(
                stderr, share, lambda line: self._log(logging.WARNING, "activity_stderr", line), self._marked
            ),
        )

    @property
    def is_over(self) -> bool:
        """All that the last activity has printed is in the log."""
        return not self._open

    def begin(self, ids: Mapping[str, Any], mark: str) -> None:
        """From now on, what is printed belongs to this activity, up to the mark."""
        self.ids = dict(ids)
        self._open = len(self._pipes)
        for pipe in self._pipes:
            pipe.expect(mark)

    def settle(self) -> bool:
        """Logs what has been printed until now; False when there is more than may be logged at once."""
        settled = [pipe.settle() for pipe in self._pipes]
        return all(settled)

    def stop(self) -> None:
        """Reads no more."""
        for pipe in self._pipes:
            pipe.stop()

    def _marked(self) -> None:
        self._open -= 1
        if not self._open:
            self._all_marked()

    def _log(self, level: int, event: str, line: str) -> None:
        _log.log(level, event, extra={**self.ids, "line": mask(line, self._secrets)})
