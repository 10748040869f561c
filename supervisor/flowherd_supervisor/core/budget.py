"""Splits the host's concurrency over its processes; pure."""

from __future__ import annotations


def split(total: int, seats: int) -> tuple[int, ...]:
    """Even shares, the larger ones first: 10 over 4 is 3, 3, 2, 2 (faults.md P18).

    Raises:
        ValueError: a seat would get nothing; fewer processes must start instead.

    """
    if not 1 <= seats <= total:
        raise ValueError(f"{total} slots cannot be split over {seats} processes")
    share, rest = divmod(total, seats)
    return tuple(share + (number < rest) for number in range(seats))
