"""Eventfds that wake a process which waits in its event loop; they carry no data: the ledger does."""

from __future__ import annotations

import contextlib
import os


class Bells:
    """One eventfd for each berth and one for the keeper, made before the first fork and inherited by all.

    Args:
        berths: how many berths the ledger has.

    """

    def __init__(self, berths: int) -> None:
        self._fds = tuple(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(berths + 1))

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors: what a child must not close."""
        return self._fds

    @property
    def keeper(self) -> int:
        """The keeper's descriptor, to wait on."""
        return self._fds[-1]

    def of(self, berth: int) -> int:
        """The descriptor that the incarnation in `berth` waits on."""
        return self._fds[berth]

    def ring(self, berth: int) -> None:
        """Wakes the incarnation in `berth`; many rings before it looks are one."""
        _add(self._fds[berth])

    def ring_keeper(self) -> None:
        """Wakes the keeper."""
        _add(self._fds[-1])

    @staticmethod
    def hush(fd: int) -> None:
        """Takes note of all rings so far."""
        with contextlib.suppress(BlockingIOError):  # nobody rang
            os.eventfd_read(fd)

    def close(self) -> None:
        """Closes all descriptors of this process."""
        for fd in self._fds:
            os.close(fd)


def _add(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # full: it rings already
        os.eventfd_write(fd, 1)
