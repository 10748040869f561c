"""Small makers for the worker's tests: ledgers, berths, forked processes; it asserts nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowherd.ledger import Berth, Ledger, RecordBook


def open_berth(ledger: Ledger, *, seat: int = 0, incarnation: int = 1) -> Berth:
    """A berth that its worker has not opened yet."""
    berth = ledger.free_berth()
    assert berth is not None
    berth.open(seat=seat, incarnation=incarnation, now=1.0)
    return berth


def claim(book: RecordBook, name: str = "resize", *, activity_id: str = "a-1") -> tuple[int, int]:
    """A CLAIMED record; returns its index and sequence."""
    return book.claim(activity_id, "w-1", name, now=10.0, lease_s=60.0)


@contextlib.contextmanager
def child_that(work: Callable[[], None]) -> Iterator[int]:
    """A forked process that runs `work`; killed and reaped at the end if it still runs."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):  # the parent sees the exit code
            work()
            os._exit(0)
        os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
