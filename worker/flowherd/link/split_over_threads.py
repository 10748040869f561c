"""Splits the supervisor's commands to one process over its worker threads. Pure.

The worker threads of a process share its link, so messages about an isolate carry a key that identifies its worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.link.messages import IsolateEnded, IsolateStarted, SetSlots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.link.messages import Downward

MOST_WORKERS = 1024


def spread(total: int, parts: int) -> tuple[int, ...]:
    """Returns even shares, larger ones first: 10 over 4 is 3, 3, 2, 2 (faults.md P18)."""
    share, rest = divmod(total, parts)
    return tuple(share + (number < rest) for number in range(parts))


def joint_key(worker: int, key: int) -> int:
    """The process's own key for the isolate that one of its workers, numbered from 0, calls `key`."""
    return key * MOST_WORKERS + worker


def whose_key(key: int) -> tuple[int, int]:
    """The worker, and what it calls that isolate."""
    own, worker = divmod(key, MOST_WORKERS)
    return worker, own


def orders_of(message: Downward, workers: int) -> Iterator[tuple[int, Downward]]:
    """Yields the command for each worker from a command to the process."""
    match message:
        case SetSlots(limit, n):
            for worker, share in enumerate(spread(limit, workers)):
                yield worker, SetSlots(share, n)
        case IsolateStarted(key, pid):
            worker, own = whose_key(key)
            yield worker, IsolateStarted(own, pid)
        case IsolateEnded(key, status, reason):
            worker, own = whose_key(key)
            yield worker, IsolateEnded(own, status, reason)
        case _:
            for worker in range(workers):
                yield worker, message
