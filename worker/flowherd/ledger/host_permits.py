"""Permits shared by all processes of a host, which the kernel releases when a process dies.

A permit is a record lock on one byte of an empty file, which every process inherits. Locks are tried, never waited for.
A lock belongs to the process, so a process that dies, in any way, releases its permits. A pool's bytes are contiguous,
at an offset derived from its name: a new incarnation with another limit counts the same bytes as the old one, and while
both run the larger limit applies.

A process that releases a permit wakes the next process, in the order of the segments, that waits for the same pool, and
then takes none itself for a moment, so that each has its turn. A dead process wakes none; waiting processes retry
by themselves.

Closing any descriptor of the file releases all permits of the process (fcntl(2)), so it is neither opened nor closed
here.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import threading
from hashlib import blake2b
from typing import TYPE_CHECKING

import structlog

from flowherd.ledger.permits import NotNow, OwnPermits, Permit
from flowherd.ledger.states_and_cells import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd.ledger.all_segments import Segments
    from flowherd.ledger.segment import Segment
    from flowherd.ledger.wakeups import Wakeups

RETRY_S = 0.25
YIELD_S = 0.05  # a woken sibling takes its turn within this time, or cannot
_MOST = 1 << 20  # bytes per pool; two names collide with a chance of 1 in 2^40
_WAITS = 64  # bits of the WAITS_FOR cell; a collision of two names costs a short delay

log = structlog.stdlib.get_logger(__name__)


class RecordLocks:
    """Locked bytes of a file, held by this process until it unlocks them or ends.

    To the kernel all threads are one process, and the first to unlock a byte would unlock it for all. Workers that are
    threads of one process must therefore share this object.

    Args:
        descriptor: the descriptor of the file.

    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held: set[int] = set()
        self._guard = threading.Lock()

    def try_lock(self, byte: int) -> bool:
        """Locks a byte; returns False when another process or thread holds it.

        Raises:
            OSError: the descriptor has been closed.

        """
        with self._guard:
            if byte in self._held:
                return False
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):  # POSIX allows either
                return False
            self._held.add(byte)
            return True

    def unlock(self, byte: int) -> None:
        """Unlocks a byte; without effect after the descriptor was closed, which has unlocked it."""
        with self._guard:
            self._held.discard(byte)
            with contextlib.suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)


class HostPermits:
    """`flowherd.ledger.permits.Permits` of one worker process among siblings.

    Args:
        locks: the locks of the host's file.
        wakeups: the wakeups of the host.
        segments: all segments of the ledger.
        own: this process's segment.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        locks: RecordLocks,
        wakeups: Wakeups,
        segments: Segments,
        own: Segment,
        clock: Callable[[], float],
    ) -> None:
        self._locks = locks
        self._wakeups = wakeups
        self._segments = segments
        self._own = own
        self._clock = clock
        self._held: set[Permit] = set()
        self._waiting: frozenset[str] = frozenset()
        self._yields_until: dict[str, float] = {}
        self._rng = random.Random()
        self._alone: OwnPermits | None = None

    def __repr__(self) -> str:
        return f"<HostPermits [{len(self._held)} held here]>"

    def take(self, pool: str, numbers: Sequence[int]) -> Permit | NotNow:
        """See `Permits.take`; a process that has not waited yet lets waiting ones go first."""
        if self._alone is not None:
            return self._alone.take(pool, numbers)
        now = self._clock()
        until = self._yields_until.pop(pool, now)
        if until <= now and pool not in self._waiting and self._next_for(pool) is not None:
            until = now + YIELD_S
        if until > now:
            self._yields_until[pool] = until
            return NotNow(until - now)
        try:
            return self._try_each(pool, numbers[:_MOST])
        except OSError as error:  # a handler closed all descriptors (faults.md A14)
            log.error(
                "permits_not_shared", reason=str(error), note="max_concurrent holds for this process alone"
            )
            self._alone = OwnPermits()
            return self._alone.take(pool, numbers)

    def _try_each(self, pool: str, numbers: Sequence[int]) -> Permit | NotNow:
        for permit in (Permit(pool, number) for number in numbers):
            if permit not in self._held and self._locks.try_lock(_byte_of(permit)):
                self._held.add(permit)
                return permit
        return NotNow(RETRY_S * self._rng.uniform(0.8, 1.2))

    def give_back(self, permit: Permit) -> None:
        """See `Permits.give_back`."""
        if self._alone is not None:
            self._alone.give_back(permit)
        if permit not in self._held:
            return
        self._held.discard(permit)
        self._locks.unlock(_byte_of(permit))
        if (following := self._next_for(permit.pool)) is not None:
            self._yields_until[permit.pool] = self._clock() + YIELD_S
            self._wakeups.wake(following)

    def say_waiting(self, pools: frozenset[str]) -> None:
        """See `Permits.say_waiting`."""
        if pools != self._waiting:
            self._waiting = pools
            self._own.put(Cell.WAITS_FOR, sum({_bit_of(pool) for pool in pools}))

    def _next_for(self, pool: str) -> int | None:
        """Returns the next segment in turn whose process waits for a permit of the pool, or None."""
        bit = _bit_of(pool)
        waiting = (segment.number for segment in self._others() if segment.get(Cell.WAITS_FOR) & bit)
        return next(waiting, None)

    def _others(self) -> Iterator[Segment]:
        """Yields all other live segments, beginning after this process's own."""
        living, own = self._segments.living(), self._own.number
        for number in (*(one for one in living if one > own), *(one for one in living if one < own)):
            if self._segments[number].readable:
                yield self._segments[number]


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="replace"), digest_size=5).digest(), "little")


def _byte_of(permit: Permit) -> int:
    return _digest(permit.pool) * _MOST + permit.number


def waits_for_permit(segment: Segment, pool: str) -> bool:
    """True when attempts wait in that segment's process for a permit of this pool."""
    return bool(segment.get(Cell.WAITS_FOR) & _bit_of(pool))


def _bit_of(pool: str) -> int:
    return 1 << _digest(pool) % _WAITS
