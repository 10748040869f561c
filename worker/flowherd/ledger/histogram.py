"""Histograms of durations, whose buckets can be summed over processes. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKETS = 16  # the first ends at 1 ms, each further one at twice the one before; the last is open (from 16 s)
_FIRST_S = 0.001
CELLS = BUCKETS + 1  # the counts, and the total time in microseconds


class Timing(IntEnum):
    """Durations that each worker measures, besides those of activities (`flowherd.ledger.activity_counts`)."""

    POLL = 0  # a poll that was answered


def bucket_of(seconds: float) -> int:
    """Returns the bucket of a duration."""
    if seconds < _FIRST_S:
        return 0
    return min(int(seconds / _FIRST_S).bit_length(), BUCKETS - 1)


def upper_s(bucket: int) -> float:
    """Returns the upper bound of a bucket in seconds."""
    return _FIRST_S * 2.0**bucket if bucket < BUCKETS - 1 else float("inf")


def quantile_s(counts: Sequence[float], share: float) -> float | None:
    """Returns an upper bound of a quantile in seconds; None without durations, or in the last bucket."""
    total = sum(counts)
    if not total:
        return None
    seen = 0.0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= share * total:
            return None if bucket == BUCKETS - 1 else upper_s(bucket)
    return None
