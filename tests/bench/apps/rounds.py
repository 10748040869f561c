"""A fixed amount of pure Python: what it takes longer beside others is lost; it knows no worker."""

from __future__ import annotations

import time


def work(rounds: int) -> int:
    """So many rounds of integers and a generator."""
    total = 0
    for _ in range(rounds):
        total += sum(number * number for number in range(100))
    return total


def rounds_of(seconds: float) -> int:
    """How many rounds take so long here, when nothing disturbs: the best of many tries."""
    rounds = 100
    best_s = min(_timed(rounds) for _ in range(50))
    return max(1, round(rounds * seconds / best_s))


def _timed(rounds: int) -> float:
    began_s = time.thread_time()
    work(rounds)
    return time.thread_time() - began_s
