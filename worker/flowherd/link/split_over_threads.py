"""Splits the supervisor's commands to one process over its worker threads. Pure.

The worker threads of a process share its link, so messages about an isolate carry a key that identifies its worker.
"""

from __future__ import annotations

from itertools import count
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


def keys_of(worker: int) -> Iterator[int]:
    """The keys of the isolates that one of the workers, numbered from 0, asks for: no other one has the same."""
    return count(MOST_WORKERS + worker, MOST_WORKERS)


def whose_key(key: int) -> tuple[int, int]:
    """The worker, and the number of that isolate among its own, from 1."""
    own, worker = divmod(key, MOST_WORKERS)
    return worker, own


def orders_of(message: Downward, workers: int) -> Iterator[tuple[int, Downward]]:
    """Yields the command for each worker from a command to the process."""
    match message:
        case SetSlots(limit, n):
            for worker, share in enumerate(spread(limit, workers)):
                yield worker, SetSlots(share, n)
        case IsolateStarted(key) | IsolateEnded(key):
            yield whose_key(key)[0], message
        case _:
            for worker in range(workers):
                yield worker, message
