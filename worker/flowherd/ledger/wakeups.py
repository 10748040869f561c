"""The descriptors that all processes of a host inherit: eventfds that wake a process, and the file that counts permits.

Neither carries data: the ledger does.
"""

from __future__ import annotations

import contextlib
import os


class Wakeups:
    """An eventfd for each segment and for the keeper, and a file; made before the first fork, inherited by all.

    Args:
        segments: how many segments the ledger has.

    """

    def __init__(self, segments: int) -> None:
        self._fds = tuple(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(segments + 1))
        self._permits = os.memfd_create("permits", os.MFD_CLOEXEC)

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors: what a child must not close."""
        return (*self._fds, self._permits)

    @property
    def permits(self) -> int:
        """The file whose locked bytes are permits (`flowherd.ledger.permits`)."""
        return self._permits

    @property
    def keeper(self) -> int:
        """The keeper's descriptor, to wait on."""
        return self._fds[-1]

    def of(self, segment: int) -> int:
        """The descriptor that the incarnation in `segment` waits on."""
        return self._fds[segment]

    def wake(self, segment: int) -> None:
        """Wakes the incarnation in `segment`; many rings before it looks are one."""
        _add(self._fds[segment])

    def wake_keeper(self) -> None:
        """Wakes the keeper."""
        _add(self._fds[-1])

    @staticmethod
    def clear(fd: int) -> None:
        """Takes note of all rings so far."""
        with contextlib.suppress(BlockingIOError):  # nobody rang
            os.eventfd_read(fd)

    def close(self) -> None:
        """Closes all descriptors of this process."""
        for fd in self.fds:
            os.close(fd)


def _add(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # full: it rings already
        os.eventfd_write(fd, 1)
