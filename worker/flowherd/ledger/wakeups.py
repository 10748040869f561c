"""The descriptors that all processes of a host inherit: eventfds that wake a process, and the file of permits.

They carry no data, which is in the ledger.
"""

from __future__ import annotations

import contextlib
import os


class Wakeups:
    """An eventfd for each segment and for the keeper, and the file of permits; created before the first fork.

    Args:
        segments: the number of segments in the ledger.

    """

    def __init__(self, segments: int) -> None:
        self._fds = tuple(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(segments + 1))
        self._permits = os.memfd_create("permits", os.MFD_CLOEXEC)

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors; a child must not close them."""
        return (*self._fds, self._permits)

    @property
    def permits(self) -> int:
        """The descriptor of the file whose locked bytes are permits (`flowherd.ledger.host_permits`)."""
        return self._permits

    @property
    def keeper(self) -> int:
        """The keeper's descriptor, to wait on."""
        return self._fds[-1]

    def of(self, segment: int) -> int:
        """Returns the descriptor that the incarnation in `segment` waits on."""
        return self._fds[segment]

    def wake(self, segment: int) -> None:
        """Wakes the incarnation in `segment`; repeated calls before it reads the eventfd count as one."""
        _add(self._fds[segment])

    def wake_keeper(self) -> None:
        """Wakes the keeper."""
        _add(self._fds[-1])

    @staticmethod
    def clear(fd: int) -> None:
        """Clears all wakeups so far."""
        with contextlib.suppress(BlockingIOError):  # there were none
            os.eventfd_read(fd)

    def close(self) -> None:
        """Closes all descriptors of this process."""
        for fd in self.fds:
            os.close(fd)


def _add(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # the counter is full: it is awake already
        os.eventfd_write(fd, 1)
